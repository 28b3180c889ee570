"""Exploring a latent space: along an attribute, along principal components, between two volumes, towards the mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import replacing, write_text
from hagan3d.data.preprocess.metadata import abbreviate
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.directions import (
    Direction,
    Found,
    Scale,
    attribute_direction,
    between,
    principal_directions,
)
from hagan3d.evaluation.exploration.instruments import Instrument, Progress, ReadBack, instrument_for, silent
from hagan3d.evaluation.exploration.walks import Frame, Start, Stop, judge, volume_at, walk
from hagan3d.evaluation.features.extractors import has_encoders
from hagan3d.evaluation.settings import WALKS, ExploreConfig
from hagan3d.inference.encoding import Input, inputs_of_store, latents
from hagan3d.inference.generation import latent

FIRST_SEED = 1_000_000  # of the latents that a direction is learned from; walks begin at seeds 0, 1, ...


@dataclass(frozen=True)
class Volumes:
    """The real volumes that are used, as indices in their store."""

    train: np.ndarray
    held_out: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Both."""
        return np.concatenate([self.train, self.held_out])


def volumes_of(model: Model, store: Store, limit: int) -> Volumes:
    """Choose real volumes, at random where there are more than ``limit``; the same ones every time.

    Raises:
        InputError: If the store has another size than the model.
    """
    if store.size != model.description.size:
        raise InputError(
            f"{store.path}: volumes of {list(store.size)} voxels, but the model's are {list(model.description.size)}"
        )
    real = np.random.default_rng(0).permutation(store.indices("all", generated=False))[:limit]
    held_out = np.isin(np.array(store.splits)[real], ("validation", "test"))
    return Volumes(np.sort(real[~held_out]), np.sort(real[held_out]))


def explore_attribute(
    model: Model, store: Store, name: str, out: Path, config: ExploreConfig, progress: Progress = silent
) -> dict[str, Any]:
    """Find the direction of an attribute, walk along it, and measure whether the attribute moves.

    Leaves `explore.json` (what is returned), `direction.npz` and what `walk` leaves.

    Args:
        model: The model, with G, and with its encoders unless all latents are of the prior.
        store: Real volumes.
        name: Of the attribute.
        out: The folder.
        config: Settings.
        progress: Shows bars.

    Raises:
        InputError: If the attribute is unfit, the model has no encoders where it needs them, or sizes differ.
    """
    if config.source == "encoded" or config.encoded_starts:
        _need_encoders(model)
    used = volumes_of(model, store, config.limit)
    tool = instrument_for(store, used.train, used.held_out, name, config, progress)
    z, y, groups, scale = _population(model, store, tool, config, progress)
    known = model.networks.prior_covariance().double().cpu().numpy() if config.source == "generated" else None
    found = attribute_direction(z, scale.score(y), groups, covariance=known)
    reader = tool.reader or ReadBack(model, found.direction, scale)
    starts = _starts(model, store, used, config)
    walks = [(start, _stops(start, found.direction, config, scale)) for start in starts]
    frames = walk(
        model,
        walks,
        out,
        title=f"{name}, {config.source} latents, step {model.step}",
        caption=_captions(tool.attribute.unit, float(scale.value(0.0))),
        reader=reader,
        progress=lambda items: progress(items, "walk", len(walks) * config.steps),
    )
    summary = {
        **_origin(model, store, config),
        "attribute": {"name": name, "unit": tool.attribute.unit, "from": tool.attribute.origin},
        "regression": _regression(found, len(y)),
        "length": length_of(model, z),
        "range": {key: _span(values, config.span) for key, values in (("walked", y), ("real", tool.attribute.values))},
        "measure": tool.summary() if tool.reader else {"name": "read back by the encoder: no independent check"},
        "walk": _judged(frames, starts),
    }
    with replacing(out / "direction.npz") as beside, beside.open("wb") as file:
        np.savez(file, **dataclasses.asdict(found.direction), values=scale.values, scores=scale.scores)
    return _written(summary, out)


def _population(
    model: Model, store: Store, tool: Instrument, config: ExploreConfig, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Scale]:
    """Latents ``[N, latent_dim]``, the attribute of each, subjects, and the scale of that population."""
    if config.source == "encoded":
        training = np.array([store.splits[i] == "train" for i in tool.attribute.indices])
        chosen = training if training.sum() >= len(training) // 2 else np.ones(len(training), bool)
        indices, y = tool.attribute.indices[chosen], tool.attribute.values[chosen]
        encoded = encode_volumes(model, store, indices, progress)
        z = np.stack([encoded[store.ids[i]][1] for i in indices])
        return z, y, np.array(store.subjects)[indices], Scale.of(y)
    if tool.reader is None:
        raise InputError(
            f"--source generated: {tool.attribute.name} cannot be measured on generated volumes; "
            "give --measure (and --label-maps), or take --source encoded"
        )
    drawn = seed_starts(model, config.num, first=FIRST_SEED)
    y = np.array(
        [
            tool.reader.read(volume_at(model, start.z, start.label), start.interval, start.affine)[0]
            for start in progress(drawn, "generate, measure", len(drawn))
        ]
    )
    if np.ptp(y) == 0:
        raise InputError(f"{model.path}: {tool.attribute.name} is {y[0]:g} in all {len(y)} generated volumes; train on")
    return np.stack([start.z for start in drawn]), y, np.arange(len(y)), Scale.of(y)


