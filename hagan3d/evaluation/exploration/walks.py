"""Latent walks: volumes on disk, measured, and shown as pictures."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.preprocess.metadata import read_table
from hagan3d.evaluation.exploration.measures import LinearCalibration, Measure, Segmenter
from hagan3d.evaluation.exploration.regression import correlation, resampled
from hagan3d.evaluation.exploration.strips import Tile, planes_of, regions_of, write_gif, write_strip
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.inference.generation import volume_slabs, write_csv
from hagan3d.inference.volume_files import LABELS, claim, write_label_names, write_slabs

VOLUMES, WALK_TABLE, STRIP, GIF = "volumes", "walk.csv", "strip.png", "walk.gif"
Intervals = Sequence[tuple[float, float]]
"""Intensities of -1 and 1 of each image channel, in file units."""


@dataclass(frozen=True)
class WalkStart:
    """The start of a walk, and the geometry and units of its volumes."""

    name: str
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    label: int | None
    """Class index; None for an unconditional model."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    intervals: Sequence[tuple[float, float]]
    """Intensities of -1 and 1 of each image channel, in file units."""


@dataclass(frozen=True)
class WalkStop:
    """One latent of a walk."""

    z: np.ndarray
    position: float
    """Standard deviations, interpolation fraction, or truncation factor."""
    intended: float | None = None
    """Target value of the attribute."""


@dataclass(frozen=True)
class WalkFrame:
    """A generated volume of a walk."""

    start: str
    step: int
    position: float
    intended: float | None
    measured: float | None
    file: str


