"""Reader of images in grey levels or RGB (PNG, TIFF, JPEG): a volume of one axial slice."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hagan3d.data.io.checks import check_memory
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.errors import InputError

GREY_MODES = ("1", "L", "I", "I;16", "I;16L", "I;16B", "F")
ROWS_DOWN = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Index (slice, row, column) to RAS mm: rows lead to the back, columns to the left, as radiologists view images."""


@reader(".png", ".tif", ".tiff", ".jpg", ".jpeg", title="image", is_image=True)
def read_image(path: Path) -> RawVolume:
    """Read an image ``[1, rows, columns]``, or ``[1, rows, columns, 3]`` of RGB; the format has no geometry: 1 mm."""
    try:
        with Image.open(path) as image:
            _check(image)
            upright = ImageOps.exif_transpose(image)
            array = np.asarray(upright, dtype=np.float32)[None]
            turned = ("turned as its EXIF orientation says",) if image.getexif().get(0x0112, 1) != 1 else ()
            return RawVolume(array, ROWS_DOWN.copy(), turned)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"declares too many pixels ({error}); repair or tile the image") from error
    except UnidentifiedImageError as error:
        raise InputError("not an image, in spite of its ending, or its header is damaged") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow reports damaged PNG as SyntaxError
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the format
            raise
        raise InputError("truncated or damaged image; copy or export it again") from error


def _check(image: Image.Image) -> None:
    """Raise InputError unless an image has one page, and grey levels or RGB."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"has {pages} pages; convert a stack of slices to NIfTI, or export one page")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        raise InputError(f"has an alpha channel ({image.mode}); export it as RGB or in grey levels")
    if image.mode not in (*GREY_MODES, "RGB"):
        raise InputError(f"has pixels of type {image.mode}; export it as RGB or in grey levels")
    check_memory((1, image.height, image.width, len(image.getbands())))
