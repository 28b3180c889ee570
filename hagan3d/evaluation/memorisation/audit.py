"""The memorisation audit: are generated volumes copies of training volumes, and do the discriminators reveal them?

The audit can find evidence of memorisation; it cannot prove that a model memorised nothing.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from hagan3d.checkpoint import Model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import FEATURES, Summary, VolumeSet, blocks, feature_scale
from hagan3d.evaluation.memorisation.membership import (
    has_discriminators,
    logits_of,
    membership,
    score_names,
    untrained,
)
from hagan3d.evaluation.memorisation.nearest import (
    Distances,
    authenticity,
    data_copying,
    effective_count,
    nearer,
    twin_ratios,
)
from hagan3d.evaluation.memorisation.results import (
    THRESHOLDS,
    Audit,
    ClosestPair,
    MedianDistances,
    Membership,
    SpaceAudit,
    Twins,
)
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track

SIDE = 16  # voxels per axis at which volumes are compared
SHIFT = 2  # of these voxels: maximum shift per axis in the search for the best match
ROUNDS = 200  # random splits per control
CLOSEST = 20  # pairs in the report
LEAST_SUBJECTS = 3


@dataclass(frozen=True)
class RealVolumes:
    """Features and logits of a set of real volumes."""

    features: np.ndarray
    """Of each volume and of its mirror image along W ``[N, 2, dim]``."""
    logits: dict[str, np.ndarray]
    """``[N, K]`` of K discriminators, by `trained` and `untrained`; empty where the checkpoint has none."""


def shifted_distances(x: np.ndarray, y: np.ndarray, mirror: bool = True) -> np.ndarray:
    """Return the root mean square difference of volumes, minimal over shifts and over mirroring along W.

    Args:
        x: Volumes ``[M, D, H, W]``.
        y: Volumes ``[N, D, H, W]``.
        mirror: Whether to include mirrored volumes.

    Returns:
        ``[M, N]``, over the overlap at shifts of up to `SHIFT` voxels along each axis. Symmetric.
    """
    best = np.full((len(x), len(y)), np.inf, dtype=np.float32)
    x, y = x.astype(np.float32), y.astype(np.float32)
    for one in (x, x[..., ::-1])[: 1 + mirror]:
        for shift in itertools.product(range(-SHIFT, SHIFT + 1), repeat=3):
            a, b = (_overlap(v, sign * np.array(shift)) for v, sign in ((one, 1), (y, -1)))
            square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
            np.minimum(best, square / a.shape[1], out=best)
    return np.sqrt(best.clip(0)).astype(np.float64)


def _overlap(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Voxels of the overlap when ``x [N, D, H, W]`` is shifted against another volume, as rows."""
    sides = x.shape[1:]
    overlap = tuple(slice(max(0, s), side + min(0, s)) for s, side in zip(shift, sides, strict=True))
    return x[(slice(None), *overlap)].reshape(len(x), -1)


