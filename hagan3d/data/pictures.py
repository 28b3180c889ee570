"""Figures of volumes in radiological orientation: anterior and superior up, the patient's left on the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import binary_erosion

from hagan3d.data.io.files import replacing
from hagan3d.data.io.geometry import reorient, spacing_of

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
DISPLAY = "IPL"  # axis codes for display; axial, coronal and sagittal planes are perpendicular to them in this order

MIN_SIDE = 160  # pixels of the longest side of a plane
MAX_SIDE = 384
GAP = 6  # pixels between planes
TEXT = 13  # pixels: font size
LINE = 22  # pixels: height of a line of text
BACKGROUND, FOREGROUND = 16, 235  # grey levels
RIM = 0.85  # opacity of an outline
MADE_BY = ("Software", "hagan3d")  # text of every PNG file written here
Colour = tuple[int, int, int]
LABEL_COLOURS: tuple[Colour, ...] = (
    (255, 99, 71),
    (64, 196, 255),
    (255, 213, 79),
    (102, 221, 112),
    (224, 122, 255),
    (255, 160, 60),
    (120, 144, 255),
    (240, 240, 240),
)
"""Outlines of the labels 1, 2, ... of a label map, repeated if there are more."""


@dataclass(frozen=True)
class Segmented:
    """A volume with its label map, whose labels figures outline in `LABEL_COLOURS`; the background is not outlined."""

    volume: np.ndarray
    """Image ``[D, H, W]`` in [-1, 1]."""
    label_map: np.ndarray
    """Labels ``[D, H, W]``, integers; 0 is the background."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels D, H, W."""
        return self.volume.shape


def label_colour(label: int) -> Colour:
    """Return the colour of a label above 0."""
    return LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)]


def draw_mask(picture: np.ndarray, mask: np.ndarray, colour: Colour, fill: float, rim: int = 1) -> np.ndarray:
    """Draw a mask in a colour on a picture, its outline nearly opaque.

    Args:
        picture: RGB ``[rows, columns, 3]``, 0 to 255.
        mask: Slice of a mask, of any size; resampled to that of the picture.
        colour: Red, green, blue.
        fill: Opacity inside the outline.
        rim: Width of the outline in pixels.

    Returns:
        The picture ``[rows, columns, 3]``, float32.
    """
    size = picture.shape[1], picture.shape[0]
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(soft) > 127
    strength = np.where(inside, np.where(binary_erosion(inside, iterations=rim), fill, RIM), 0.0)[..., None]
    return (picture * (1 - strength) + np.array(colour, np.float32) * strength).astype(np.float32)


class MiddlePlanes:
    """The middle slices of a volume that is processed slab by slab; a substitute for the volume in figures."""

    def __init__(self, shape: Sequence[int], affine: np.ndarray) -> None:
        """Prepare for a volume of `shape` [D, H, W] voxels with `affine`, index (d, h, w) to RAS mm [4, 4]."""
        self.shape = tuple(shape)
        self._cuts = {plane: _middle(self.shape, affine, plane) for plane in PLANES}
        self._slices = {
            plane: np.zeros([1 if axis == across else side for axis, side in enumerate(shape)], np.float32)
            for plane, (across, _) in self._cuts.items()
        }
        self._done = 0

    def add(self, slab: np.ndarray) -> None:
        """Add the next slices along D."""
        first, self._done = self._done, self._done + len(slab)
        for plane, (across, index) in self._cuts.items():
            if across:
                self._slices[plane][first : self._done] = slab.take([index], across)
            elif first <= index < self._done:
                self._slices[plane][0] = slab[index - first]

    def slice(self, plane: Plane) -> np.ndarray:
        """Return the middle slice of a plane as a volume of one voxel thickness."""
        return self._slices[plane]


def contact_sheet(
    volumes: Sequence[Any],
    affine: np.ndarray,
    captions: Sequence[str],
    path: Path,
    planes: Sequence[Plane] | None = None,
    columns: int = 2,
) -> None:
    """Write a PNG with the middle planes of each volume side by side and a caption below.

    Args:
        volumes: Arrays or CPU tensors [D, H, W] in [-1, 1], their `MiddlePlanes`, or `Segmented` volumes.
        affine: Index (d, h, w) to RAS mm, of all volumes [4, 4] or of each [N, 4, 4].
        captions: One per volume; long ones are shortened in the middle.
        path: Name of the .png; written atomically.
        planes: Planes, in order. Default: all; of single slices, their own.
        columns: Volumes side by side.
    """
    tiles = [
        _captioned(row_of([_plane(volume, own, plane) for plane in planes or planes_of(volume.shape, own)]), text)
        for volume, own, text in zip(volumes, np.broadcast_to(affine, (len(volumes), 4, 4)), captions, strict=True)
    ]
    rows = [row_of(tiles[first : first + columns], 3 * GAP) for first in range(0, len(tiles), columns)]
    write_png(column_of(rows, 2 * GAP), path)


