"""Reader of NIfTI-1 and NIfTI-2."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.imageglobals import LoggingOutputSuppressor

from hagan3d.data.io.checks import check_memory, check_range, check_shape, surplus_remarks
from hagan3d.data.io.geometry import NO_PLACE, NO_SIDES
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.data.io.unpack import read_unpacked
from hagan3d.errors import InputError

UNITS_IN_MM = {1: 1e3, 3: 1e-3}  # metre and micrometre, by the spatial code of `xyzt_units`
CLASSES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}  # by the size of the header
KNOWN_CODES = range(1, 6)  # of a transform, in the standard
LARGEST_HEADER = 540
SAME_PLACE = 0.5  # voxels: smallest distance of sform and qform that is worth a remark


@reader(".nii", ".nii.gz", title="NIfTI")
def read_nifti(path: Path) -> RawVolume:
    """Read NIfTI of either byte order; slope and intercept are applied, sform takes precedence over qform.

    The affine is in mm, whatever unit the header names. Whether a file is compressed is read from its first bytes, and
    the checksum of a compressed one is checked.
    """
    content, surplus = read_unpacked(path, _total_bytes, LARGEST_HEADER)
    kind = CLASSES[_header_size(content)]
    written = kind.header_class(content[: _header_size(content)], check=False)
    with LoggingOutputSuppressor():  # nibabel sets codes that it does not know to 0, and prints that
        image = kind.from_stream(io.BytesIO(content))
    geometry, remarks, is_placed = _geometry(image, written)
    shape = check_shape(image.shape)
    check_memory(shape)
    with np.errstate(over="ignore"):
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    check_range(array, lambda: np.asarray(image.dataobj))
    return RawVolume(array, geometry, (*remarks, *surplus_remarks(surplus)), is_placed)


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
    if int(header["sform_code"]) not in KNOWN_CODES and (not np.isfinite(sizes).all() or (sizes <= 0).any()):
        # checked here, since nibabel turns 0 into 1
        shown = ", ".join(f"{size:g}" for size in sizes)
        raise InputError(f"has voxel sizes (pixdim) of {shown} mm and no sform; repair the header")
    return offset + dtype.itemsize * int(np.prod([int(side) for side in shape], dtype=object))


def _geometry(image: nib.Nifti1Image, written: nib.Nifti1Header) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Return the affine in mm, what has to be assumed of it, and whether the header has one at all.

    The header may use metres, and no unit means mm.

    Of transforms with a code that the standard names, the sform goes first, then the qform; then those with other codes
    above 0, which the standard holds to be valid.

    Args:
        image: As nibabel reads it, which sets other codes to 0.
        written: Its header with the codes as written.
    """
    # as the standard: below 0 the third axis points the other way; nibabel takes what is not 1 or -1 as 1
    image.header["pixdim"][0] = -1.0 if written["pixdim"][0] < 0 else 1.0
    codes = {name: int(written[f"{name}_code"]) for name in ("sform", "qform")}
    coded = [name for name in codes if codes[name] in KNOWN_CODES]
    unknown = [name for name in codes if codes[name] > 0 and name not in coded]
    chosen = next(iter([*coded, *unknown]), None)
    if chosen is None:  # nibabel would mirror the first axis and centre the volume, as SPM does
        affine = np.diag([*(float(size) for size in image.header["pixdim"][1:4]), 1.0])
        remarks: tuple[str, ...] = (NO_SIDES, NO_PLACE)
    else:
        affine = np.array(image.header.get_sform() if chosen == "sform" else image.header.get_qform(), np.float64)
        remarks = tuple(f"{name}_code {codes[name]} is unknown: the {chosen} is used" for name in unknown)
        remarks += _differing(image) if len(coded) == 2 else ()
    affine[:3] *= UNITS_IN_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine, remarks, chosen is not None


def _differing(image: nib.Nifti1Image) -> tuple[str, ...]:
    """Return a remark if sform and qform, which both have a code, place the voxels differently."""
    try:
        sform, qform = image.header.get_sform(), image.header.get_qform()
    except ValueError:  # no quaternion: it is not used
        return ()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape[:3]) - 1)
    apart = float(np.linalg.norm(apply_affine(sform - qform, corners), axis=1).max())
    if not apart > SAME_PLACE * np.linalg.norm(sform[:3, :3], axis=0).min():
        return ()
    return ("its sform and qform place the voxels differently: the sform is used",)
