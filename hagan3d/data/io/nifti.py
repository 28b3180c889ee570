"""Reader of NIfTI-1 and NIfTI-2."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from hagan3d.data.io.checks import check_memory, check_range, check_shape, surplus_remarks
from hagan3d.data.io.geometry import NO_PLACE, NO_SIDES
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.data.io.unpack import read_unpacked
from hagan3d.errors import InputError

UNITS_IN_MM = {1: 1e3, 3: 1e-3}  # metre and micrometre, by the spatial code of `xyzt_units`
CLASSES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # by the size of the header
LARGEST_HEADER = 540
SAME_PLACE = 0.5  # voxels: smallest distance of sform and qform that is worth a remark


@reader(".nii", ".nii.gz", title="NIfTI")
def read_nifti(path: Path) -> RawVolume:
    """Read NIfTI of either byte order; slope and intercept are applied, sform takes precedence over qform.

    The affine is in mm, whatever unit the header names. Whether a file is compressed is read from its first bytes, and
    the checksum of a compressed one is checked.
    """
    content, surplus = read_unpacked(path, _total_bytes, LARGEST_HEADER)
    image = CLASSES[_header_size(content)].from_stream(io.BytesIO(content))
    shape = check_shape(image.shape)
    check_memory(shape)
    with np.errstate(over="ignore"):
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    check_range(array, lambda: np.asarray(image.dataobj))
    remarks = [*_geometry_remarks(image), *surplus_remarks(surplus)]
    return RawVolume(array, _affine_mm(image), tuple(remarks))


def _header_size(content: bytes) -> int:
    """Return the size of the header, which names the version, in either byte order."""
    sizes = (int.from_bytes(content[:4], order) for order in ("little", "big"))
    found = next((size for size in sizes if size in CLASSES), None)
    if found is None or len(content) < found:
        raise InputError("not a NIfTI file, in spite of its ending, or its header is damaged")
    return found


def _total_bytes(content: bytes) -> int:
    """Return the bytes of the whole file that a header declares.

    Raises:
        InputError: If it declares no volume of numbers, or voxels within the header.
    """
    kind = CLASSES[_header_size(content)]
    try:
        header = kind.header_class(content[: _header_size(content)], check=False)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        offset = int(header["vox_offset"])
    except (nib.spatialimages.HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise InputError("not a NIfTI file, in spite of its ending, or its header is damaged") from error
    if header["magic"].item()[:2] != b"n+":
        raise InputError("is the header of a NIfTI pair (.hdr, .img); convert it to one .nii file")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"expected one real number per voxel, got colours or complex numbers ({dtype})")
    check_shape(shape)
    if offset < header.single_vox_offset:
        raise InputError(f"vox_offset is {offset}, so its voxels would begin within the header; repair the header")
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not int(header["sform_code"]) and (not np.isfinite(sizes).all() or (sizes <= 0).any()):
        # checked here, since nibabel turns 0 into 1
        shown = ", ".join(f"{size:g}" for size in sizes)
        raise InputError(f"has voxel sizes (pixdim) of {shown} mm and no sform; repair the header")
    return offset + dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))


def _affine_mm(image: nib.Nifti1Image) -> np.ndarray:
    """Return the affine in mm; the header may use metres or micrometres, and no unit means mm."""
    affine = np.array(image.affine, dtype=np.float64)
    if not _has_place(image):  # nibabel would mirror the first axis and centre the volume, as SPM does
        affine = np.diag([*(float(size) for size in image.header["pixdim"][1:4]), 1.0])
    affine[:3] *= _unit_mm(image)
    return affine


def _unit_mm(image: nib.Nifti1Image) -> float:
    return UNITS_IN_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)


def _has_place(image: nib.Nifti1Image) -> bool:
    return bool(int(image.header["sform_code"]) or int(image.header["qform_code"]))


def _geometry_remarks(image: nib.Nifti1Image) -> tuple[str, ...]:
    """Return what has to be assumed of the place of a volume."""
    if not _has_place(image):
        return NO_SIDES, NO_PLACE
    sform, _ = image.header.get_sform(coded=True)
    try:
        qform, _ = image.header.get_qform(coded=True)
    except ValueError:  # no quaternion: it is not used
        return ()
    if sform is None or qform is None:
        return ()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape[:3]) - 1)
    apart = float(np.linalg.norm(apply_affine(sform - qform, corners), axis=1).max())
    if not apart > SAME_PLACE * np.linalg.norm(sform[:3, :3], axis=0).min():
        return ()
    return ("its sform and qform place the voxels differently: the sform is used",)
