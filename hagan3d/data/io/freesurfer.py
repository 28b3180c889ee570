"""Reader of FreeSurfer volumes (MGH, and MGZ, which is MGH in gzip)."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHImage

from hagan3d.data.io.checks import check_memory, check_shape
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.errors import InputError


@reader(".mgh", ".mgz", title="FreeSurfer")
def read_mgh(path: Path) -> RawVolume:
    """Read a volume; its affine leads to scanner RAS in mm. Without a good-RAS flag, the axes are FreeSurfer's LIA."""
    try:
        image = MGHImage.from_filename(path)
        shape = check_shape(image.shape)
        check_memory(shape)
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
        return RawVolume(array, np.array(image.affine, dtype=np.float64))
    except InputError:
        raise
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, KeyError, TypeError) as error:
        raise InputError("not a FreeSurfer volume, in spite of its ending, or its header is damaged") from error
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError("not a FreeSurfer volume, or truncated or damaged; copy or export it again") from error
