"""What measures an attribute on generated volumes: chosen, calibrated on real volumes, and judged on held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.attributes import Attribute, ct_measures, find_attribute, measure_of
from hagan3d.evaluation.exploration.directions import Direction, Scale
from hagan3d.evaluation.exploration.measures import ChestCT, Measure, Segmenter, calibrate
from hagan3d.evaluation.exploration.segmentation import read_label_maps, train_unet
from hagan3d.evaluation.exploration.walks import SegmenterReader
from hagan3d.evaluation.settings import ExploreConfig
from hagan3d.inference.encoding import Input, latents

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iteration, given what is done and how often, to show a bar."""


def silent(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """Show no bar."""
    return items


@dataclass(frozen=True)
class Instrument:
    """An attribute of real volumes, and what measures it."""

    attribute: Attribute
    reader: SegmenterReader | None
    """None: nothing can."""

    def summary(self) -> dict[str, Any]:
        """Say what it is and how well it knows the attribute of real held-out volumes."""
        assert self.reader is not None
        made = {"name": self.reader.measure.name, "segmenter": self.reader.segmenter.name}
        return {**made, "on_real_held_out": asdict(self.reader.calibration)}


def instrument_for(
    store: Store, train: np.ndarray, held_out: np.ndarray, name: str, config: ExploreConfig, progress: Progress
) -> Instrument:
    """Find an attribute and what can measure it.

    Raises:
        InputError: If there is no such attribute or measure, or the attribute is unfit.
    """
    indices = np.concatenate([train, held_out])
    maps = None if config.label_maps is None else read_label_maps(store, Path(config.label_maps), indices)
    measure = measure_of(config.measure or name, store, maps)
    if measure is None and config.measure is not None:
        raise InputError(f"--measure {config.measure}: nothing measures that; {_known(store)}")
    attribute = find_attribute(
        store,
        name,
        indices,
        table=None if config.table is None else Path(config.table),
        maps=maps,
        measured=lambda chosen: measure_volumes(store, indices, ChestCT(), chosen, progress),
        skip_missing=config.skip_missing,
    )
    if measure is None:
        return Instrument(attribute, None)
    segmenter: Segmenter = ChestCT()
    if maps is not None:
        segmenter = train_unet(
            store, maps, train, held_out, progress=lambda steps: progress(steps, "train U-Net", len(steps))
        )
    values = measure_volumes(store, attribute.indices, segmenter, measure, progress)
    calibration = calibrate(values, attribute.values, np.isin(attribute.indices, held_out))
    return Instrument(attribute, SegmenterReader(segmenter, measure, calibration))


def measure_volumes(
    store: Store, indices: np.ndarray, segmenter: Segmenter, measure: Measure, progress: Progress = silent
) -> np.ndarray:
    """Measure volumes of a store ``[N]``, one at a time."""
    values = []
    for i in progress(indices, "measure real volumes", len(indices)):
        labels = segmenter(store.volume(i).numpy(), (float(store.lo[i]), float(store.hi[i])), store.affines[i])
        values.append(measure(labels, store.affines[i]))
    return np.array(values)


@dataclass(frozen=True)
class ReadBack:
    """Reads an attribute that nothing measures: encodes the volume, and applies the regression again."""

    model: Model
    direction: Direction
    scale: Scale

    def read(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> tuple[float, None]:
        """Give the value that the regression reads in a volume ``[D, H, W]``."""
        item = Input("", lambda start, depth: x[start : start + depth], len(x), affine, *interval)
        (done,) = latents(self.model, [item])
        return float(self.scale.value(self.direction.read(done.z))), None


def _known(store: Store) -> str:
    offered = [measure.name for measure in ct_measures(store)]
    return ("known: " + ", ".join(offered) + "; " if offered else "") + "with --label-maps also label_1_ml and the like"
