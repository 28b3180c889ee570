"""Pictures of walks: strips of slices with measured voxels and labels in colour, captions, and an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.pictures import (
    GAP,
    Colour,
    Plane,
    column_of,
    draw_mask,
    font,
    label_colour,
    middle_plane,
    row_of,
    write_png,
)

CELL = 176  # pixels of the longest side of a volume
LINE, TEXT = 16, 11  # pixels
GROUND, INK, RED = (16, 16, 16), (235, 235, 235), (230, 40, 40)
INSIDE, RIM = 0.18, 2  # opacity of the colour inside a measured region, and pixels of its outline
MILLISECONDS = 350  # per frame of the GIF
PLANES: tuple[Plane, ...] = ("coronal", "axial")


@dataclass(frozen=True)
class Tile:
    """One volume of a picture."""

    planes: Image.Image
    caption: tuple[str, ...]
    """Lines of text."""


@dataclass(frozen=True)
class Region:
    """Voxels that a picture outlines in a colour."""

    mask: np.ndarray
    """``[D, H, W]``, bool."""
    colour: Colour
    is_measured: bool = True
    """Whether the inside is tinted too."""


def regions_of(mask: np.ndarray | None, label_map: np.ndarray | None = None) -> list[Region]:
    """Return what a picture marks: measured voxels in red; with a label map, each label in its own colour.

    Args:
        mask: Measured voxels ``[D, H, W]``, bool.
        label_map: Labels ``[D, H, W]``; those of measured voxels are tinted.
    """
    if label_map is None:
        return [] if mask is None else [Region(mask, RED)]
    labels = [int(label) for label in np.unique(label_map) if label]
    own = {label: label_map == label for label in labels}
    return [
        Region(own[label], label_colour(label), mask is not None and bool(mask[own[label]].any())) for label in labels
    ]


def planes_of(x: np.ndarray, affine: np.ndarray, regions: Sequence[Region] = ()) -> Image.Image:
    """Draw the middle coronal and axial plane of a volume, one above the other.

    Args:
        x: Volume ``[D, H, W]`` in [-1, 1].
        affine: Index (d, h, w) to RAS mm ``[4, 4]``.
        regions: Voxels to mark.
    """
    per_mm = CELL / float((np.array(x.shape) * spacing_of(affine)).max())
    return column_of([_plane(x, affine, regions, plane, per_mm) for plane in PLANES], GAP // 2)


def _plane(x: np.ndarray, affine: np.ndarray, regions: Sequence[Region], plane: Plane, per_mm: float) -> Image.Image:
    values, (down, across) = middle_plane(x, affine, plane)
    size = max(1, round(values.shape[1] * across * per_mm)), max(1, round(values.shape[0] * down * per_mm))
    grey = Image.fromarray(np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8))
    colour = np.asarray(grey.resize(size, Image.Resampling.BICUBIC).convert("RGB"), dtype=np.float32)
    for region in regions:
        cut, _ = middle_plane(region.mask, affine, plane)
        colour = draw_mask(colour, cut > 0, region.colour, INSIDE if region.is_measured else 0.0, RIM)
    return Image.fromarray(colour.astype(np.uint8))


def write_strip(rows: Sequence[tuple[str, Sequence[Tile]]], title: str, path: Path) -> None:
    """Write a PNG with a title and one row of tiles per start."""
    write_png(_sheet(rows, title), path)


def write_gif(rows: Sequence[tuple[str, Sequence[Tile]]], title: str, path: Path) -> None:
    """Write an animated GIF, forwards and backwards, all starts side by side; rows must have equal lengths."""
    steps = len(rows[0][1])
    forwards = [_frame(rows, title, step) for step in range(steps)]
    pictures = [*forwards, *forwards[-2:0:-1]]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0
        )


def _sheet(rows: Sequence[tuple[str, Sequence[Tile]]], title: str) -> Image.Image:
    pictures = [(name, [_captioned(tile) for tile in tiles]) for name, tiles in rows]
    width = max(tile.width for _, row in pictures for tile in row)
    blocks = [column_of([_text(name), row_of([_padded(tile, width) for tile in row])], 0) for name, row in pictures]
    return column_of([_text(title), *blocks], GAP)


def _frame(rows: Sequence[tuple[str, Sequence[Tile]]], title: str, step: int) -> Image.Image:
    """All starts at one step, quantized to few colours for a GIF."""
    shown = [column_of([_text(name, CELL), _captioned(tiles[step])], 0) for name, tiles in rows]
    picture = column_of([_text(title), row_of(shown)], GAP)
    return picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _captioned(tile: Tile) -> Image.Image:
    return column_of([tile.planes, *(_text(line) for line in tile.caption)], 0)


def _padded(picture: Image.Image, width: int) -> Image.Image:
    """Pad with background on the right."""
    sheet = Image.new("RGB", (width, picture.height), GROUND)
    sheet.paste(picture, (0, 0))
    return sheet


def _text(line: str, width: int = 0) -> Image.Image:
    """A line of text, truncated to a width in pixels."""
    letters = font(TEXT)
    while width and len(line) > 4 and letters.getlength(line) > width:
        line = f"{line[:-3].rstrip('.')}..."[: len(line) - 1]
    picture = Image.new("RGB", (max(1, round(letters.getlength(line)) + 2), LINE), GROUND)
    ImageDraw.Draw(picture).text((1, 1), line, fill=INK, font=letters)
    return picture
