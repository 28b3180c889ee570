"""Walks through latent space: latents to volumes on disk, measured on the way, and shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.evaluation.exploration.measures import Calibration, Measure, Segmenter
from hagan3d.evaluation.exploration.regression import Estimate, correlation, resampled
from hagan3d.evaluation.exploration.strips import Tile, planes_of, write_gif, write_strip
from hagan3d.inference.generation import volume_slabs, write_csv, write_slabs


@dataclass(frozen=True)
class Start:
    """Where a walk begins, and the place and the units of the volumes it makes."""

    name: str
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    label: int | None
    """Class index; None in a model without classes."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    interval: tuple[float, float]
    """File units of -1 and 1."""


@dataclass(frozen=True)
class Stop:
    """One latent of a walk."""

    z: np.ndarray
    position: float
    """Standard deviations, share of the way, or factor."""
    intended: float | None = None
    """Value of the attribute that was aimed at."""


@dataclass(frozen=True)
class Frame:
    """What became of a stop."""

    start: str
    step: int
    position: float
    intended: float | None
    measured: float | None
    file: str


class Reader(Protocol):
    """What measures a volume."""

    def read(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Give the value of a volume ``[D, H, W]`` in [-1, 1], and the voxels that were counted, bool."""
        ...


@dataclass(frozen=True)
class SegmenterReader:
    """Measures by a segmenter, calibrated on real volumes."""

    segmenter: Segmenter
    measure: Measure
    calibration: Calibration

    def read(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Segment, count, calibrate."""
        labels = self.segmenter(x, interval, affine)
        return self.calibration(self.measure(labels, affine)), np.isin(labels, self.measure.labels)


def volume_at(model: Model, z: np.ndarray, label: int | None = None) -> np.ndarray:
    """Make the volume of a latent ``[latent_dim]``: ``[D, H, W]`` in [-1, 1], in memory."""
    index = None if label is None else torch.tensor([label], device=model.device)
    latent = torch.from_numpy(np.asarray(z, np.float32))[None].to(model.device)
    return np.concatenate(list(volume_slabs(model, latent, index)))


def walk(
    model: Model,
    walks: Sequence[tuple[Start, Sequence[Stop]]],
    out: Path,
    *,
    title: str,
    caption: Callable[[Stop, float | None], Sequence[str]],
    reader: Reader | None = None,
    progress: Callable[[Iterable[tuple[Start, int, Stop]]], Iterable[tuple[Start, int, Stop]]] = lambda items: items,
) -> list[Frame]:
    """Make every stop of some walks: volumes, table, strip and moving picture in a folder.

    One volume is in memory at a time.

    Args:
        model: The model; of its networks G is enough.
        walks: Starts and their stops, as many of each.
        out: Folder for `volumes/START_STEP.nii.gz`, `walk.csv`, `strip.png` and `walk.gif`.
        title: First line of the pictures.
        caption: Lines below a stop, given what was measured.
        reader: Measures each volume.
        progress: Wraps the iteration, to show a bar.
    """
    todo = [(start, step, stop) for start, stops in walks for step, stop in enumerate(stops)]
    frames: list[Frame] = []
    rows: dict[str, list[Tile]] = {start.name: [] for start, _ in walks}
    for start, step, stop in progress(todo):
        x = volume_at(model, stop.z, start.label)
        value, mask = reader.read(x, start.interval, start.affine) if reader else (None, None)
        path = out / "volumes" / f"{start.name.replace('/', '_')}_{step}.nii.gz"
        write_slabs([x], model.description, path, affine=start.affine, interval=start.interval)
        frames.append(Frame(start.name, step, stop.position, stop.intended, value, path.name))
        rows[start.name].append(Tile(planes_of(x, start.affine, mask), tuple(caption(stop, value))))
    _write_table(frames, out / "walk.csv")
    write_strip(list(rows.items()), title, out / "strip.png")
    write_gif(list(rows.items()), title, out / "walk.gif")
    return frames


def _write_table(frames: Sequence[Frame], path: Path) -> None:
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
class Verdict:
    """Whether an attribute moved as intended."""

    correlation: Estimate
    """Of intended and measured over all stops; the interval is over starts."""
    monotone: float
    """Share of the walks on which every step measured more than the one before."""
    slope: float
    """Measured change per intended change; 1 is exact."""


def judge(frames: Sequence[Frame]) -> Verdict:
    """Compare what was measured with what was intended.

    Raises:
        ValueError: If frames have no such values.
    """
    if any(frame.intended is None or frame.measured is None for frame in frames):
        raise ValueError("want frames with intended and measured values")
    names = [frame.start for frame in frames]
    intended, measured = (np.array([getattr(f, key) for f in frames], float) for key in ("intended", "measured"))
    walks = [np.diff(measured[[other == name for other in names]]) for name in dict.fromkeys(names)]
    spread = float(intended.var())
    slope = float(np.cov(intended, measured, bias=True)[0, 1]) / spread if spread > 0 else 0.0
    monotone = float(np.mean([(steps > 0).all() for steps in walks]))
    return Verdict(resampled(correlation, intended, measured, names), monotone, slope)
