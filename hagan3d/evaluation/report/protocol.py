"""The protocol: which sets are compared, in which features, by which distances. Its number changes when results would.

Generated volumes are judged against held-out real ones. What the same distance says between training volumes and
held-out ones is the floor: no model that learned from the former is expected to come below it.
"""

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hagan3d import __version__
from hagan3d.checkpoint import Model, load
from hagan3d.checkpoint.state_hash import generator_hash
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor, encoder_extractor, has_encoders, random_extractor
from hagan3d.evaluation.features.medicalnet import medicalnet_extractor
from hagan3d.evaluation.features.self_supervised import load_features
from hagan3d.evaluation.features.summary import FEATURES, Summary, VolumeSet, rescaled, similarity, summarize_set
from hagan3d.evaluation.metrics import voxels
from hagan3d.evaluation.metrics.classes import class_scores
from hagan3d.evaluation.metrics.distances import compare
from hagan3d.evaluation.metrics.fidelity import fidelity
from hagan3d.evaluation.settings import EvaluateConfig
from hagan3d.inference.encoding import inputs_of_store, latents
from hagan3d.inference.generation import samples

PROTOCOL = 1
PAIRS = (("generated", "held-out"), ("generated", "train"), ("train", "held-out"))
"""What is compared with what; the last is the floor."""

Start = Callable[[str, int], Callable[[int], None]]
"""Begins a piece of work (its name, its steps) and gives what to call with the steps done."""


@dataclass(frozen=True)
class Measured:
    """A measured run."""

    metrics: dict[str, Any]
    """Plain values, as in metrics.json."""
    summaries: dict[str, Summary]
    sets: dict[str, VolumeSet]


def pair_name(one: str, other: str) -> str:
    """Name of a comparison in metrics.json."""
    return f"{one} vs {other}"


def volume_sets(model: Model, store: Store, config: EvaluateConfig) -> dict[str, VolumeSet]:
    """Return the sets of the protocol: generated, held-out (validation and test) and train.

    Volumes that the store marks as generated are in none of them: real ones are the measure.

    Raises:
        InputError: If the sizes differ, or there are too few held-out or training volumes.
    """
    if store.size != model.description.size:
        raise InputError(
            f"{store.path}: volumes of {list(store.size)} voxels, but the model's are {list(model.description.size)}"
        )
    real = ~store.generated
    held_out = [i for i, split in enumerate(store.splits) if real[i] and split in ("validation", "test")]
    if len(held_out) < config.least:
        raise InputError(
            f"{store.path}: {len(held_out)} held-out volumes (validation and test), want at least {config.least}: "
            "prepare it with a larger --validation"
        )
    train = store.indices("train", generated=False)
    if len(train) < config.least:
        raise InputError(f"{store.path}: {len(train)} training volumes, want at least {config.least}")
    real_train = _real("train", store, train, config)
    return {
        "generated": _generated(model, store, real_train, config),
        "held-out": _real("held-out", store, np.array(held_out), config),
        "train": real_train,
    }


def _generated(model: Model, store: Store, train: VolumeSet, config: EvaluateConfig) -> VolumeSet:
    """Generated volumes; of a conditional model as many of each class as there are training volumes of it."""
    identity: dict[str, Any] = {
        "generator": generator_hash(model),
        "first_seed": config.seed,
        "num": config.num,
        "truncation": config.truncation,
    }
    if model.num_classes:
        labels = store.labels[train.identity["indices"]]
        is_same = model.description.class_names == store.class_names
        shares = labels[labels >= 0] if is_same and labels.max() >= 0 else np.arange(model.num_classes)
        identity["labels"] = np.resize(shares, config.num).tolist()

    def generate(first: int, last: int) -> Iterator[np.ndarray]:
        for number in range(first, last):
            label = identity["labels"][number] if model.num_classes else None
            for sample in samples(model, [config.seed + number], label, config.truncation):
                yield sample.volume

    return VolumeSet("generated", store.size, config.num, generate, identity)


def _real(name: str, store: Store, indices: np.ndarray, config: EvaluateConfig) -> VolumeSet:
    """Volumes of a store in a random order, so that neighbours in a list (both sides of one head) are no pair."""
    order = np.random.default_rng(config.seed).permutation(indices)[: config.train_limit]

    def read(first: int, last: int) -> Iterator[np.ndarray]:
        return (store.volume(int(i)).numpy() for i in order[first:last])

    identity = {"store": store.store_fingerprint, "indices": [int(i) for i in order]}
    return VolumeSet(name, store.size, len(order), read, identity)