def mirrored_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distances ``[M, N]`` of features ``[M, dim]`` to the nearer of both rows of ``[N, 2, dim]``."""
    return np.minimum(cdist(x, y[:, 0]), cdist(x, y[:, 1]))


def _distances(
    generated: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    plain: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Distances:
    """All distances of a space; ``plain`` selects the representation of a real volume that is not mirrored."""

    def among(x: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.where(own[:, None] == own[None], np.inf, measure(plain(x), x))

    return Distances(
        generated_train=measure(generated, train),
        generated_held=measure(generated, held),
        held_train=measure(plain(held), train),
        train_held=measure(plain(train), held),
        train_train=among(train, groups[0]),
        held_held=among(held, groups[1]),
        train_groups=groups[0],
        held_groups=groups[1],
    )


def voxel_space(
    generated: np.ndarray, train: np.ndarray, held: np.ndarray, groups: tuple[np.ndarray, np.ndarray]
) -> Distances:
    """Return all distances of volumes ``[N, SIDE, SIDE, SIDE]``, see `shifted_distances`."""
    return _distances(generated, train, held, groups, shifted_distances)


def feature_space(
    generated: np.ndarray, train: np.ndarray, held: np.ndarray, groups: tuple[np.ndarray, np.ndarray]
) -> Distances:
    """Return all distances of features; generated ``[M, dim]``, real ``[N, 2, dim]`` plain and mirrored."""
    return _distances(generated, train, held, groups, mirrored_distances, lambda x: x[:, 0])


def downsampled(summary: Summary) -> np.ndarray:
    """Return the volumes of a summary at ``[N, SIDE, SIDE, SIDE]``."""
    return blocks(summary["small"], (SIDE,) * 3)


def audit_space(d: Distances, extractor: str | None = None) -> SpaceAudit:
    """Run all tests in one space."""
    ratios = twin_ratios(d.generated_train, d.train_groups)
    real = np.concatenate([twin_ratios(d.held_train, d.train_groups), twin_ratios(d.train_train, d.train_groups)])
    limit = THRESHOLDS.twin_margin * float(real.min())
    twins = Twins(
        limit=limit,
        lowest_real=float(real.min()),
        lowest=float(ratios.min()),
        share=float((ratios < limit).mean()),
        count=int((ratios < limit).sum()),
        sources=len(set(d.generated_train.argmin(axis=1)[ratios < limit].tolist())),
    )
    medians = (float(np.median(x.min(axis=1))) for x in (d.generated_train, d.generated_held, d.held_train))
    return SpaceAudit(
        independent=effective_count(d),
        distances=MedianDistances(*medians),
        twins=twins,
        nearer=nearer(d, ROUNDS),
        authenticity=authenticity(d),
        data_copying=data_copying(d),
        extractor=extractor,
    )


def audit(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    summaries: dict[str, Summary],
    extractor: Extractor,
    channel: int = 0,
    progress: ProgressCallback = no_progress,
) -> Audit:
    """Audit an image channel of an evaluated run; discriminators see all channels.

    Args:
        model: The run, with its discriminators for membership inference.
        store: The store that it was trained on.
        sets: The sets of the protocol, see `volume_sets`.
        summaries: Their summaries.
        extractor: Extractor of the feature space.
        channel: Index of the image channel.
        progress: Shows progress.

    Raises:
        InputError: If the training or held-out volumes are of too few subjects.
    """
    groups = subject_groups(store, sets)
    discriminators = _discriminators(model)
    read = RealReader(model, extractor, discriminators, channel)
    reals = {name: read(sets[name], progress) for name in ("train", "held-out")}
    if extractor.rescale:
        mean, scale = feature_scale(reals["train"].features[:, 0])
        reals = {name: RealVolumes((one.features - mean) / scale, one.logits) for name, one in reals.items()}
    advance = progress("audit", 2)
    names = ("generated", "train", "held-out")
    small = {name: downsampled(summaries[name]) for name in names}
    voxel = voxel_space(small["generated"], small["train"], small["held-out"], groups)
    spaces = {"voxels": audit_space(voxel)}
    advance(1)
    rows = summaries["generated"][FEATURES + extractor.name]
    feature = feature_space(rows, reals["train"].features, reals["held-out"].features, groups)
    spaces["features"] = audit_space(feature, extractor.name)
    advance(1)
    return Audit(
        volumes={name: sets[name].count for name in names},
        spaces=spaces,
        membership=_membership(score_names(model.networks), reals, groups[0]) if discriminators else None,
        pairs=closest_pairs(voxel, small["generated"], small["train"]),
        trained_on=len(store.indices("train", generated=False)),
    )


def subject_groups(store: Store, sets: dict[str, VolumeSet]) -> tuple[np.ndarray, np.ndarray]:
    """Return the subject numbers of the training and of the held-out volumes.

    Raises:
        InputError: If there are too few subjects.
    """
    number = {subject: i for i, subject in enumerate(sorted(set(store.subjects)))}
    groups = []
    for name in ("train", "held-out"):
        own = np.array([number[store.subjects[i]] for i in sets[name].identity["indices"]])
        if len(set(own.tolist())) < LEAST_SUBJECTS:
            raise InputError(
                f"{store.path}: the {name} volumes are of {len(set(own.tolist()))} subjects; --audit needs at least "
                f"{LEAST_SUBJECTS}"
            )
        groups.append(own)
    return groups[0], groups[1]


def _discriminators(model: Model) -> dict[str, Any]:
    if not has_discriminators(model):
        return {}
    return {"trained": model.networks, "untrained": untrained(model)}


@dataclass(frozen=True)
class RealReader:
    """Computes features and logits of real volumes in one pass."""

    model: Model
    extractor: Extractor
    discriminators: dict[str, Any]
    """Networks by name; empty where the checkpoint has no discriminators."""
    channel: int
    """Index of the image channel of which features are extracted."""

    def __call__(self, volumes: VolumeSet, progress: ProgressCallback) -> RealVolumes:
        """Read the volumes of a set."""
        features, logits = [], []
        for x in track(volumes.read(0, volumes.count), f"audit: {volumes.name}", volumes.count, progress):
            seen = x if self.extractor.all_channels else x[self.channel]
            features.append(self.extractor.of_batch(np.stack([seen, seen[..., ::-1]])))
            logits.append([logits_of(nets, [x], self.model.device)[0] for nets in self.discriminators.values()])
        size = len(self.discriminators), len(self.model.networks.discriminators)
        columns = np.array(logits).reshape(len(features), *size)
        by_name = {name: columns[:, i] for i, name in enumerate(self.discriminators)}
        return RealVolumes(np.stack(features).astype(np.float64), by_name)


def _membership(names: list[str], reals: dict[str, RealVolumes], groups: np.ndarray) -> list[Membership]:
    """Attack by the trained discriminators, with the AUC of untrained ones as a control."""
    trained, fresh = (
        membership(names, reals["train"].logits[name], reals["held-out"].logits[name], groups, ROUNDS)
        for name in ("trained", "untrained")
    )
    return [dataclasses.replace(row, untrained_auc=other.auc) for row, other in zip(trained, fresh, strict=True)]


def closest_pairs(d: Distances, generated: np.ndarray, train: np.ndarray) -> list[ClosestPair]:
    """Return the generated volumes with the lowest twin ratios, each with its nearest training volume.

    Args:
        d: Distances in voxel space.
        generated: Generated volumes ``[M, SIDE, SIDE, SIDE]``.
        train: Training volumes ``[N, SIDE, SIDE, SIDE]``.
    """
    ratios = twin_ratios(d.generated_train, d.train_groups)
    pairs = []
    for i in np.argsort(ratios, kind="stable")[:CLOSEST]:
        j = int(d.generated_train[i].argmin())
        distance = float(d.generated_train[i, j])
        plain = float(shifted_distances(generated[i : i + 1], train[j : j + 1], mirror=False)[0, 0])
        held_out = float(d.generated_held[i].min())
        pairs.append(ClosestPair(int(i), j, float(ratios[i]), distance, held_out, plain > distance + 1e-6))
    return pairs
