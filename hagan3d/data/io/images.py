"""Reader of images in grey levels or RGB (PNG, TIFF, JPEG): a volume of one axial slice."""

import mmap
import re
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hagan3d.data.io.checks import check_memory
from hagan3d.data.io.files import mapped
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.errors import InputError

MAX_RATIO = 8 * 1032  # pixels per byte: of 1 bit, compressed by deflate
FORMATS = ("PNG", "TIFF", "JPEG")  # whatever the ending: of Pillow's other readers, some start programs
GREY_MODES = ("1", "L", "I", "I;16", "I;16L", "I;16B", "F")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


ORIENTATION, PHOTOMETRIC, SAMPLE_FORMAT, DESCRIPTION = 0x0112, 0x0106, 0x0153, 0x010E  # tags of EXIF and TIFF
IMAGEJ_STACK = re.compile(r"^ImageJ=.*?^images=(\d+)", re.MULTILINE | re.DOTALL)
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHORT_PIXELS = {"2": 85, "4": 17}  # what Pillow multiplies pixels of so many bits by
ROWS_DOWN = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Index (slice, row, column) to RAS mm: rows lead to the back, columns to the left, as radiologists view images."""


@reader(".png", ".tif", ".tiff", ".jpg", ".jpeg", title="image", is_image=True)
def read_image(path: Path) -> RawVolume:
    """Read an image ``[1, rows, columns]``, or ``[1, rows, columns, 3]`` of RGB; the format has no geometry: 1 mm."""
    if not path.stat().st_size:
        raise InputError("is empty (0 bytes); copy or export it again")
    try:
        with mapped(path) as content, Image.open(cast(BinaryIO, content), formats=FORMATS) as image:
            if image.format == "PNG":
                _check_png(content)
            _check(image, path.stat().st_size)
            mode, raw, tags = image.mode, _raw_mode(image), image.getexif()
            is_signed = image.format == "TIFF" and tags.get(SAMPLE_FORMAT) == SIGNED
            remarks = ["turned as its EXIF orientation says"] if tags.get(ORIENTATION, 1) != 1 else []
            if image.format == "TIFF" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
                remarks.append("is shown inverted (WhiteIsZero): its values are taken as stored")
            array = np.array(ImageOps.exif_transpose(image), dtype=np.float32)[None]
            values = _stored_values(array, mode, raw, is_signed)
            return RawVolume(values, ROWS_DOWN.copy(), tuple(remarks), is_placed=False)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"declares too many pixels ({error}); repair or tile the image") from error
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            is_tiff = file.read(4) in TIFF_MAGIC
        if is_tiff:
            raise InputError(
                "is a TIFF whose pixels are not read (64 bits, or several values that are no colours?), or damaged; "
                "export it with one value of 8, 16 or 32 bits per pixel"
            ) from error
        raise InputError("not an image, in spite of its ending, or its header is damaged") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow reports damaged PNG as SyntaxError
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the format
            raise
        raise InputError("truncated or damaged image; copy or export it again") from error


def _check(image: Image.Image, size: int) -> None:
    """Raise InputError unless an image has one page, grey levels or RGB, and pixels that ``size`` bytes can hold."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"has {pages} pages; convert a stack of slices to NIfTI, or export one page")
    described = str(getattr(image, "tag_v2", {}).get(DESCRIPTION, ""))  # of TIFF
    if (stack := IMAGEJ_STACK.search(described)) and int(stack[1]) > pages:
        raise InputError(
            f"is an ImageJ stack of {stack[1]} images, of which readers of TIFF see one; save it as NIfTI, or export "
            "single images"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        raise InputError(f"has an alpha channel ({image.mode}); export it as RGB or in grey levels")
    raw = _raw_mode(image)
    if "X" in raw or (image.mode == "RGB" and "16" in raw):  # Pillow would drop channels, or the lower 8 bits
        raise InputError(f"has pixels of type {raw}, which are not read; export it as RGB of 8 bits or in grey levels")
    if image.mode not in (*GREY_MODES, "RGB"):
        raise InputError(f"has pixels of type {image.mode}; export it as RGB or in grey levels")
    if image.height * image.width > MAX_RATIO * size:
        raise InputError(f"truncated or damaged: {image.width} x {image.height} pixels in {size} bytes")
    check_memory((1, image.height, image.width, len(image.getbands())))


def _check_png(content: mmap.mmap) -> None:
    """Raise InputError unless the checksums of all chunks of a PNG are right; Pillow passes over those of pixels."""
    start, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length = int.from_bytes(content[start : start + 4], "big")
        end = start + 8 + length
        name, checksum = content[start + 4 : start + 8], content[end : end + 4]
        with memoryview(content) as view:
            if len(checksum) != 4 or zlib.crc32(view[start + 4 : end]) != int.from_bytes(checksum, "big"):
                raise InputError("truncated or damaged: a checksum of the PNG is wrong; copy or export it again")
        start = end + 4


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the pixels in an image that is not decoded yet, such as L;2 of two bits per pixel."""
    tiles = getattr(image, "tile", None)  # of a file only
    arguments = tiles[0][3] if tiles else ""
    return str(arguments if isinstance(arguments, str) or not arguments else arguments[0])


def _stored_values(array: np.ndarray, mode: str, raw: str, is_signed: bool) -> np.ndarray:
    """Return the values as they are stored.

    Pillow inverts some images, stretches those of 2 and 4 bits to 255, and takes 8 bits as unsigned, 32 as signed.
    """
    bits = raw.partition(";")[2]
    if mode in ("L", "1") and "I" in bits:
        array = (255 if mode == "L" else 1) - array
    if mode == "L" and bits[:1] in SHORT_PIXELS:
        array = array / SHORT_PIXELS[bits[:1]]
    if mode == "L" and is_signed:
        array = np.where(array > 127, array - 256, array)
    if raw == "I;32N":  # unsigned
        array = np.where(array < 0, array + np.float32(2**32), array)
    return array
