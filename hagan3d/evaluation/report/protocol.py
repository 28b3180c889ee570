"""The evaluation protocol: which sets are compared, in which features, by which metrics.

Generated volumes are compared with held-out real ones. The same metrics between training and held-out volumes are the
real-vs-real floor: a model trained on the former is not expected to score better. `PROTOCOL_VERSION` changes whenever
results would.
"""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hagan3d import __version__
from hagan3d.checkpoint import Model, load
from hagan3d.checkpoint.generator_hash import generator_hash
from hagan3d.config import is_slice
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor, encoder_extractor, medicalnet_extractor, random_extractor
from hagan3d.evaluation.features.self_supervised import load_features
from hagan3d.evaluation.features.summary import FEATURES, Summary, View, VolumeSet, rescaled, summarize_set
from hagan3d.evaluation.metrics import voxels
from hagan3d.evaluation.metrics.classes import ClassScores, class_scores
from hagan3d.evaluation.metrics.compare import LARGEST_SUBSET, FeatureComparison, compare_features, compare_summaries
from hagan3d.evaluation.metrics.distances import LEAST_SUBJECTS
from hagan3d.evaluation.metrics.estimate import Estimate, Subjects, one_per_subject_first
from hagan3d.evaluation.metrics.fidelity import Fidelity, fidelity
from hagan3d.evaluation.progress import ProgressCallback, no_progress
from hagan3d.evaluation.report.geometry import check_geometry
from hagan3d.evaluation.report.reconstruction import reconstruction_errors
from hagan3d.evaluation.report.results import PAIRS, Diversity, EvaluatedRun, Evaluation, Origin, pair_name
from hagan3d.evaluation.settings import EvaluateConfig
from hagan3d.inference.encoding import check_store, has_encoder
from hagan3d.inference.generation import samples

PROTOCOL_VERSION = 4


def volume_sets(model: Model, store: Store, config: EvaluateConfig) -> dict[str, VolumeSet]:
    """Return the sets of the protocol: generated, held-out (validation and test) and train.

    Volumes that the store marks as generated are excluded: the reference is real.

    Raises:
        InputError: If sizes or channels differ, or there are too few held-out or training volumes.
    """
    check_store(store, model.description)
    if is_slice(store.size):
        raise InputError(f"{store.path}: holds single slices, but the metrics of generated volumes are of volumes")
    real = ~store.generated
    held_out = [i for i, split in enumerate(store.splits) if real[i] and split in ("validation", "test")]
    train = store.indices("train", generated=False)
    if min(len(held_out), len(train)) < config.least:
        enough = len(held_out) + len(train) >= 2 * config.least
        remedy = "prepare it with another --validation" if enough else f"it takes at least {2 * config.least} volumes"
        raise InputError(
            f"{store.path}: {len(held_out)} held-out volumes (validation and test) and {len(train)} to train on, "
            f"expected at least {config.least} of both; {remedy}"
        )
    real_train = _real_set("train", store, train, config)
    return {
        "generated": _generated_set(model, store, real_train, config),
        "held-out": _real_set("held-out", store, np.array(held_out), config),
        "train": real_train,
    }


def _generated_set(model: Model, store: Store, train: VolumeSet, config: EvaluateConfig) -> VolumeSet:
    """Generated volumes; classes of a conditional model are as frequent as in the training volumes."""
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


def _real_set(name: str, store: Store, indices: np.ndarray, config: EvaluateConfig) -> VolumeSet:
    """Volumes of a store in an order by which MS-SSIM does not pair volumes of one subject, such as both sides."""
    limit = config.train_limit if name == "train" else None
    order = one_per_subject_first(indices, store.subjects, config.seed)[:limit]

    def read(first: int, last: int) -> Iterator[np.ndarray]:
        return (store.volume(i).numpy() for i in order[first:last])

    identity = {"store": store.store_fingerprint, "indices": order}
    names = sorted(set(store.subjects))
    subjects = np.array([names.index(store.subjects[i]) for i in order])
    if len(np.unique(subjects)) < LEAST_SUBJECTS:
        raise InputError(
            f"{store.path}: the {name} volumes are of {len(np.unique(subjects))} subjects; standard errors need at "
            f"least {LEAST_SUBJECTS}: prepare a store of more subjects"
        )
    return VolumeSet(name, store.size, len(order), read, identity, subjects)


