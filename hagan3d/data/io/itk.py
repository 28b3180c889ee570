"""Readers of NRRD and MetaImage, through ITK."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)

from hagan3d.data.io.checks import check_memory, check_shape
from hagan3d.data.io.geometry import LPS_TO_RAS
from hagan3d.data.io.registry import reader
from hagan3d.errors import InputError

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@reader(".nrrd", title="NRRD")
@reader(".mha", ".mhd", title="MetaImage")
def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read NRRD or MetaImage: axes in the order of the file, the affine converted from LPS to RAS mm."""
    source = sitk.ImageFileReader()
    source.SetFileName(str(path))
    try:
        source.ReadImageInformation()
        components = source.GetNumberOfComponents()
        if min(source.GetSpacing()) <= 0:
            raise InputError(f"spacing must be above 0 mm, got {source.GetSpacing()}; repair the header")
        shape = check_shape((*source.GetSize(), components))
        check_memory(shape)
        source.SetOutputPixelType(sitk.sitkVectorFloat32 if components > 1 else sitk.sitkFloat32)
        image = source.Execute()
    except RuntimeError as error:
        raise InputError("cannot be read: truncated, damaged, or not NRRD or MetaImage") from error
    array = sitk.GetArrayFromImage(image)  # axes in reverse order, the values of a voxel last
    array = np.moveaxis(array.transpose(), 0, -1) if components > 1 else array.transpose()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return array.reshape(shape), LPS_TO_RAS @ affine
