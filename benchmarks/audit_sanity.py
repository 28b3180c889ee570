"""Does the audit see what it must? Real volumes that play generated ones: copies of training volumes, or none."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import blocks, feature_scale
from hagan3d.evaluation.memorisation.audit import SIDE, feature_space, judge_space, voxel_space
from hagan3d.evaluation.memorisation.nearest import split_subjects

COPIED = 8  # training volumes that are copied
MOVED = 2  # voxels of the full size, the largest shift of a copy along each axis
NOISE = 0.05  # deviation, of volumes in [-1, 1]

Volumes = np.ndarray
Made = Callable[[Mapping[str, Volumes], np.random.Generator], Volumes]


def copies(x: Volumes, count: int, random: np.random.Generator) -> Volumes:
    """Copy volumes ``[N, D, H, W]`` in turn: each shifted, half of them mirrored along W, all with noise."""
    made = []
    for i in range(count):
        shift = random.integers(-MOVED, MOVED + 1, size=3)
        padded = np.pad(x[i % len(x)], MOVED, mode="edge")
        copy = padded[tuple(slice(MOVED - s, MOVED - s + side) for s, side in zip(shift, x.shape[1:], strict=True))]
        copy = copy[..., ::-1] if random.random() < 0.5 else copy
        made.append((copy + NOISE * random.standard_normal(copy.shape)).clip(-1, 1))
    return np.stack(made).astype(np.float32)


def _some(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    """One in ten is a copy; the others are real volumes of other subjects."""
    count = max(1, round(len(x["other"]) / 10))
    return np.concatenate([copies(x["train"][:COPIED], count, random), x["other"][count:]])


def _blurred(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    """Copies as a generator that is not sharp makes them."""
    return gaussian_filter(copies(x["train"][:COPIED], len(x["other"]), random), (0, 1, 1, 1))


def _averages(x: Mapping[str, Volumes], random: np.random.Generator) -> Volumes:
    return (x["other"] + x["other"][random.permutation(len(x["other"]))]) / 2


CASES: Mapping[str, tuple[Made, bool]] = {
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
"""By name what plays the generated volumes, and whether the audit must flag it."""


def check(
    x: Volumes,
    subjects: np.ndarray,
    extractor: Extractor,
    *,
    seed: int = 0,
    cases: Mapping[str, tuple[Made, bool]] = CASES,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Split real volumes by subject in training (half), held-out and other (a quarter each), and audit every case.

    Args:
        x: Real volumes ``[N, D, H, W]`` in [-1, 1].
        subjects: Number of the subject of each ``[N]``.
        extractor: Of features.
        seed: Of the split and of the copies.
        cases: What plays the generated volumes.
        done: Told the name of each case.

    Returns:
        By case and by space what `judge_space` says.
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
    small = [_pooled(sets[name]) for name in ("train", "held-out")]
    found = {}
    for name, (make, _) in cases.items():
        made = make(sets, random)
        rows = (extractor.features(made) - mean) / scale
        found[name] = {
            "voxels": judge_space(voxel_space(_pooled(made), small[0], small[1], groups)),
            "features": judge_space(feature_space(rows, real[0], real[1], groups)),
        }
        done(name)
    return found


def _both(x: Volumes, extractor: Extractor) -> np.ndarray:
    return np.stack([extractor.features(x), extractor.features(x[..., ::-1])], axis=1)


def _pooled(x: Volumes) -> np.ndarray:
    return blocks(x, (SIDE,) * 3)
