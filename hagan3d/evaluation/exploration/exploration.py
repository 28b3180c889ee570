"""Latent space exploration: attribute directions, principal components, interpolation, truncation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.config.bounds import MOST_TRUNCATION
from hagan3d.data.io.files import replacing, write_text
from hagan3d.data.preprocess.metadata import abbreviate
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.attributes import LEAST
from hagan3d.evaluation.exploration.directions import (
    Direction,
    Scale,
    attribute_direction,
    between,
    principal_directions,
)
from hagan3d.evaluation.exploration.measurement import Measurement, ReadBack, measurement_for
from hagan3d.evaluation.exploration.results import (
    AttributeExploration,
    ComponentExploration,
    Exploration,
    Interpolation,
    TruncationExploration,
)
from hagan3d.evaluation.exploration.walks import (
    WalkFrame,
    WalkScore,
    WalkStart,
    WalkStop,
    score_walks,
    volume_at,
    walk,
)
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.evaluation.settings import WALKS, ExploreConfig
from hagan3d.inference.encoding import Input, check_store, class_of, has_encoder, inputs_of_store, latents
from hagan3d.inference.generation import latent

ExplorationT = TypeVar("ExplorationT", bound=Exploration)

FIRST_SEED = 1_000_000  # of the samples that a direction is fitted on; walks start at seeds 0, 1, ...


@dataclass(frozen=True)
class RealIndices:
    """Indices of real volumes in their store."""

    train: np.ndarray
    held_out: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Training and held-out volumes."""
        return np.concatenate([self.train, self.held_out])


def select_volumes(model: Model, store: Store, limit: int) -> RealIndices:
    """Select real volumes, a random subset if there are more than ``limit``; deterministic.

    Raises:
        InputError: If the sizes or the channels of store and model differ.
    """
    check_store(store, model.description)
    real = np.random.default_rng(0).permutation(store.indices("all", generated=False))[:limit]
    held_out = np.isin(np.array(store.splits)[real], ("validation", "test"))
    return RealIndices(np.sort(real[~held_out]), np.sort(real[held_out]))


def explore_attribute(
    model: Model, store: Store, name: str, out: Path, config: ExploreConfig, progress: ProgressCallback = no_progress
) -> AttributeExploration:
    """Fit the direction of the attribute ``name``, walk along it, and measure whether the attribute changes.

    Args:
        model: The model, with its encoder unless all latents are samples of the prior.
        store: Real volumes.
        name: Name of the attribute.
        out: Folder for `explore.json` (the returned results), `direction.npz` and the files of `walk`.
        config: Settings.
        progress: Shows progress.

    Raises:
        InputError: If the attribute is unsuitable, the model lacks encoders where they are needed, or sizes differ.
    """
    if config.source == "encoded" or config.encoded_starts:
        _need_encoders(model)
    used = select_volumes(model, store, config.limit)
    measurement = measurement_for(store, used.train, used.held_out, name, config, progress)
    fitted_on, covariance = _population(model, store, measurement, config, progress), _latent_covariance(model, config)
    scale, y = fitted_on.scale, fitted_on.y
    direction = attribute_direction(fitted_on.z, scale.score(y), fitted_on.subjects, covariance=covariance)
    starts = _starts(model, store, used, config)
    frames = walk(
        model,
        [(start, _stops(start, direction.direction, config, scale)) for start in starts],
        out,
        title=f"{name}, {config.source} latents, step {model.step}",
        caption=_captions(measurement.attribute.unit, float(scale.value(0.0))),
        reader=measurement.reader or ReadBack(model, direction.direction, scale),
        progress=progress,
    )
    _write_direction(direction.direction, scale, out / "direction.npz")
    results = AttributeExploration(
        _origin(model, store, config),
        measurement,
        direction,
        volumes=len(y),
        held_out=fitted_on.held_out,
        length=length_of(model, fitted_on.z),
        walked=_ends(y, config.span),
        real=_ends(measurement.attribute.values, config.span),
        scores=_walk_scores(frames, starts),
    )
    return _write(results, out)


