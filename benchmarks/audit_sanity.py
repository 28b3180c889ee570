"""Sanity check of the memorisation audit: it must flag copies of training volumes and no other real volumes."""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import blocks, feature_scale
from hagan3d.evaluation.memorisation.audit import SIDE, audit_space, feature_space, voxel_space
from hagan3d.evaluation.memorisation.nearest import split_subjects
from hagan3d.evaluation.memorisation.results import SpaceAudit

COPIED = 8  # training volumes that are copied
MOST_SHIFT = 2  # voxels at full resolution, maximum shift of a copy along each axis
NOISE = 0.05  # standard deviation, of volumes in [-1, 1]

Volumes = np.ndarray
Simulate = Callable[[Mapping[str, Volumes], np.random.Generator], Volumes]


def copies(x: Volumes, count: int, random: np.random.Generator) -> Volumes:
    """Copy volumes ``[N, D, H, W]`` in turn, each randomly shifted, half of them mirrored along W, with noise."""
    result = []
    for i in range(count):
        shift = random.integers(-MOST_SHIFT, MOST_SHIFT + 1, size=3)
        padded = np.pad(x[i % len(x)], MOST_SHIFT, mode="edge")
        copy = padded[
            tuple(slice(MOST_SHIFT - s, MOST_SHIFT - s + side) for s, side in zip(shift, x.shape[1:], strict=True))
        ]
        copy = copy[..., ::-1] if random.random() < 0.5 else copy
        result.append((copy + NOISE * random.standard_normal(copy.shape)).clip(-1, 1))
    return np.stack(result).astype(np.float32)


def _some(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    """10 % copies; the others are real volumes of other subjects."""
    count = max(1, round(len(x["other"]) / 10))
    return np.concatenate([copies(x["train"][:COPIED], count, random), x["other"][count:]])


def _blurred(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    """Blurred copies, as of a generator without sharp details."""
    return gaussian_filter(copies(x["train"][:COPIED], len(x["other"]), random), (0, 1, 1, 1))


def _averages(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    return (x["other"] + x["other"][random.permutation(len(x["other"]))]) / 2


CASES: Mapping[str, tuple[Simulate, bool]] = {
    "other real volumes": (lambda x, random: x["other"], False),
    "blurred real volumes": (lambda x, random: gaussian_filter(x["other"], (0, 1, 1, 1)), False),
    "averages of two": (_averages, False),
    "one volume repeated": (lambda x, random: copies(x["other"][:1], len(x["other"]), random), False),
    "copies of 8 held-out": (lambda x, random: copies(x["held-out"][:COPIED], len(x["other"]), random), False),
    "copies of 8 training": (lambda x, random: copies(x["train"][:COPIED], len(x["other"]), random), True),
    "blurred copies of 8": (_blurred, True),
    "copies of all training": (lambda x, random: copies(x["train"], len(x["other"]), random), True),
    "1 copy in 10": (_some, True),
}
"""Simulated generated volumes by name, and whether the audit must flag them."""


def check(
    x: Volumes,
    subjects: np.ndarray,
    extractor: Extractor,
    *,
    seed: int = 0,
    cases: Mapping[str, tuple[Simulate, bool]] = CASES,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, SpaceAudit]]:
    """Split real volumes by subject in training (half), held-out and other (a quarter each), and audit every case.

    Args:
        x: Real volumes ``[N, D, H, W]`` in [-1, 1].
        subjects: Subject number of each volume ``[N]``.
        extractor: Feature extractor.
        seed: Seed of the split and of the copies.
        cases: Simulated generated volumes.
        done: Called with the name of each case.

    Returns:
        Results by case and by space.
    """
    random = np.random.default_rng(seed)
    train = split_subjects(subjects, len(x) // 2, random)
    rest = np.flatnonzero(~train)
    held = split_subjects(subjects[rest], len(rest) // 2, random)
    sets = {"train": x[train], "held-out": x[rest[held]], "other": x[rest[~held]]}
    groups = subjects[train], subjects[rest[held]]
    features = {name: _both(sets[name], extractor) for name in ("train", "held-out")}
    mean, scale = feature_scale(features["train"][:, 0]) if extractor.rescale else (0.0, 1.0)
    real = [(features[name] - mean) / scale for name in ("train", "held-out")]
    small = [_downsampled(sets[name]) for name in ("train", "held-out")]
    results = {}
    for name, (simulate, _) in cases.items():
        generated = simulate(sets, random)
        rows = (extractor.features(generated) - mean) / scale
        results[name] = {
            "voxels": audit_space(voxel_space(_downsampled(generated), small[0], small[1], groups)),
            "features": audit_space(feature_space(rows, real[0], real[1], groups)),
        }
        done(name)
    return results


def _both(x: Volumes, extractor: Extractor) -> np.ndarray:
    return np.stack([extractor.features(x), extractor.features(x[..., ::-1])], axis=1)


def _downsampled(x: Volumes) -> np.ndarray:
    return blocks(x, (SIDE,) * 3)
