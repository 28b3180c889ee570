"""Facts of the files of a preparation, and its report: what was read, as what, and every remark."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes

from hagan3d.data.io.files import write_text
from hagan3d.data.io.geometry import GridRule, coverage, reorient, spacing_of
from hagan3d.data.io.volumes import Volume
from hagan3d.data.pictures import is_own_picture
from hagan3d.errors import InputError

FEW_SLICES = 4  # with fewer along an axis, a volume is most likely no volume
SMALLEST_MM, LARGEST_MM = (
    1e-2,
    5e3,
)  # sides of volumes, from cells to whole bodies; beyond, the unit is most likely wrong
LITTLE_INSIDE, LITTLE_FILLED = 0.2, 0.05  # shares of a volume on its grid, and of the grid that it fills
SIMILAR_REMARKS = 3  # remarks of one text that are printed one by one


@dataclass(frozen=True)
class FileFacts:
    """What one file of a volume is read as."""

    path: str
    channel: str
    """Name of the channel, or label map, mask, source."""
    shape: tuple[int, ...]
    """Voxels along the axes of the file."""
    spacing: tuple[float, ...]
    """Millimetres per voxel along the axes of the file."""
    orientation: str
    """Axis codes, such as RAS: the side that each axis of the file points to."""
    range: tuple[float, float]
    """Smallest and largest value, file units."""
    voxels: str = ""
    """SHA-256 of all values with axes as those of RAS: formats have other orders."""

    def __str__(self) -> str:
        """Describe the file in one line."""
        shape, spacing = (" x ".join(f"{value:.4g}" for value in values) for values in (self.shape, self.spacing))
        low, high = self.range
        return f"{self.channel}: {self.path}, {shape} voxels of {spacing} mm, {self.orientation}, {low:g} to {high:g}"


def facts_of(volume: Volume, channel: str) -> FileFacts:
    """Return the facts of a volume as it was read."""
    values, _ = reorient(volume.array, volume.affine, "RAS")
    return FileFacts(
        volume.name,
        channel,
        tuple(int(side) for side in volume.array.shape),
        tuple(round(float(step), 6) for step in spacing_of(volume.affine)),
        "".join(code or "?" for code in aff2axcodes(volume.affine)),
        (float(volume.array.min()), float(volume.array.max())),
        hashlib.sha256(np.ascontiguousarray(values).data).hexdigest(),
    )


def odd_shape(volume: Volume, grid: GridRule) -> list[str]:
    """Return remarks on a volume of few slices, as of a localizer, of an impossible size, or hardly on the grid."""
    least, remarks = min(volume.array.shape), []
    if 1 < least < FEW_SLICES:
        sides = " x ".join(map(str, grid.size))
        remarks.append(f"{volume.name}: has {least} slices along one axis, for a volume of {sides} voxels")
    extent = spacing_of(volume.affine) * volume.array.shape
    if least > 1 and not (extent.min() >= SMALLEST_MM and extent.max() <= LARGEST_MM):
        shown = " x ".join(f"{side:.4g}" for side in extent)
        remarks.append(f"{volume.name}: is {shown} mm large: is the unit of its header right?")
    inside, filled = coverage(volume.array, volume.affine, grid)
    if inside < LITTLE_INSIDE:
        remarks.append(f"{volume.name}: {1 - inside:.0%} of it lie outside the grid ({grid}) and are left out")
    elif filled < LITTLE_FILLED:
        remarks.append(f"{volume.name}: fills {filled:.1%} of the grid ({grid}); the rest is padding")
    return remarks


@dataclass(frozen=True)
class CaseFacts:
    """What one volume of a store is made of."""

    id: str
    subject: str
    split: str
    class_name: str | None
    files: tuple[FileFacts, ...]
    state: str
    """Hash of names, sizes, times and inodes of its files: while it is the same, they are unchanged."""

    def __str__(self) -> str:
        """Describe the volume in one line, and one for each of its files."""
        name = "" if self.class_name is None else f", class {self.class_name}"
        return "\n".join(
            [f"{self.id}: subject {self.subject}, {self.split}{name}", *(f"  {one}" for one in self.files)]
        )


def grouped(remarks: Iterable[str]) -> list[str]:
    """Return remarks with those of one text joined, if they are more than three."""
    paths: dict[str, list[str]] = {}
    for remark in remarks:
        path, _, text = remark.partition(": ")
        paths.setdefault(text, []).append(path)
    lines = []
    for text, found in paths.items():
        if len(found) > SIMILAR_REMARKS:
            lines.append(f"{found[0]} and {len(found) - 1} more: {text}")
        else:
            lines += [f"{path}: {text}" if text else path for path in found]
    return lines


def report_path(store: Path) -> Path:
    """Return the path of the report of a store: its name, ending in .json."""
    return store.with_suffix(".json")


def write_report(
    store: Path,
    settings: Mapping[str, Any],
    cases: Iterable[CaseFacts],
    remarks: Iterable[str],
    left_out: Iterable[str],
    states: Mapping[str, str],
) -> None:
    """Write the report of a store next to it, atomically.

    Args:
        store: Its path.
        settings: Of its preparation.
        cases: Facts of its volumes.
        remarks: What its user may not expect.
        left_out: Why files were left out, one line each.
        states: Of the files of each volume that could not be read, by id.
    """
    report = {
        "store": store.name,
        "settings": dict(settings),
        "remarks": list(remarks),
        "left_out": list(left_out),
        "left_out_states": dict(states),
        "volumes": [asdict(case) for case in cases],
    }
    write_text(report_path(store), json.dumps(report, indent=1) + "\n")


def check_neighbours(store: Path) -> None:
    """Raise InputError if a store that is not there yet would replace files of others next to it.

    Its contact sheet and its report have its name; those of a store that was deleted may be replaced.
    """
    report, sheet = report_path(store), store.with_suffix(".png")
    try:
        is_own_report = not report.exists() or {"store", "volumes"} <= {*json.loads(report.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError, RecursionError):
        is_own_report = False
    for path, is_own in ((report, is_own_report), (sheet, not sheet.exists() or is_own_picture(sheet))):
        if not is_own:
            raise InputError(f"{path}: would be replaced, as a store writes a file of that name; use another --output")


def read_report(store: Path) -> dict[str, Any]:
    """Return the report of a store: remarks, and states of the files of volumes and unreadable ones; empty if none."""
    try:
        report = json.loads(report_path(store).read_text(encoding="utf-8"))
        states = {str(case["id"]): str(case["state"]) for case in report["volumes"]}
        states |= {str(name): str(state) for name, state in report.get("left_out_states", {}).items()}
        return {"remarks": [str(remark) for remark in report["remarks"]], "states": states}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"remarks": [], "states": {}}


def to_plain(facts: Iterable[FileFacts]) -> list[dict[str, Any]]:
    """Return facts as plain JSON types."""
    return [asdict(one) for one in facts]


def from_plain(values: Iterable[Mapping[str, Any]]) -> tuple[FileFacts, ...]:
    """Invert `to_plain`."""
    return tuple(
        FileFacts(
            one["path"],
            one["channel"],
            tuple(one["shape"]),
            tuple(one["spacing"]),
            one["orientation"],
            tuple(one["range"]),
            one.get("voxels", ""),
        )
        for one in values
    )