def _latent_covariance(model: Model, config: ExploreConfig) -> np.ndarray | None:
    """Return the covariance of the prior if directions are fitted on its samples; else it is estimated."""
    if config.source != "generated":
        return None
    return model.networks.prior_covariance().double().cpu().numpy()


def _write_direction(direction: Direction, scale: Scale, path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dataclasses.asdict(direction), values=scale.values, scores=scale.scores)


@dataclass(frozen=True)
class _Population:
    """What a direction is fitted on."""

    z: np.ndarray
    """Latents ``[N, latent_dim]``."""
    y: np.ndarray
    """Their attribute ``[N]``."""
    subjects: np.ndarray
    scale: Scale
    held_out: int = 0
    """Held-out volumes among them."""


def _population(
    model: Model, store: Store, measurement: Measurement, config: ExploreConfig, progress: ProgressCallback
) -> _Population:
    """Return sampled latents, or encoded volumes of the training split: of all, where it has too few with a value."""
    if config.source == "encoded":
        training = np.array([store.splits[i] == "train" for i in measurement.attribute.indices])
        selected = training if training.sum() >= LEAST else np.ones(len(training), bool)
        indices, y = measurement.attribute.indices[selected], measurement.attribute.values[selected]
        encoded = encode_volumes(model, store, indices, progress)
        z = np.stack([encoded[store.ids[i]][1] for i in indices])
        return _Population(z, y, np.array(store.subjects)[indices], Scale.of(y), int((selected & ~training).sum()))
    if measurement.reader is None:
        raise InputError(
            f"--source generated: {measurement.attribute.name} cannot be measured on generated volumes; "
            "add --measure (and --label-maps), or use --source encoded"
        )
    sampled = seed_starts(model, config.num, first=FIRST_SEED)
    y = np.array(
        [
            measurement.reader.read(volume_at(model, start.z, start.label), start.intervals, start.affine)[0]
            for start in track(sampled, "generate, measure", len(sampled), progress)
        ]
    )
    if np.ptp(y) == 0:
        raise InputError(
            f"{model.path}: {measurement.attribute.name} is {y[0]:g} in all {len(y)} generated volumes; train longer"
        )
    return _Population(np.stack([start.z for start in sampled]), y, np.arange(len(y)), Scale.of(y))


def encode_volumes(
    model: Model, store: Store, indices: np.ndarray, progress: ProgressCallback = no_progress
) -> dict[str, tuple[Input, np.ndarray]]:
    """Encode volumes of a store; returns the volume and its latent ``[latent_dim]`` by id."""
    ids = {store.ids[i] for i in indices}
    _, inputs = inputs_of_store(store.path, model.description, "all")
    selected = track((item for item in inputs if item.id in ids), "encode", len(ids), progress)
    return {item.input.id: (item.input, item.z) for item in latents(model, selected)}


def _starts(model: Model, store: Store, used: RealIndices, config: ExploreConfig) -> list[WalkStart]:
    """Starts at encoded held-out volumes and at seeds."""
    pool = used.held_out if len(used.held_out) else used.train
    sampled = np.random.default_rng(1).permutation(pool)[: config.encoded_starts]
    encoded = encode_volumes(model, store, np.sort(sampled)) if len(sampled) else {}
    return [*(_start_of(model, item, z) for item, z in encoded.values()), *seed_starts(model, config.seed_starts)]


def _start_of(model: Model, item: Input, z: np.ndarray) -> WalkStart:
    return WalkStart(item.id, z, class_of(model, item), item.affine, item.intervals)


