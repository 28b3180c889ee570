"""Does the instrument see what it must? Real volumes that were spoilt on purpose, against real ones that were not."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import FEATURES, Summary, rescaled, summarize
from hagan3d.evaluation.metrics import voxels
from hagan3d.evaluation.metrics.distances import compare

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]
HALVES = "real halves"
CAUGHT = 5.0  # standard errors
HIGHER_IS_BETTER = ("precision", "recall")


def blurred(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Smooth volumes ``[N, D, H, W]`` by a Gaussian of one voxel."""
    return gaussian_filter(x, (0, 1, 1, 1))


def noisy(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of a twentieth of the range."""
    return (x + 0.1 * random.standard_normal(x.shape, dtype=np.float32)).clip(-1, 1)


def flipped(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Turn the order of the slices round."""
    return x[:, ::-1].copy()


def collapsed(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Repeat one volume."""
    return np.repeat(x[:1], len(x), axis=0)


def shuffled(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Put 4 x 4 x 4 blocks of each volume in a random order."""
    d, h, w = (side // 4 for side in x.shape[1:])
    parts = x.reshape(-1, 4, d, 4, h, 4, w).transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, 64, d, h, w)
    mixed = np.stack([volume[random.permutation(64)] for volume in parts])
    return mixed.reshape(-1, 4, 4, 4, d, h, w).transpose(0, 1, 4, 2, 5, 3, 6).reshape(x.shape)


SPOILT: Mapping[str, Spoil] = {
    "blurred": blurred,
    "noisy": noisy,
    "flipped": flipped,
    "mode-collapsed": collapsed,
    "patch-shuffled": shuffled,
}


@dataclass(frozen=True)
class Row:
    """One measure of one copy."""

    measure: str
    value: float
    error: float
    worse: float
    """Standard errors by which it is worse than for the real halves."""


def check(
    x: np.ndarray,
    extractors: Sequence[Extractor],
    *,
    seed: int = 0,
    rounds: int = 50,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, list[Row]]:
    """Split real volumes in halves, spoil one, and measure it against the other.

    Args:
        x: Real volumes ``[N, D, H, W]`` in [-1, 1].
        extractors: Of features.
        seed: Of the halves and of what is spoilt.
        rounds: Resamplings for errors by bootstrap.
        done: Told the name of each copy measured.

    Returns:
        By name of the copy (`HALVES` first) its measures.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    half, other = x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
    reference = _summary(other, extractors)
    base: dict[str, tuple[float, float]] = {}
    found: dict[str, list[Row]] = {}
    for name, spoil in {HALVES: None, **SPOILT}.items():
        copy = half if spoil is None else spoil(half, random)
        values = _measures(_summary(copy, extractors), reference, extractors, rounds)
        base = base or values
        found[name] = [Row(key, *values[key], _worse(key, values[key], base[key])) for key in values]
        done(name)
    return found


def caught_by(rows: Sequence[Row]) -> list[Row]:
    """Return the measures that say clearly worse, the clearest first."""
    return sorted((row for row in rows if row.worse >= CAUGHT), key=lambda row: -row.worse)


def _summary(x: np.ndarray, extractors: Sequence[Extractor]) -> Summary:
    return summarize(iter(x), extractors, 8, True, x.shape[1:])


def _measures(
    copy: Summary, reference: Summary, extractors: Sequence[Extractor], rounds: int
) -> dict[str, tuple[float, float]]:
    """Value and error of every measure."""
    found: dict[str, tuple[float, float]] = {}
    for extractor in extractors:
        sets = {"copy": copy, "reference": reference}
        if extractor.rescale:
            sets = rescaled(sets, extractor.name, "reference")
        a, b = (sets[name][FEATURES + extractor.name] for name in ("copy", "reference"))
        result = compare(a, b, neighbours=3, subsets=1, rounds=rounds)
        for key in ("kid", "mmd", "fid_shrunk", "precision", "recall"):
            found[f"{key} ({extractor.name})"] = _pair(result[key])
    for key, values in voxels.compare_voxels(copy, reference, rounds).items():
        found[key] = _pair(values)
    row = voxels.variety(copy, reference)[-4]
    found["variety, from 1"] = (abs(row["ratio"] - 1), row["error"])
    alike = voxels.diversity(copy, reference)
    error = math.hypot(alike["generated"]["error"], alike["real"]["error"])
    found["MS-SSIM, from real"] = (abs(alike["generated"]["value"] - alike["real"]["value"]), error)
    return found


def _pair(values: Mapping[str, Any]) -> tuple[float, float]:
    return values["value"], values["error"]


def _worse(key: str, spoilt: tuple[float, float], base: tuple[float, float]) -> float:
    sign = -1 if key.split(" ")[0] in HIGHER_IS_BETTER else 1
    error = math.hypot(spoilt[1], base[1])
    return sign * (spoilt[0] - base[0]) / error if error > 0 else 0.0
