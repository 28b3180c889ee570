"""Reader of FreeSurfer volumes (MGH, and MGZ, which is MGH in gzip)."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage

from hagan3d.data.io.checks import check_memory, check_shape
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.data.io.unpack import read_unpacked
from hagan3d.errors import InputError

HEADER = 284  # bytes
GOOD_RAS = slice(28, 30)  # its flag that the axes are known
NOT_FREESURFER = "not a FreeSurfer volume, in spite of its ending, or its header is damaged"
NO_GEOMETRY = (
    "does not say which sides its axes point to, where it lies, nor how large its voxels are: taken as coronal (LIA), "
    "around 0, with voxels of 1 mm"
)


@reader(".mgh", ".mgz", title="FreeSurfer")
def read_mgh(path: Path) -> RawVolume:
    """Read a volume; its affine leads to scanner RAS in mm. Without a good-RAS flag, the axes are FreeSurfer's LIA."""
    content, _ = read_unpacked(path, _total_bytes, HEADER)  # tags of the format follow the voxels
    image = MGHImage.from_bytes(content)
    shape = check_shape(image.shape)
    check_memory(shape)
    array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    is_placed = any(content[GOOD_RAS])  # as written: nibabel sets the flag where it takes the axes as LIA
    remarks = () if is_placed else (NO_GEOMETRY,)
    return RawVolume(array, np.array(image.affine, dtype=np.float64), remarks, is_placed)


def _total_bytes(content: bytes) -> int:
    """Return the bytes of the header and the voxels that a header declares."""
    if len(content) < HEADER:
        raise InputError(NOT_FREESURFER)
    try:
        header = MGHHeader(content[:HEADER], check=False)
        if int(header["version"]) != 1:
            raise InputError(NOT_FREESURFER)
        shape = check_shape(header.get_data_shape())
        return HEADER + header.get_data_dtype().itemsize * int(np.prod([int(side) for side in shape], dtype=object))
    except (nib.spatialimages.HeaderDataError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(NOT_FREESURFER) from error