def seed_starts(model: Model, count: int, truncation: float = 1.0, first: int = 0) -> list[WalkStart]:
    """Return starts at seeds first, first + 1, ..., with the typical geometry and units; classes in turn, if any."""
    starts, described = [], model.description
    intervals = [channel.interval for channel in described.channels]
    for seed in range(first, first + count):
        label = seed % model.num_classes if model.num_classes else None
        z = latent(model, seed, label, truncation)
        starts.append(WalkStart(f"seed-{seed}", z, label, described.affine_array, intervals))
    return starts


def _stops(start: WalkStart, direction: Direction, config: ExploreConfig, scale: Scale | None = None) -> list[WalkStop]:
    """Stops from one end of the span to the other; the targets do not depend on the start."""
    positions = np.linspace(-config.span, config.span, config.steps)
    return [
        WalkStop(direction.move(start.z, t), float(t), None if scale is None else float(scale.value(t)))
        for t in positions
    ]


def explore_components(
    model: Model, store: Store, num: int, out: Path, config: ExploreConfig, progress: ProgressCallback = no_progress
) -> ComponentExploration:
    """Walk along the principal components of encoded latents, each into a folder `component-K`.

    Raises:
        InputError: If the model has no encoders, or there are too few volumes.
    """
    _need_encoders(model)
    used = select_volumes(model, store, config.limit)
    if not 1 <= num < min(len(used.train), model.networks.latent_dim):
        most = min(len(used.train), model.networks.latent_dim) - 1
        raise InputError(f"--pca {num}: must be 1 to {most} (below the number of training volumes and latent_dim)")
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
            task=f"component {number}",
            progress=progress,
        )
    return _write(ComponentExploration(_origin(model, store, config), shares.tolist(), len(z)), out)


def explore_between(
    model: Model,
    store: Store,
    ids: Sequence[str],
    out: Path,
    config: ExploreConfig,
    progress: ProgressCallback = no_progress,
) -> Interpolation:
    """Interpolate between two encoded volumes of a store.

    Raises:
        InputError: If the model has no encoders, or the store lacks a volume.
    """
    _need_encoders(model)
    select_volumes(model, store, config.limit)
    missing = [name for name in ids if name not in store.ids]
    if missing:
        raise InputError(
            f"--between: {store.path} has no volume {', '.join(missing)}; use ids such as {abbreviate(store.ids)}"
        )
    encoded = encode_volumes(model, store, np.array([store.ids.index(name) for name in ids]))
    (first, a), (last, b) = (encoded[name] for name in ids)
    if class_of(model, first) != class_of(model, last):
        raise InputError(f"--between {' '.join(ids)}: of two classes, and a walk has one; use two of one class")
    start = dataclasses.replace(_start_of(model, first, a), name=f"{ids[0]}_to_{ids[1]}")
    middle = latent(model, 0, start.label, truncation=0.0)
    shares = np.linspace(0, 1, config.steps)
    stops = [WalkStop(between(a, b, float(share), middle), float(share)) for share in shares]
    walk(
        model,
        [(start, stops)],
        out,
        title=f"from {ids[0]} to {ids[1]}",
        caption=lambda stop, value: [f"{stop.position:.0%} of the way"],
        progress=progress,
    )
    return _write(Interpolation(_origin(model, store, config), list(ids)), out)


