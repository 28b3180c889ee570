"""Sanity check of the metrics: each must rank degraded real volumes worse than untouched ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import FEATURES, ChannelView, Summary, blocks, rescaled, summarize
from hagan3d.evaluation.metrics import voxels
from hagan3d.evaluation.metrics.compare import compare_features, compare_summaries
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.registry import Better, badness, metrics
from hagan3d.evaluation.settings import EvaluateConfig

Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
HALVES = "real halves"
DETECTED = 5.0  # standard errors
VOLUME_METRICS = ("voxels", "texture")  # kinds of metrics that need no network


def blurred(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Smooth volumes ``[N, D, H, W]`` with a Gaussian of one voxel."""
    return gaussian_filter(x, (0, 1, 1, 1))


def slightly_blurred(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Smooth volumes ``[N, D, H, W]`` with a Gaussian of half a voxel, which the eye hardly sees."""
    return gaussian_filter(x, (0, 0.5, 0.5, 0.5))


def upsampled(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Halve the resolution by block means and repeat every voxel (nearest-neighbour upsampling)."""
    small = blocks(x, [side // 2 for side in x.shape[1:]])
    return small.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)


def noisy(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of 5 % of the range."""
    return (x + 0.1 * random.standard_normal(x.shape, dtype=np.float32)).clip(-1, 1)


def flipped(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Reverse the order of the slices."""
    return x[:, ::-1].copy()


def collapsed(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Repeat one volume (mode collapse)."""
    return np.repeat(x[:1], len(x), axis=0)


def shuffled(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Permute the 4 x 4 x 4 blocks of each volume."""
    d, h, w = (side // 4 for side in x.shape[1:])
    cut = x.reshape(-1, 4, d, 4, h, 4, w).transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, 64, d, h, w)
    mixed = np.stack([volume[random.permutation(64)] for volume in cut])
    return mixed.reshape(-1, 4, 4, 4, d, h, w).transpose(0, 1, 4, 2, 5, 3, 6).reshape(x.shape)


DEGRADED: Mapping[str, Degradation] = {
    "blurred": blurred,
    "half a voxel": slightly_blurred,
    "upsampled": upsampled,
    "noisy": noisy,
    "flipped": flipped,
    "mode-collapsed": collapsed,
    "patch-shuffled": shuffled,
}


@dataclass(frozen=True)
class MetricScore:
    """One metric of one copy."""

    metric: str
    estimate: Estimate
    worse: float
    """Standard errors by which it is worse than that of the real halves."""


def check(
    x: np.ndarray,
    extractors: Sequence[Extractor],
    *,
    seed: int = 0,
    rounds: int = 50,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, list[MetricScore]]:
    """Split real volumes in halves, degrade one, and compare it with the other.

    Args:
        x: Real volumes ``[N, D, H, W]`` in [-1, 1].
        extractors: Feature extractors.
        seed: Seed of the halves and of the degradations.
        rounds: Bootstrap resamplings per standard error.
        done: Called with the name of each copy when it is measured.

    Returns:
        Scores of each copy by name, `HALVES` first.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    half, other = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
    reference = _summary(other, extractors)
    better = _better(extractors)
    base: dict[str, Estimate] = {}
    scores: dict[str, list[MetricScore]] = {}
    for name, degrade in {HALVES: None, **DEGRADED}.items():
        copy = half if degrade is None else degrade(half, random)
        values = _estimates(_summary(copy, extractors), reference, extractors, rounds)
        base = base or values
        scores[name] = [
            MetricScore(key, v, _worse(v, base[key], better.get(key, "lower"))) for key, v in values.items()
        ]
        done(name)
    return scores


def detected_by(scores: Sequence[MetricScore]) -> list[MetricScore]:
    """Return the metrics that are clearly worse, the clearest first."""
    return sorted((row for row in scores if row.worse >= DETECTED), key=lambda row: -row.worse)


def _summary(x: np.ndarray, extractors: Sequence[Extractor]) -> Summary:
    return summarize(iter(x[:, None]), [ChannelView(Path(), extractors)], 8, True, x.shape[1:])[0]


def _better(extractors: Sequence[Extractor]) -> dict[str, Better]:
    """Return which values are better, by name of the score."""
    features = {f"{one.key} ({extractor.name})": one.better for one in metrics("features") for extractor in extractors}
    return features | {one.key: one.better for needs in VOLUME_METRICS for one in metrics(needs)}


def _estimates(copy: Summary, reference: Summary, extractors: Sequence[Extractor], rounds: int) -> dict[str, Estimate]:
    """All metrics with a standard error, and the differences of variety and MS-SSIM from those of real volumes."""
    config = EvaluateConfig(bootstrap=rounds, kid_subsets=1)
    values: dict[str, Estimate] = {}
    for extractor in extractors:
        sets = {"copy": copy, "reference": reference}
        if extractor.rescale:
            sets = rescaled(sets, extractor.name, "reference")
        a, b = (sets[name][FEATURES + extractor.name] for name in ("copy", "reference"))
        estimates = compare_features(a, b, config).estimates
        values |= {f"{key} ({extractor.name})": one for key, one in estimates.items() if one.error is not None}
    for needs in VOLUME_METRICS:
        values |= compare_summaries(needs, copy, reference, config)
    row = voxels.variety(copy, reference)[-4]
    values["variety, from 1"] = Estimate(abs(row.ratio - 1), row.error)
    a, b = (voxels.pair_similarity(x).estimate for x in (copy, reference))
    values["MS-SSIM, from real"] = Estimate(abs(a.value - b.value), math.hypot(a.error, b.error))
    return values


def _worse(degraded: Estimate, base: Estimate, better: Better) -> float:
    error = math.hypot(degraded.error, base.error)
    return (badness(degraded.value, better) - badness(base.value, better)) / error if error > 0 else 0.0