def encode_volumes(
    model: Model, store: Store, indices: np.ndarray, progress: Progress = silent
) -> dict[str, tuple[Input, np.ndarray]]:
    """Encode some volumes of a store: by id, the volume and its latent ``[latent_dim]``."""
    wanted = {store.ids[i] for i in indices}
    _, inputs = inputs_of_store(store.path, model.description, "all")
    chosen = progress((item for item in inputs if item.id in wanted), "encode", len(wanted))
    return {done.input.id: (done.input, done.z) for done in latents(model, chosen)}


def _starts(model: Model, store: Store, used: Volumes, config: ExploreConfig) -> list[Start]:
    """Held-out volumes, encoded, and seeds."""
    pool = used.held_out if len(used.held_out) else used.train
    drawn = np.random.default_rng(1).permutation(pool)[: config.encoded_starts]
    encoded = encode_volumes(model, store, np.sort(drawn)) if len(drawn) else {}
    return [*(_start_of(model, item, z) for item, z in encoded.values()), *seed_starts(model, config.seed_starts)]


def _start_of(model: Model, item: Input, z: np.ndarray) -> Start:
    label = max(item.label, 0) if model.num_classes else None
    return Start(item.id, z, label, item.affine, (item.lo, item.hi))


def seed_starts(model: Model, count: int, truncation: float = 1.0, first: int = 0) -> list[Start]:
    """Latents of seeds first, first + 1, ..., in the typical place and units; classes in turn, where there are any."""
    made, described = [], model.description
    for seed in range(first, first + count):
        label = seed % model.num_classes if model.num_classes else None
        z = latent(model, seed, label, truncation)
        made.append(Start(f"seed-{seed}", z, label, described.affine_array, (described.lo, described.hi)))
    return made


def _stops(start: Start, direction: Direction, config: ExploreConfig, scale: Scale | None = None) -> list[Stop]:
    """Walk from one end of the span to the other; targets are the same whatever the start."""
    positions = np.linspace(-config.span, config.span, config.steps)
    return [
        Stop(direction.move(start.z, t), float(t), None if scale is None else float(scale.value(t))) for t in positions
    ]


def explore_components(
    model: Model, store: Store, num: int, out: Path, config: ExploreConfig, progress: Progress = silent
) -> dict[str, Any]:
    """Walk along the directions in which encoded latents vary most, each into a folder `component-K`.

    Raises:
        InputError: If the model has no encoders, or there are too few volumes.
    """
    _need_encoders(model)
    used = volumes_of(model, store, config.limit)
    if not 1 <= num < min(len(used.train), model.networks.latent_dim):
        most = min(len(used.train), model.networks.latent_dim) - 1
        raise InputError(f"--pca {num}: want 1 to {most} components (training volumes and numbers of a latent, less 1)")
    z = np.stack([row for _, row in encode_volumes(model, store, used.train, progress).values()])
    directions, shares = principal_directions(z, num)
    starts = _starts(model, store, used, config)
    for number, (direction, share) in enumerate(zip(directions, shares, strict=True), 1):
        walk(
            model,
            [(start, _stops(start, direction, config)) for start in starts],
            out / f"component-{number}",
            title=f"component {number}: {share:.1%} of the variance of encoded latents",
            caption=lambda stop, value: [f"{stop.position:+.2g} sd"],
            progress=lambda items, n=number: progress(items, f"component {n}", len(starts) * config.steps),  # type: ignore[misc]
        )
    shared = {"components": [float(share) for share in shares], "volumes": len(z)}
    return _written({**_origin(model, store, config), "pca": shared}, out)


def explore_between(
    model: Model, store: Store, ids: Sequence[str], out: Path, config: ExploreConfig, progress: Progress = silent
) -> dict[str, Any]:
    """Walk from one volume of a store to another, encoded.

    Raises:
        InputError: If the model has no encoders, or the store no such volume.
    """
    _need_encoders(model)
    volumes_of(model, store, config.limit)
    missing = [name for name in ids if name not in store.ids]
    if missing:
        raise InputError(
            f"--between: {store.path} has no volume {', '.join(missing)}; its first are {abbreviate(store.ids)}"
        )
    encoded = encode_volumes(model, store, np.array([store.ids.index(name) for name in ids]))
    (first, a), (_, b) = (encoded[name] for name in ids)
    start = dataclasses.replace(_start_of(model, first, a), name=f"{ids[0]}_to_{ids[1]}")
    middle = latent(model, 0, start.label, truncation=0.0)
    shares = np.linspace(0, 1, config.steps)
    stops = [Stop(between(a, b, float(share), middle), float(share)) for share in shares]
    walk(
        model,
        [(start, stops)],
        out,
        title=f"from {ids[0]} to {ids[1]}",
        caption=lambda stop, value: [f"{stop.position:.0%} of the way"],
        progress=lambda items: progress(items, "walk", config.steps),
    )
    return _written({**_origin(model, store, config), "between": list(ids)}, out)