def load_extractors(
    model: Model, store: Store, config: EvaluateConfig, device: torch.device, channel: int = 0
) -> list[Extractor]:
    """Load the feature extractors of the settings, for an image channel.

    Raises:
        InputError: If one is unknown, not trained yet, or its file is invalid.
    """
    names = config.features.split(",") if config.features else ["self", *(["encoder"] if has_encoder(model) else [])]
    loaders: dict[str, Callable[[], Extractor]] = {
        "self": lambda: load_features(store, device=device, channel=channel),
        "encoder": lambda: encoder_extractor(model),
        "random": random_extractor,
    }
    if set(names) - set(loaders) or len(set(names)) < len(names):
        raise InputError(f"--features {config.features}: expected some of {', '.join(loaders)}, comma-separated")
    extractors = [loaders[name]() for name in names]
    if config.medicalnet is not None:
        extractors.append(medicalnet_extractor(Path(config.medicalnet), device))
    return extractors


def evaluation_key(sets: dict[str, VolumeSet], extractors: Sequence[Extractor], config: EvaluateConfig) -> str:
    """Return a hash of everything that the results depend on."""
    content = [
        PROTOCOL_VERSION,
        {name: dict(volumes.identity) for name, volumes in sets.items()},
        [(extractor.name, extractor.sha256) for extractor in extractors],
        dataclasses.asdict(config),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def evaluate_channel(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    summaries: dict[str, Summary],
    extractors: Sequence[Extractor],
    config: EvaluateConfig,
    channel: int = 0,
    progress: ProgressCallback = no_progress,
) -> EvaluatedRun:
    """Compute all metrics of an image channel from the summaries of the sets."""
    for extractor in extractors:
        if extractor.rescale:  # features in units of their deviation over training volumes
            summaries = rescaled(summaries, extractor.name, "train")
    generated, held_out, train = (summaries[name] for name in ("generated", "held-out", "train"))

    # Most of these measures are biased by the size of the set, so that the floor needs as many volumes as the value.
    count = min(sets["generated"].count, sets["train"].count)

    def compared(needs: str) -> dict[str, dict[str, Estimate]]:
        return {
            pair_name(a, b): compare_summaries(
                needs, summaries[a], summaries[b], config, subjects_of(sets, a, b), count=count
            )
            for a, b in PAIRS
        }

    def variety_of(name: str) -> list[voxels.Variety]:
        return voxels.variety(summaries[name], train, subjects_of(sets, name, "train"))

    results = Evaluation(
        origin=origin_of(model, store, sets, extractors, config),
        features=_compare_features(summaries, sets, extractors, config, progress),
        classes=_classes(model, store, sets, summaries, extractors[0].name, config.bootstrap),
        voxels=compared("voxels"),
        texture=compared("texture"),
        variety={name: variety_of(name) for name in ("generated", "held-out")},
        diversity=Diversity(voxels.pair_similarity(generated), voxels.pair_similarity(train)),
        seams=voxels.seams(generated, train, model.networks.default_depth(), subjects_of(sets, "generated", "train")),
        coverage=voxels.coverage(generated, held_out, count),
        coverage_floor=voxels.coverage(train, held_out, count).share,
        reconstruction=reconstruction_errors(model, store, train, config, channel, progress),
        geometry=check_geometry(model, store, generated),
        fidelity=_fidelity(generated, held_out, extractors[0].name, config),
        warnings=tuple(_warnings(model, store)),
    )
    return EvaluatedRun(results, summaries, sets, channel)


def summarize_sets(
    sets: dict[str, VolumeSet], views: Sequence[View], config: EvaluateConfig, progress: ProgressCallback
) -> list[dict[str, Summary]]:
    """Summarize every set, in one pass over its volumes; return the summaries of the sets for each view.

    Raises:
        InputError: If the folder of a view holds results of other sets.
    """
    found = {
        name: summarize_set(
            volumes,
            views,
            batch=config.batch_size,
            pairs=config.pairs,
            advance=progress(f"features: {name}", volumes.count),
        )
        for name, volumes in sets.items()
    }
    return [{name: rows[i] for name, rows in found.items()} for i in range(len(views))]


def origin_of(
    model: Model, store: Store, sets: dict[str, VolumeSet], extractors: Sequence[Extractor], config: EvaluateConfig
) -> Origin:
    """Return what is evaluated, by which version of the protocol."""
    return Origin(
        protocol=PROTOCOL_VERSION,
        key=evaluation_key(sets, extractors, config),
        versions={"hagan3d": __version__, "torch": torch.__version__, "python": platform.python_version()},
        run={"checkpoint": str(model.path), "step": model.step, **sets["generated"].identity},
        store={"name": store.path.name, "fingerprint": store.store_fingerprint},
        settings=config,
        volumes={name: volumes.count for name, volumes in sets.items()},
        subjects={name: len(np.unique(volumes.subject_numbers)) for name, volumes in sets.items()},
        extractors=tuple(extractors),
    )


def subjects_of(sets: Mapping[str, VolumeSet], evaluated: str, reference: str) -> Subjects:
    """Return the subjects of the volumes of two sets."""
    return sets[evaluated].subject_numbers, sets[reference].subject_numbers


def _compare_features(
    summaries: dict[str, Summary],
    sets: Mapping[str, VolumeSet],
    extractors: Sequence[Extractor],
    config: EvaluateConfig,
    progress: ProgressCallback,
) -> dict[str, dict[str, FeatureComparison]]:
    advance = progress("distances", len(extractors) * len(PAIRS))
    results: dict[str, dict[str, FeatureComparison]] = {}
    for extractor in extractors:
        rows = {name: summary[FEATURES + extractor.name] for name, summary in summaries.items()}
        results[extractor.name] = {}
        for a, b in PAIRS:
            subjects = subjects_of(sets, a, b)
            results[extractor.name][pair_name(a, b)] = compare_features(rows[a], rows[b], config, subjects)
            advance(1)
    return results


def _classes(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    summaries: dict[str, Summary],
    extractor: str,
    rounds: int,
) -> ClassScores | None:
    """Class metrics in the features of the main extractor, if the store has classes."""
    labels: dict[str, np.ndarray | None] = {
        name: store.labels[volumes.identity["indices"]] for name, volumes in sets.items() if name != "generated"
    }
    is_conditional = model.num_classes and model.description.class_names == store.class_names
    labels["generated"] = np.array(sets["generated"].identity["labels"]) if is_conditional else None
    features = {name: summary[FEATURES + extractor] for name, summary in summaries.items()}
    subjects = {name: volumes.subject_numbers for name, volumes in sets.items()}
    return class_scores(features, labels, subjects, rounds)


def _fidelity(generated: Summary, real: Summary, extractor: str, config: EvaluateConfig) -> Fidelity | str:
    """The main comparison by torch-fidelity, or why it cannot run."""
    a, b = generated[FEATURES + extractor], real[FEATURES + extractor]
    size = min(len(a), len(b), LARGEST_SUBSET)
    try:
        return fidelity(a, b, neighbours=config.neighbours, subsets=config.kid_subsets, size=size)
    except ImportError as error:
        return str(error)


def _warnings(model: Model, store: Store) -> list[str]:
    warnings = []
    trained_on = load(model.path).store
    if trained_on and trained_on != store.store_fingerprint:
        warnings.append(
            "the run was trained on another store: the training volumes of this one are not those of the model"
        )
    if store.labels.max() >= 0 and not model.config.conditional:
        warnings.append("the store has classes, but the model is unconditional")
    without = _without_class(model, store)
    if without:
        warnings.append(f"{without} held-out volumes have no class of the model, which could not reconstruct them")
    if store.generated.any():
        warnings.append(f"the store holds {int(store.generated.sum())} generated volumes, which were excluded")
    return warnings


def _without_class(model: Model, store: Store) -> int:
    """Return how many held-out volumes a conditional model cannot reconstruct, for lack of a class that it has."""
    if not model.num_classes or not has_encoder(model):
        return 0
    known = [name in model.description.class_names for name in store.class_names]
    held_out = (label for label, split in zip(store.labels, store.splits, strict=True) if split != "train")
    return sum(label < 0 or not known[label] for label in held_out)
