"""Pictures of volumes as a radiologist holds them: front and head up, the patient's left on the right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image, ImageDraw, ImageFont

from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import reorient, spacing_of

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
DISPLAY = "IPL"  # axes of a volume as it is displayed; a plane of each kind is across one of them, in this order

CELL = 160  # pixels of the longest side of a plane, at least
MOST_CELL = 384  # pixels of the longest side, at most
GAP = 6  # pixels between planes
TEXT = 15  # pixels of a line of text, with the space round it 22
LINE = 22
GROUND, INK = 16, 235  # grey levels


class MiddlePlanes:
    """The middle slices of a volume that comes slab by slab; the sheets take it in place of the volume."""

    def __init__(self, shape: Sequence[int], affine: np.ndarray) -> None:
        """Await a volume of `shape` [D, H, W] voxels, to be shown with `affine`, index (d, h, w) to RAS mm [4, 4]."""
        self.shape = tuple(shape)
        self._cuts = {plane: _middle(self.shape, affine, plane) for plane in PLANES}
        self._slices = {
            plane: np.zeros([1 if axis == across else side for axis, side in enumerate(shape)], np.float32)
            for plane, (across, _) in self._cuts.items()
        }
        self._done = 0

    def add(self, slab: np.ndarray) -> None:
        """Take the next slices along D."""
        first, self._done = self._done, self._done + len(slab)
        for plane, (across, index) in self._cuts.items():
            if across:
                self._slices[plane][first : self._done] = slab.take([index], across)
            elif first <= index < self._done:
                self._slices[plane][0] = slab[index - first]

    def slice(self, plane: Plane) -> np.ndarray:
        """Give the middle slice of a plane as a volume that is one voxel thick."""
        return self._slices[plane]


def contact_sheet(
    volumes: Sequence[Any],
    affine: np.ndarray,
    captions: Sequence[str],
    path: Path,
    planes: Sequence[Plane] = PLANES,
    columns: int = 2,
) -> None:
    """Write a PNG with the middle planes of each volume side by side and a caption below.

    Args:
        volumes: Arrays or CPU tensors [D, H, W] in [-1, 1], or the `MiddlePlanes` of such.
        affine: Index (d, h, w) to RAS mm, of all of them [4, 4] or of each [N, 4, 4].
        captions: One per volume; too long ones are shortened in the middle.
        path: Name of the .png; written whole or not at all.
        planes: Planes, in order.
        columns: Volumes side by side.
    """
    tiles = [
        _captioned(_row([_plane(volume, own, plane) for plane in planes]), text)
        for volume, own, text in zip(volumes, np.broadcast_to(affine, (len(volumes), 4, 4)), captions, strict=True)
    ]
    rows = [_row(tiles[first : first + columns], 3 * GAP) for first in range(0, len(tiles), columns)]
    _save(_column(rows, 2 * GAP), path)


def comparison_sheet(
    groups: Mapping[str, Sequence[Any]], affine: np.ndarray, path: Path, planes: Sequence[Plane] = PLANES
) -> None:
    """Write a PNG with one block per group, such as real and generated: volumes side by side, a row per plane.

    Args:
        groups: Arrays or CPU tensors [D, H, W] in [-1, 1], or the `MiddlePlanes` of such, by the title of their block.
        affine: Index (d, h, w) to RAS mm [4, 4], of all of them.
        path: Name of the .png; written whole or not at all.
        planes: Planes, in order.
    """
    blocks = []
    for title, volumes in groups.items():
        rows = [_row([_plane(volume, affine, plane) for volume in volumes]) for plane in planes]
        blocks.append(_titled(_column(rows), title))
    _save(_column(blocks, 2 * GAP), path)


def middle_plane(volume: Any, affine: np.ndarray, plane: Plane) -> tuple[np.ndarray, tuple[float, float]]:
    """Cut the middle slice of a plane, turned for display.

    Args:
        volume: Array or CPU tensor [D, H, W], or the `MiddlePlanes` of one.
        affine: Index (d, h, w) to RAS mm [4, 4].
        plane: axial (front up), coronal or sagittal (head up; front to the left).

    Returns:
        The slice [rows, columns] and the millimetres from row to row and from column to column.
    """
    if isinstance(volume, MiddlePlanes):
        cut = volume.slice(plane)
    else:
        across, index = _middle(volume.shape, affine, plane)
        cut = np.asarray(volume[(slice(None),) * across + (slice(index, index + 1),)], dtype=np.float32)
    turned, turned_affine = reorient(cut, affine, DISPLAY)
    axis = PLANES.index(plane)
    spacing = spacing_of(turned_affine)
    down, across_mm = (float(spacing[other]) for other in range(3) if other != axis)
    return turned.squeeze(axis), (down, across_mm)


def _middle(shape: Sequence[int], affine: np.ndarray, plane: Plane) -> tuple[int, int]:
    """Axis across a plane and index of its middle slice: the one behind the centre as it is displayed."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(DISPLAY))
    axis = int(np.flatnonzero(turn[:, 0] == PLANES.index(plane))[0])
    side = shape[axis]
    return axis, side // 2 if turn[axis, 1] > 0 else side - 1 - side // 2


def _plane(volume: Any, affine: np.ndarray, plane: Plane) -> Image.Image:
    """Middle slice as a picture with square pixels; all planes of one volume have one scale."""
    values, (down, across) = middle_plane(volume, affine, plane)
    extent = np.array(volume.shape) * spacing_of(affine)
    longest = min(max(CELL, max(volume.shape)), MOST_CELL)
    per_mm = longest / float(extent.max())
    grey = np.rint((np.clip(np.nan_to_num(values), -1, 1) + 1) * 127.5).astype(np.uint8)
    width = max(1, round(values.shape[1] * across * per_mm))
    height = max(1, round(values.shape[0] * down * per_mm))
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)


def _row(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures side by side, centred on one line."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    height = max(picture.height for picture in pictures)
    sheet, x = Image.new("L", (width, height), GROUND), 0
    for picture in pictures:
        sheet.paste(picture, (x, (height - picture.height) // 2))
        x += picture.width + gap
    return sheet


def _column(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures below each other."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    sheet, y = Image.new("L", (max(picture.width for picture in pictures), height), GROUND), 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + gap
    return sheet


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    return _column([picture, _line(text, picture.width)], 0)


def _titled(picture: Image.Image, text: str) -> Image.Image:
    return _column([_line(text, picture.width), picture], 0)


def _line(text: str, width: int) -> Image.Image:
    """One line of text, shortened in the middle to fit."""
    font, kept = ImageFont.load_default(TEXT), text
    for half in range(len(text) // 2, -1, -1):
        if font.getlength(kept) <= width:
            break
        kept = f"{text[:half]}...{text[len(text) - half :]}"
    picture = Image.new("L", (width, LINE), GROUND)
    ImageDraw.Draw(picture).text((2, 2), kept, fill=INK, font=font)
    return picture


def _save(picture: Image.Image, path: Path) -> None:
    framed = Image.new("L", (picture.width + 2 * GAP, picture.height + 2 * GAP), GROUND)
    framed.paste(picture, (GAP, GAP))
    with replacing(path) as beside:
        framed.save(beside, format="PNG")
