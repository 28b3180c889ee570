"""Measurement of an attribute on generated volumes, calibrated on real volumes and evaluated on held-out ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.attributes import (
    THRESHOLDS,
    Attribute,
    ct_measures,
    find_attribute,
    measure_label_maps,
    measure_of,
    own_label_measure,
    own_labels,
)
from hagan3d.evaluation.exploration.directions import Direction, Scale
from hagan3d.evaluation.exploration.measures import ChestCT, Measure, Segmenter, calibrate
from hagan3d.evaluation.exploration.segmentation import read_label_maps, train_unet
from hagan3d.evaluation.exploration.walks import Intervals, LabelMapReader, MeasureReader, SegmenterReader
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.evaluation.settings import ExploreConfig
from hagan3d.inference.encoding import Input, latents


@dataclass(frozen=True)
class Measurement:
    """An attribute of real volumes and its measurement on any volume."""

    attribute: Attribute
    reader: MeasureReader | None
    """None: the attribute cannot be measured."""

    def summary(self) -> dict[str, Any]:
        """Return plain values: names, and accuracy on real volumes, held-out ones if there are enough."""
        if self.reader is None:
            return {"name": "prediction of the encoder and the regression: no independent check"}
        names = {"name": self.reader.measure.name, "segmenter": self.reader.name}
        calibration = self.reader.calibration
        if calibration is None:
            return names
        accuracy = asdict(calibration)
        return {**names, "on_real_held_out" if accuracy.pop("is_held_out") else "on_real_fitted": accuracy}


def measurement_for(
    store: Store, train: np.ndarray, held_out: np.ndarray, name: str, config: ExploreConfig, progress: ProgressCallback
) -> Measurement:
    """Find an attribute and its measurement.

    Raises:
        InputError: If there is no such attribute or measure, or the attribute is unsuitable.
    """
    indices = np.concatenate([train, held_out])
    maps = None if config.label_maps is None else read_label_maps(store, Path(config.label_maps), indices)
    measure = measure_of(config.measure or name, store, maps)
    if measure is None and config.measure is not None:
        raise InputError(f"--measure {config.measure}: unknown measure; {_offered(store)}")
    attribute = find_attribute(
        store,
        name,
        indices,
        table=None if config.table is None else Path(config.table),
        maps=maps,
        measured=lambda one: measure_volumes(store, indices, ChestCT(), one, progress),
        skip_missing=config.skip_missing,
    )
    if measure is None:
        return Measurement(attribute, None)
    if maps is None and own_label_measure(measure.name, store) is not None:
        calibration = None
        if measure.name != attribute.name:
            values = measure_label_maps(store, attribute.indices, measure)
            calibration = calibrate(values, attribute.values, np.isin(attribute.indices, held_out))
        return Measurement(attribute, LabelMapReader(len(store.channels), measure, calibration))
    segmenter: Segmenter = ChestCT()
    if attribute.origin == THRESHOLDS and measure.name == attribute.name:  # no truth to compare with
        return Measurement(attribute, SegmenterReader(segmenter, measure))
    if maps is not None:
        segmenter = train_unet(store, maps, train, held_out, progress=progress)
    values = measure_volumes(store, attribute.indices, segmenter, measure, progress)
    calibration = calibrate(values, attribute.values, np.isin(attribute.indices, held_out))
    return Measurement(attribute, SegmenterReader(segmenter, measure, calibration))


def measure_volumes(
    store: Store, indices: np.ndarray, segmenter: Segmenter, measure: Measure, progress: ProgressCallback = no_progress
) -> np.ndarray:
    """Return the measure of volumes of a store ``[N]``."""
    values = []
    for i in track(indices, "measure real volumes", len(indices), progress):
        lo, hi = store.intervals[i, 0]
        labels = segmenter(store.channel(i).numpy(), (float(lo), float(hi)), store.affines[i])
        values.append(measure(labels, store.affines[i]))
    return np.array(values)


@dataclass(frozen=True)
class ReadBack:
    """Measures by the encoder and the regression itself, where no independent measure exists."""

    model: Model
    direction: Direction
    scale: Scale

    def read(self, x: np.ndarray, intervals: Intervals, affine: np.ndarray) -> tuple[float, None]:
        """Return the attribute that the regression predicts for a volume ``[C, D, H, W]``."""
        item = Input("", lambda start, depth: x[:, start : start + depth], x.shape[1], affine, intervals)
        (done,) = latents(self.model, [item])
        return float(self.scale.value(self.direction.read(done.z))), None


def _offered(store: Store) -> str:
    offered = [f"label_{label}_{unit}" for label in own_labels(store) for unit in ("ml", "percent")]
    offered += [measure.name for measure in ct_measures(store)]
    text = f"use one of {', '.join(offered)}; " if offered else ""
    return text + "with --label-maps also label_N_ml or label_N_percent"