def extractors_of(model: Model, store: Store, config: EvaluateConfig, device: torch.device) -> list[Extractor]:
    """Load the extractors asked for.

    Raises:
        InputError: If one is unknown, not there yet, or its file is unfit.
    """
    asked = config.features.split(",") if config.features else ["self", *(["encoder"] if has_encoders(model) else [])]
    makers: dict[str, Callable[[], Extractor]] = {
        "self": lambda: load_features(store, device=device),
        "encoder": lambda: encoder_extractor(model),
        "random": random_extractor,
    }
    unknown = [name for name in asked if name not in makers]
    if unknown or len(set(asked)) < len(asked):
        raise InputError(f"--features {config.features}: want some of {', '.join(makers)}, each once, by comma")
    made = [makers[name]() for name in asked]
    if config.medicalnet is not None:
        made.append(medicalnet_extractor(Path(config.medicalnet), device))
    return made


def key_of(sets: dict[str, VolumeSet], extractors: Sequence[Extractor], config: EvaluateConfig) -> str:
    """What a result follows from, as a hash."""
    content = [
        PROTOCOL,
        {name: dict(volumes.identity) for name, volumes in sets.items()},
        [(extractor.name, extractor.sha256) for extractor in extractors],
        dataclasses.asdict(config),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def measure(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    extractors: Sequence[Extractor],
    config: EvaluateConfig,
    folder: Path,
    start: Start = lambda name, total: lambda count: None,
) -> Measured:
    """Summarize the sets, keeping that in a folder, and measure everything.

    Raises:
        InputError: If the folder holds features of other sets.
    """
    summaries = {
        name: summarize_set(
            volumes,
            extractors,
            folder,
            batch=config.batch_size,
            pairs=config.pairs,
            done=start(f"features: {name}", volumes.count),
        )
        for name, volumes in sets.items()
    }
    for extractor in extractors:
        if extractor.rescale:
            summaries = rescaled(summaries, extractor.name, "train")
    made, held_out, train = (summaries[name] for name in ("generated", "held-out", "train"))
    metrics: dict[str, Any] = {
        **_origin(model, store, sets, extractors, config),
        "features": _compare_features(summaries, extractors, config, start),
        "classes": _classes(model, store, sets, summaries, extractors[0].name, config.bootstrap),
        "voxels": {
            pair_name(a, b): voxels.compare_voxels(summaries[a], summaries[b], config.bootstrap) for a, b in PAIRS
        },
        "variety": {"generated": voxels.variety(made, train), "held-out": voxels.variety(held_out, train)},
        "diversity": voxels.diversity(made, train),
        "seams": voxels.seams(made, train, model.config.data.depth),
        "coverage": {**voxels.coverage(made, held_out), "floor": voxels.coverage(train, held_out)["share"]},
        "reconstruction": _reconstruction(model, store, train, config, start),
        "geometry": geometry(model, store, made),
        "fidelity": _fidelity(made, held_out, extractors[0].name, config),
        "warnings": _warnings(model, store),
    }
    return Measured(metrics, summaries, sets)


def _origin(
    model: Model, store: Store, sets: dict[str, VolumeSet], extractors: Sequence[Extractor], config: EvaluateConfig
) -> dict[str, Any]:
    """What was measured, by what."""
    return {
        "protocol": PROTOCOL,
        "key": key_of(sets, extractors, config),
        "versions": {"hagan3d": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "run": {"checkpoint": str(model.path), "step": model.step, **sets["generated"].identity},
        "store": {"name": store.path.name, "fingerprint": store.store_fingerprint},
        "settings": dataclasses.asdict(config),
        "volumes": {name: volumes.count for name, volumes in sets.items()},
        "extractors": [{k: getattr(e, k) for k in ("name", "dim", "sha256", "rescale", "note")} for e in extractors],
    }


def _compare_features(
    summaries: dict[str, Summary], extractors: Sequence[Extractor], config: EvaluateConfig, start: Start
) -> dict[str, Any]:
    done = start("distances", len(extractors) * len(PAIRS))
    found: dict[str, Any] = {}
    for extractor in extractors:
        rows = {name: summary[FEATURES + extractor.name] for name, summary in summaries.items()}
        found[extractor.name] = {}
        for a, b in PAIRS:
            found[extractor.name][pair_name(a, b)] = compare(
                rows[a], rows[b], neighbours=config.neighbours, subsets=config.kid_subsets, rounds=config.bootstrap
            )
            done(1)
    return found


def _classes(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    summaries: dict[str, Summary],
    extractor: str,
    rounds: int,
) -> dict[str, Any] | None:
    """What a classifier of the main features says, where the store has classes."""
    labels: dict[str, np.ndarray | None] = {
        name: store.labels[volumes.identity["indices"]] for name, volumes in sets.items() if name != "generated"
    }
    is_asked = model.num_classes and model.description.class_names == store.class_names
    labels["generated"] = np.array(sets["generated"].identity["labels"]) if is_asked else None
    features = {name: summary[FEATURES + extractor] for name, summary in summaries.items()}
    return class_scores(features, labels, rounds)


def _reconstruction(
    model: Model, store: Store, train: Summary, config: EvaluateConfig, start: Start
) -> dict[str, Any] | None:
    """Errors of held-out volumes made again from their latents, beside those of the mean training volume."""
    if not has_encoders(model) or not config.reconstructions:
        return None
    mean = train["total"] / len(train["small"]) if train["total"].size else None
    rows: list[dict[str, float]] = []
    splits = [split for split in ("validation", "test") if split in store.splits]
    done = start("reconstruction", min(config.reconstructions, sum(store.splits.count(split) for split in splits)))
    for split in splits:
        _, inputs = inputs_of_store(store.path, model.description, split)
        for item in latents(model, inputs, reconstruct=True):
            if len(rows) == config.reconstructions:
                break
            again, real = item.reconstruction, item.input.x
            assert again is not None
            square = float(((again - real).astype(np.float64) ** 2).mean())
            row = {"mae": float(np.abs(again - real).mean()), "psnr_db": 10 * math.log10(4 / max(square, 1e-12))}
            row["ms_ssim"] = float(similarity(again[None], real[None])[0])
            row["mae_of_mean"] = float("nan") if mean is None else float(np.abs(mean - real).mean())
            rows.append(row)
            done(1)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"volumes": len(rows), **{name: value for name, value in means.items() if np.isfinite(value)}}


def geometry(model: Model, store: Store, made: Summary) -> list[dict[str, Any]]:
    """Check that what is generated has the place, spacing and range of the store's volumes."""
    description, typical = model.description, store.description()
    spacings = np.array([spacing_of(affine) for affine in store.affines])
    spacing = np.array(description.voxel_spacing)
    tolerance = 1e-3 * spacings.max()
    inside = (spacing >= spacings.min(axis=0) - tolerance) & (spacing <= spacings.max(axis=0) + tolerance)
    lowest, highest = float(made["range"][:, 0].min()), float(made["range"][:, 1].max())
    constant = int((made["range"][:, 0] == made["range"][:, 1]).sum())
    rows: list[tuple[str, bool, str]] = [
        ("size", description.size == store.size, f"{list(description.size)} voxels"),
        ("orientation", description.orientation == typical.orientation, description.orientation),
        ("slices", description.axis == typical.axis, description.axis),
        (
            "spacing",
            bool(inside.all()),
            f"{_numbers(spacing)} mm; store: {_numbers(spacings.min(axis=0))} to {_numbers(spacings.max(axis=0))}",
        ),
        ("intensity rule", description.intensity == typical.intensity, description.intensity),
        (
            "range",
            bool(np.isfinite([lowest, highest]).all()) and lowest >= -1.001 and highest <= 1.001,
            f"{lowest:.3f} to {highest:.3f}, want -1 to 1",
        ),
        ("not constant", constant == 0, f"{constant} constant volumes"),
    ]
    return [{"check": name, "ok": ok, "found": found} for name, ok, found in rows]


def _numbers(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _fidelity(made: Summary, real: Summary, name: str, config: EvaluateConfig) -> dict[str, Any]:
    """The main comparison by torch-fidelity, or why not."""
    a, b = made[FEATURES + name], real[FEATURES + name]
    size = min(len(a), len(b), 1000)
    try:
        found = fidelity(a, b, neighbours=config.neighbours, subsets=config.kid_subsets, size=size)
    except ImportError as error:
        return {"missing": str(error)}
    return {"extractor": name, **found}


def _warnings(model: Model, store: Store) -> list[str]:
    found = []
    trained_on = load(model.path).store
    if trained_on and trained_on != store.store_fingerprint:
        found.append(
            "the run was trained on another store: the training volumes of this one are not what the model has seen"
        )
    if store.labels.max() >= 0 and not model.config.conditional:
        found.append("the store has classes, the model has none: it cannot be asked for one")
    if store.generated.any():
        found.append(f"the store holds {int(store.generated.sum())} generated volumes, which were left out")
    return found