def explore_truncations(
    model: Model,
    store: Store,
    factors: Sequence[float] | float,
    out: Path,
    config: ExploreConfig,
    progress: ProgressCallback = no_progress,
) -> TruncationExploration:
    """Generate the same seeds at several truncation factors, and measure how much the volumes differ between seeds.

    A normalization after the first layer (`norm: rms`) makes the generator nearly invariant to the norm of z, so that
    factors near 1 have little effect.

    Raises:
        InputError: If there are no seeds, or a factor is out of range.
    """
    factors = [factors] if isinstance(factors, float | int) else list(factors)
    seeds = WALKS if config.seeds is None else config.seeds
    if not seeds or not factors or not all(0 <= factor <= MOST_TRUNCATION for factor in factors):
        raise InputError(f"--truncations: factors must be 0 to {MOST_TRUNCATION} and --seeds at least 1, got {factors}")
    starts = seed_starts(model, seeds)
    scaled = [[start.z for start in seed_starts(model, seeds, factor)] for factor in factors]
    walks = [
        (start, [WalkStop(z[i], factor) for z, factor in zip(scaled, factors, strict=True)])
        for i, start in enumerate(starts)
    ]
    walk(
        model,
        walks,
        out,
        title=f"truncation, step {model.step}",
        caption=lambda stop, value: [f"truncation {stop.position:g}"],
        progress=progress,
    )
    compared = enumerate(factors) if seeds > 1 else ()
    spread = {f"{factor:g}": _spread(model, [stops[i] for _, stops in walks], starts) for i, factor in compared}
    return _write(TruncationExploration(_origin(model, store, config), spread), out)


def _spread(model: Model, stops: Sequence[WalkStop], starts: Sequence[WalkStart]) -> float:
    """Mean absolute deviation of voxels from their mean over seeds, in units of the [-1, 1] range."""
    volumes = np.stack([volume_at(model, stop.z, start.label) for stop, start in zip(stops, starts, strict=True)])
    return float(np.abs(volumes - volumes.mean(axis=0)).mean())


def _captions(unit: str, middle: float) -> Callable[[WalkStop, float | None], list[str]]:
    """Captions: position, intended and measured value; volumes also as a percentage of the median."""

    def line(word: str, value: float) -> str:
        digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
        share = f", {100 * value / middle:.0f} %" if unit == "ml" and middle > 0 else ""
        return f"{word} {value:.{digits}f} {unit}{share}"

    def caption(stop: WalkStop, value: float | None) -> list[str]:
        lines = [f"{stop.position:+.2g} sd"]
        if stop.intended is not None:
            lines.append(line("intended", stop.intended))
        return lines if value is None else [*lines, line("measured", value)]

    return caption


def _need_encoders(model: Model) -> None:
    if not has_encoder(model):
        raise InputError(
            f"{model.path}: trained without encoders (train.encoder false); use --source generated --starts 0"
        )


def _origin(model: Model, store: Store, config: ExploreConfig) -> dict[str, Any]:
    return {
        "run": {"checkpoint": str(model.path), "step": model.step},
        "store": {"name": store.path.name, "fingerprint": store.store_fingerprint},
        "settings": dataclasses.asdict(config),
    }


def length_of(model: Model, z: np.ndarray) -> float:
    """Return the root mean square norm of latents ``[N, latent_dim]`` relative to that of the prior.

    Far from 1, encoded latents are outside the distribution of adversarial training: directions fitted on them do not
    transfer to samples of the prior, and vice versa.
    """
    return float(np.sqrt(np.mean(z.astype(np.float64) ** 2) / model.networks.prior_mean_square()))


def _ends(values: np.ndarray, span: float) -> tuple[float, float]:
    """Values at both ends of a walk, in a population."""
    low, high = Scale.of(values).value(np.array([-span, span]))
    return float(low), float(high)


def _walk_scores(frames: Sequence[WalkFrame], starts: Sequence[WalkStart]) -> dict[str, WalkScore]:
    """Scores of all walks, and separately of those from encoded volumes and from seeds."""
    seeds = {start.name for start in starts if start.name.startswith("seed-")}
    groups = {
        "all": list(frames),
        "encoded": [frame for frame in frames if frame.start not in seeds],
        "seeds": [frame for frame in frames if frame.start in seeds],
    }
    used = {name: group for name, group in groups.items() if group and (name == "all" or len(group) < len(frames))}
    return {name: score_walks(group) for name, group in used.items()}


def _write(results: ExplorationT, out: Path) -> ExplorationT:
    write_text(out / "explore.json", json.dumps(results.to_dict(), indent=1, allow_nan=False) + "\n")
    return results