class AttributeReader(Protocol):
    """Measures an attribute of a volume."""

    def read(self, x: np.ndarray, intervals: Intervals, affine: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Return the value of a volume ``[C, D, H, W]`` in [-1, 1], and the mask of the measured voxels."""
        ...


class MeasureReader(AttributeReader, Protocol):
    """Measures labels of a volume."""

    @property
    def name(self) -> str:
        """Where the labels come from."""
        ...

    @property
    def measure(self) -> Measure:
        """What is measured of them."""
        ...

    @property
    def calibration(self) -> LinearCalibration | None:
        """Measures to values of the attribute, fitted on real volumes; None: the measure is the attribute."""
        ...


@dataclass(frozen=True)
class LabelMapReader:
    """Measures the label map that the model generates with a volume."""

    images: int
    """Image channels, which come before those of labels."""
    measure: Measure
    calibration: LinearCalibration | None = None
    """None: the measure is the attribute."""

    @property
    def name(self) -> str:
        """Where the labels come from."""
        return "generated label maps"

    def read(self, x: np.ndarray, intervals: Intervals, affine: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Measure the most probable labels, calibrate."""
        labels = label_map_of(x, self.images)
        value = self.measure(labels, affine)
        return self.calibration(value) if self.calibration else value, np.isin(labels, self.measure.labels)


@dataclass(frozen=True)
class SegmenterReader:
    """Measures by segmentation, calibrated on real volumes if their attribute is known otherwise."""

    segmenter: Segmenter
    measure: Measure
    calibration: LinearCalibration | None = None
    """None: the measure is the attribute."""

    @property
    def name(self) -> str:
        """Where the labels come from."""
        return self.segmenter.name

    def read(self, x: np.ndarray, intervals: Intervals, affine: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Segment the first channel, measure, calibrate."""
        labels = self.segmenter(x[0], intervals[0], affine)
        value = self.measure(labels, affine)
        return self.calibration(value) if self.calibration else value, np.isin(labels, self.measure.labels)


def volume_at(model: Model, z: np.ndarray, label: int | None = None) -> np.ndarray:
    """Generate the volume of a latent ``[latent_dim]``: ``[C, D, H, W]`` in [-1, 1]."""
    index = None if label is None else torch.tensor([label], device=model.device)
    latent = torch.from_numpy(np.asarray(z, np.float32))[None].to(model.device)
    return np.concatenate(list(volume_slabs(model, latent, index)), axis=1)


def walk(
    model: Model,
    walks: Sequence[tuple[WalkStart, Sequence[WalkStop]]],
    out: Path,
    *,
    title: str,
    caption: Callable[[WalkStop, float | None], Sequence[str]],
    reader: AttributeReader | None = None,
    task: str = "walk",
    progress: ProgressCallback = no_progress,
) -> list[WalkFrame]:
    """Generate every volume of some walks: NIfTI files, table, strip and animated GIF in a folder.

    One volume is in memory at a time.

    Args:
        model: The model, with G.
        walks: Starts and their stops, equally many for each.
        out: Folder for `volumes/START_STEP.nii.gz` (a file per channel, and `_seg` with `labels.json`, of several),
            `walk.csv`, `strip.png` and `walk.gif`.
        title: Title of the pictures.
        caption: Caption lines of a stop, given the measured value.
        reader: Measures each volume.
        task: Name of the task for progress.
        progress: Shows progress.
    """
    todo = [(start, step, stop) for start, stops in walks for step, stop in enumerate(stops)]
    frames: list[WalkFrame] = []
    rows: dict[str, list[Tile]] = {start.name: [] for start, _ in walks}
    taken: set[Path] = set()
    for start, step, stop in track(todo, task, len(todo), progress):
        x = volume_at(model, stop.z, start.label)
        value, mask = reader.read(x, start.intervals, start.affine) if reader else (None, None)
        path = claim(out / VOLUMES / f"{_stem(start.name, step)}.nii.gz", taken)
        files, _ = write_slabs([x], model.description, path, affine=start.affine, intervals=start.intervals)
        frames.append(WalkFrame(start.name, step, stop.position, stop.intended, value, files[0].name))
        label_map = label_map_of(x, len(start.intervals)) if model.description.label_names else None
        picture = planes_of(x[0], start.affine, regions_of(mask, label_map))
        rows[start.name].append(Tile(picture, tuple(caption(stop, value))))
    write_label_names(out / VOLUMES, model.description)
    _write_table(frames, out / WALK_TABLE)
    write_strip(list(rows.items()), title, out / STRIP)
    write_gif(list(rows.items()), title, out / GIF)
    return frames


def files_of_walks(out: Path) -> Iterator[Path]:
    """Yield the tables and pictures of the walks in a folder, and the volumes that the tables name."""
    for table in (out / WALK_TABLE, *out.glob(f"component-*/{WALK_TABLE}")):
        lines = read_table(table)[1] if table.exists() else []
        if lines and {"start", "step"} <= lines[0].keys():
            names = (table.name, STRIP, GIF, f"{VOLUMES}/{LABELS}")
            yield from (path for name in names if (path := table.parent / name).exists())
            for line in lines:
                stem = glob.escape(_stem(line["start"], line["step"]))
                yield from (table.parent / VOLUMES).glob(f"{stem}[._]*nii.gz")


def _stem(start: str, step: int | str) -> str:
    """Return what the names of the files of a volume begin with."""
    return f"{start.replace('/', '_')}_{step}"


def _write_table(frames: Sequence[WalkFrame], path: Path) -> None:
    rows = [
        [
            f.start,
            f.step,
            f"{f.position:.4g}",
            *("" if v is None else f"{v:.6g}" for v in (f.intended, f.measured)),
            f.file,
        ]
        for f in frames
    ]
    write_csv(path, ["start", "step", "position", "intended", "measured", "file"], rows)


@dataclass(frozen=True)
class WalkScore:
    """Whether a measured attribute follows its intended values."""

    correlation: Estimate
    """Correlation of intended and measured values over all stops; interval by bootstrap over starts."""
    monotone: float
    """Share of the walks along which the measured value increases at every step."""
    slope: float
    """Regression slope of measured on intended values; 1: exact."""


def score_walks(frames: Sequence[WalkFrame]) -> WalkScore:
    """Compare measured with intended values.

    Raises:
        ValueError: If frames lack these values.
    """
    if any(frame.intended is None or frame.measured is None for frame in frames):
        raise ValueError("expected frames with intended and measured values")
    names = [frame.start for frame in frames]
    intended, measured = (np.array([getattr(f, key) for f in frames], float) for key in ("intended", "measured"))
    walks = [np.diff(measured[[other == name for other in names]]) for name in dict.fromkeys(names)]
    spread = float(intended.var())
    slope = float(np.cov(intended, measured, bias=True)[0, 1]) / spread if spread > 0 else 0.0
    monotone = float(np.mean([(steps > 0).all() for steps in walks]))
    return WalkScore(resampled(correlation, intended, measured, names), monotone, slope)