def comparison_sheet(
    groups: Mapping[str, Sequence[Any]],
    affine: np.ndarray | Mapping[str, np.ndarray],
    path: Path,
    planes: Sequence[Plane] | None = None,
) -> None:
    """Write a PNG with one block per group, such as real and generated: volumes side by side, a row per plane.

    Args:
        groups: Arrays or CPU tensors [D, H, W] in [-1, 1], their `MiddlePlanes`, or `Segmented` volumes, by the
            title of their block.
        affine: Index (d, h, w) to RAS mm [4, 4], of all of them or of each block.
        path: Name of the .png; written atomically.
        planes: Planes, in order. Default: all; of single slices, their own.
    """
    title, first = next((title, volume) for title, volumes in groups.items() for volume in volumes)
    affines = affine if isinstance(affine, Mapping) else dict.fromkeys(groups, affine)
    shown, blocks = planes or planes_of(first.shape, affines[title]), []
    for title, volumes in groups.items():
        rows = [row_of([_plane(volume, affines[title], plane) for volume in volumes]) for plane in shown]
        blocks.append(_titled(column_of(rows), title))
    write_png(column_of(blocks, 2 * GAP), path)


def planes_of(shape: Sequence[int], affine: np.ndarray) -> Sequence[Plane]:
    """Return the planes to show of a volume [D, H, W]: all, or of a single slice [1, H, W] its own."""
    if shape[0] > 1:
        return PLANES
    return [plane for plane in PLANES if _middle(shape, affine, plane)[0] == 0]


def middle_plane(volume: Any, affine: np.ndarray, plane: Plane) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the middle slice of a plane, oriented for display.

    Args:
        volume: Array or CPU tensor [D, H, W], or its `MiddlePlanes`.
        affine: Index (d, h, w) to RAS mm [4, 4].
        plane: axial (anterior up), coronal or sagittal (superior up; anterior to the left).

    Returns:
        The slice [rows, columns] and the spacing of rows and columns, mm.
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
    """Return the axis perpendicular to a plane and the index of its middle slice, rounded up in display order."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(DISPLAY))
    axis = int(np.flatnonzero(turn[:, 0] == PLANES.index(plane))[0])
    side = shape[axis]
    return axis, side // 2 if turn[axis, 1] > 0 else side - 1 - side // 2


def _plane(volume: Any, affine: np.ndarray, plane: Plane) -> Image.Image:
    """Render a middle slice with square pixels; all planes of a volume have the same scale."""
    if isinstance(volume, Segmented):
        colours = np.asarray(_plane(volume.volume, affine, plane).convert("RGB"), dtype=np.float32)
        labels, _ = middle_plane(volume.label_map, affine, plane)
        for label in sorted(set(np.unique(labels).astype(int)) - {0}):
            colours = draw_mask(colours, labels == label, label_colour(label), fill=0.0)
        return Image.fromarray(colours.astype(np.uint8))
    values, (down, across) = middle_plane(volume, affine, plane)
    extent = np.array(volume.shape) * spacing_of(affine)
    longest = min(max(MIN_SIDE, max(volume.shape)), MAX_SIDE)
    per_mm = longest / float(extent.max())
    grey = np.rint((np.clip(np.nan_to_num(values), -1, 1) + 1) * 127.5).astype(np.uint8)
    width = max(1, round(values.shape[1] * across * per_mm))
    height = max(1, round(values.shape[0] * down * per_mm))
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)


def row_of(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Arrange images in a row, vertically centred."""
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    height = max(picture.height for picture in pictures)
    sheet, x = _blank(pictures, width, height), 0
    for picture in pictures:
        sheet.paste(picture, (x, (height - picture.height) // 2))
        x += picture.width + gap
    return sheet


def column_of(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Arrange images in a column."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    sheet, y = _blank(pictures, max(picture.width for picture in pictures), height), 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + gap
    return sheet


def _blank(pictures: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    """Return an empty picture: of colours if one of the pictures is, else of grey levels."""
    if any(picture.mode == "RGB" for picture in pictures):
        return Image.new("RGB", (width, height), (BACKGROUND,) * 3)
    return Image.new("L", (width, height), BACKGROUND)


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    return column_of([picture, _line(text, picture.width)], 0)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans of ``size`` pixels, which comes with matplotlib: Pillow's own font has no accents."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _titled(picture: Image.Image, text: str) -> Image.Image:
    return column_of([_line(text, picture.width), picture], 0)


def _line(text: str, width: int) -> Image.Image:
    """Render one line of text, shortened in the middle to fit."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)  # a font has no line breaks
    letters, shown = font(TEXT), text
    for half in range(len(text) // 2, -1, -1):
        if letters.getlength(shown) <= width:
            break
        shown = f"{text[:half]}...{text[len(text) - half :]}"
    picture = Image.new("L", (width, LINE), BACKGROUND)
    ImageDraw.Draw(picture).text((2, 2), shown, fill=FOREGROUND, font=letters)
    return picture


def write_png(picture: Image.Image, path: Path) -> None:
    """Write a picture with a margin, marked as of this project."""
    framed = _blank([picture], picture.width + 2 * GAP, picture.height + 2 * GAP)
    framed.paste(picture, (GAP, GAP))
    made_by = PngInfo()
    made_by.add_text(*MADE_BY)
    with replacing(path) as temporary:
        framed.save(temporary, format="PNG", pnginfo=made_by)


def is_own_picture(path: Path) -> bool:
    """Return whether a file is a picture that was written here."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(MADE_BY[0]) == MADE_BY[1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # no PNG, or a damaged one
        return False
