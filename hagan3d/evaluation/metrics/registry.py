"""Registry of metrics: the only list of their keys.

A metric is one function in a module of this folder, decorated with `metric`. The protocol, the report, the verdicts
and the sanity check of benchmarks/metric_sanity.py iterate over the registry, so a new metric is one file with one
function, and its test.

``needs`` says what the function gets:

- ``features``: the features ``[M, dim]`` of the set to evaluate and those ``[N, dim]`` of the reference set.
- ``voxels:KEY``: the array ``KEY`` of the summaries of both sets, ``[M, ...]`` and ``[N, ...]`` (see
  `hagan3d.evaluation.features.summary.describe` for the keys).
- ``texture:KEY``: the same of the arrays of `hagan3d.evaluation.features.texture.describe_texture`.
- ``labels:KEY``: the array ``KEY`` of one label of both sets, ``[M]`` and ``[N]``: `voxels`, `components` (see
  `hagan3d.evaluation.features.label_maps.LabelView`) or `volume`, in standard deviations of the training volumes.
- ``pair``: a `hagan3d.evaluation.metrics.translation.TranslatedPair` and a mask ``[C, D, H, W]``; returns a float.

A metric of two sets returns an `Estimate`, or a plain float: then the caller estimates the standard error by bootstrap,
resampling the subjects of both sets (see `hagan3d.evaluation.metrics.compare.estimate`). One that returns an `Estimate`
and is ``by_subject`` takes the subjects of both sets as ``subjects``, for its own standard error.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

Better = Literal["lower", "higher", "zero"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A registered metric."""

    key: str
    """Key in metrics.json."""
    title: str
    """Name in the report."""
    better: Better
    """Which values are better; ``zero``: those nearer to zero, of a signed difference."""
    needs: str
    """Input of the function, see the module."""
    function: Callable[..., Any]
    unit: str = ""
    """Unit; ``intensity`` stands for the units of the volumes."""
    settings: tuple[str, ...] = ()
    """Settings of `EvaluateConfig` that the function takes as keyword arguments."""
    in_verdict: Literal["no", "shown", "decides"] = "no"
    """Whether the verdict states the value (shown), and whether the value decides between good and bad (decides)."""
    matters: float = math.inf
    """Smallest difference from the floor that a reader would care about: finer differences may stay unseen."""
    by_subject: bool = False
    """Whether the function takes ``subjects``, two arrays with the subject number of each volume."""


def badness(value: float, better: Better) -> float:
    """Return a number that is higher for worse values."""
    if better == "zero":
        return abs(value)
    return value if better == "lower" else -value


_METRICS: dict[str, Metric] = {}


def metric(
    key: str,
    *,
    title: str,
    better: Better,
    needs: str,
    unit: str = "",
    settings: tuple[str, ...] = (),
    in_verdict: Literal["no", "shown", "decides"] = "no",
    matters: float = math.inf,
    by_subject: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a metric; see `Metric` for the arguments.

    Raises:
        ValueError: If another function has the key already.
    """

    def register(function: Function) -> Function:
        if key in _METRICS and _METRICS[key].function is not function:
            raise ValueError(f"two metrics have the key {key!r}")
        _METRICS[key] = Metric(key, title, better, needs, function, unit, settings, in_verdict, matters, by_subject)
        return function

    return register


def metrics(needs: str) -> list[Metric]:
    """Return the metrics of one kind of input, in the order of registration; ``voxels`` means all ``voxels:KEY``."""
    _import_modules()
    return [one for one in _METRICS.values() if one.needs == needs or one.needs.startswith(f"{needs}:")]


def titles(needs: str) -> dict[str, str]:
    """Return the title of each metric of one kind of input, with its unit, by key."""
    return {one.key: ", ".join(filter(None, (one.title, one.unit))) for one in metrics(needs)}


@cache
def _import_modules() -> None:
    """Import all modules of this folder, so that their metrics are registered."""
    package = importlib.import_module(__package__ or "")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