def explore_truncations(
    model: Model,
    store: Store,
    factors: Sequence[float] | float,
    out: Path,
    config: ExploreConfig,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make the same seeds with z's distance from its mean times each factor, and say how different they are then.

    A generator whose first layer is followed by a norm (`norm: rms`) takes little notice of the length of z, so that
    factors near 1 change little there.

    Raises:
        InputError: If there are no seeds, or a factor is out of range.
    """
    factors = [factors] if isinstance(factors, float | int) else list(factors)
    seeds = WALKS if config.seeds is None else config.seeds
    if not seeds or not factors or not all(0 <= factor <= 10 for factor in factors):
        raise InputError(f"--truncations: want factors from 0 to 10 and --seeds of 1 or more, got {factors}")
    starts = seed_starts(model, seeds)
    scaled = [[start.z for start in seed_starts(model, seeds, factor)] for factor in factors]
    walks = [
        (start, [Stop(z[i], factor) for z, factor in zip(scaled, factors, strict=True)])
        for i, start in enumerate(starts)
    ]
    walk(
        model,
        walks,
        out,
        title=f"truncation, step {model.step}",
        caption=lambda stop, value: [f"truncation {stop.position:g}"],
        progress=lambda items: progress(items, "walk", len(walks) * len(factors)),
    )
    spread = {
        f"{factor:g}": _spread(model, [stops[i] for _, stops in walks], starts) for i, factor in enumerate(factors)
    }
    return _written({**_origin(model, store, config), "mean_difference": spread}, out)


def _spread(model: Model, stops: Sequence[Stop], starts: Sequence[Start]) -> float:
    """Mean absolute difference of voxels from their mean over seeds, where -1 to 1 is 2."""
    volumes = np.stack([volume_at(model, stop.z, start.label) for stop, start in zip(stops, starts, strict=True)])
    return float(np.abs(volumes - volumes.mean(axis=0)).mean())


def _captions(unit: str, middle: float) -> Callable[[Stop, float | None], list[str]]:
    """Say where a stop is, what it was meant to be and what it is; amounts also as a percentage of the middle one."""

    def line(word: str, value: float) -> str:
        digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
        share = f", {100 * value / middle:.0f} %" if unit == "ml" and middle > 0 else ""
        return f"{word} {value:.{digits}f} {unit}{share}"

    def caption(stop: Stop, value: float | None) -> list[str]:
        found = [f"{stop.position:+.2g} sd"]
        if stop.intended is not None:
            found.append(line("intended", stop.intended))
        return found if value is None else [*found, line("measured", value)]

    return caption


def _need_encoders(model: Model) -> None:
    if not has_encoders(model):
        raise InputError(
            f"{model.path}: trained without encoders (train.encoder false); take --source generated --starts 0"
        )


def _origin(model: Model, store: Store, config: ExploreConfig) -> dict[str, Any]:
    return {
        "run": {"checkpoint": str(model.path), "step": model.step},
        "store": {"name": store.path.name, "fingerprint": store.store_fingerprint},
        "settings": dataclasses.asdict(config),
    }


def _regression(found: Found, count: int) -> dict[str, Any]:
    made = {"volumes": count, "of": "normal scores of the attribute on latents, ridge, nested cross-validation"}
    for key, estimate in (
        ("r2", found.regression.r2),
        ("correlation", found.regression.correlation),
        ("cosine_of_halves", found.agreement),
    ):
        made[key] = dataclasses.asdict(estimate)  # type: ignore[assignment]
    return made


def length_of(model: Model, z: np.ndarray) -> float:
    """Root mean square length of latents ``[N, latent_dim]``, where that of the model's prior is 1.

    Far from 1, encoded latents lie where G never saw any in its adversarial training: a direction learned from them
    says little of the volumes of the prior, and the other way round.
    """
    return float(np.sqrt(np.mean(z.astype(np.float64) ** 2) / model.networks.prior_mean_square()))


def _span(values: np.ndarray, span: float) -> list[float]:
    """Values at either end of a walk, in some population."""
    return [float(value) for value in Scale.of(values).value(np.array([-span, span]))]


def _judged(frames: Sequence[Frame], starts: Sequence[Start]) -> dict[str, Any]:
    """Judge all walks, and those from encoded volumes and from seeds apart."""
    seeds = {start.name for start in starts if start.name.startswith("seed-")}
    parts = {
        "all": list(frames),
        "encoded": [frame for frame in frames if frame.start not in seeds],
        "seeds": [frame for frame in frames if frame.start in seeds],
    }
    kept = {name: part for name, part in parts.items() if part and (name == "all" or len(part) < len(frames))}
    return {name: dataclasses.asdict(judge(part)) for name, part in kept.items()}


def _written(summary: dict[str, Any], out: Path) -> dict[str, Any]:
    write_text(out / "explore.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary
