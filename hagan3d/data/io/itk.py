"""Readers of NRRD and MetaImage, through ITK, which fills in what a header lacks and does not notice damaged voxels.

So headers are read here first: sizes, checksums and the presence of geometry are checked before ITK is asked.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)

from hagan3d.data.io.checks import check_memory, check_range, check_shape, surplus_remarks
from hagan3d.data.io.geometry import LPS_TO_RAS
from hagan3d.data.io.itk_headers import META_END, NRRD_END, Header, header_lines, meta_header, nrrd_header
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.data.io.unpack import unpack
from hagan3d.errors import InputError

sitk.ProcessObject.SetGlobalWarningDisplay(False)

DEFLATE_RATIO = 1032  # most bytes that a packed byte holds
BZIP2_RATIO = 2**20
TEXTUAL = ("text", "hex")
UNIT_TOLERANCE = 1e-3  # of the length of a direction


def data_files(path: Path) -> list[Path]:
    """Return the header and the files of the voxels that it names; the header alone if it is damaged."""
    try:
        header = meta_header(path) if path.name.lower().endswith((".mha", ".mhd")) else nrrd_header(path)
    except InputError:
        return [path]
    return [path, *(file for file in header.files if file.exists())]


@reader(".mha", ".mhd", title="MetaImage", parts=data_files)
def read_meta(path: Path) -> RawVolume:
    """Read MetaImage: axes in the order of the file, the affine converted from LPS to RAS mm."""
    header = meta_header(path)
    voxels = _check_voxels(path, header)
    if header.encoding != "zlib" and not header.is_joined:
        return _read(path, "MetaImageIO", header)
    # ITK takes the size of the packed voxels from the header, and reads memory contents if it is missing or wrong
    lines, _ = header_lines(path, META_END)
    dropped = re.compile(r"(compressed\w+|headersize|elementdatafile)\s*=", re.IGNORECASE)
    start = "\n".join([*(line for line in lines if not dropped.match(line)), "ElementDataFile = LOCAL", ""])
    with _copy("volume.mha", start, voxels) as copy:
        return _read(copy, "MetaImageIO", header)


@reader(".nrrd", ".nhdr", title="NRRD", parts=data_files)
def read_nrrd(path: Path) -> RawVolume:
    """Read NRRD: axes in the order of the file, the affine converted from LPS to RAS mm."""
    header = nrrd_header(path)
    voxels = _check_voxels(path, header)
    if header.encoding != "bzip2":
        return _read(path, "NrrdImageIO", header)
    lines, _ = header_lines(path, NRRD_END)  # which ITK cannot unpack
    dropped = re.compile(r"(encoding|data ?file|byte ?skip|line ?skip)\s*:|$", re.IGNORECASE)
    start = "\n".join([*(line for line in lines if not dropped.match(line)), "encoding: raw", "", ""])
    with _copy("volume.nrrd", start, voxels) as copy:
        return _read(copy, "NrrdImageIO", header)


def _read(path: Path, kind: str, header: Header) -> RawVolume:
    """Read a checked file by the ImageIO of its format: ITK would choose one by the ending, in lower case alone."""
    source = sitk.ImageFileReader()
    source.SetFileName(str(path))
    source.SetImageIO(kind)
    try:
        source.ReadImageInformation()
        if min(source.GetSpacing()) <= 0:
            raise InputError(f"spacing must be above 0 mm, got {source.GetSpacing()}; repair the header")
        components = source.GetNumberOfComponents()
        shape = check_shape((*source.GetSize(), components))
        check_memory(shape)
        source.SetOutputPixelType(sitk.sitkVectorFloat32 if components > 1 else sitk.sitkFloat32)
        image = source.Execute()
        array = sitk.GetArrayFromImage(image)  # axes in reverse order, the values of a voxel last
        source.SetOutputPixelType(sitk.sitkVectorFloat64 if components > 1 else sitk.sitkFloat64)
        check_range(array, lambda: sitk.GetArrayFromImage(source.Execute()))
    except RuntimeError as error:
        raise InputError("cannot be read: truncated, damaged, or not NRRD or MetaImage") from error
    array = np.moveaxis(array.transpose(), 0, -1) if components > 1 else array.transpose()
    if header.encoding == "text":
        _check_text(path, header, array)
    affine, direction = np.eye(4), np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
    if np.abs((lengths := np.linalg.norm(direction, axis=0)) - 1).max() > UNIT_TOLERANCE:
        shown = ", ".join(f"{length:g}" for length in lengths)
        raise InputError(f"has axes of length {shown} (TransformMatrix), which must be 1; repair the header")
    affine[:3, :3] = direction * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3] if header.has_place else 0  # where ITK may take the axis mins of NRRD
    affine[:3] *= header.unit_mm
    remarks = (*header.remarks, *surplus_remarks(_surplus(path, header)))
    affine = LPS_TO_RAS @ affine if header.has_sides else affine
    return RawVolume(array.reshape(shape), affine, remarks, header.has_sides and header.has_place)


def _check_text(path: Path, header: Header, array: np.ndarray) -> None:
    """Raise InputError unless voxels that are written as text are as many as declared, and fit their type.

    ITK cuts fractions off, wraps numbers that are too large, and does not look for more.
    """
    with (header.files[0] if header.files else path).open("rb") as file:
        file.seek(max(header.start, 0))
        words = file.read().replace(b",", b" ").split()
    try:
        numbers = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise InputError("is damaged: its voxels are text, and not all are numbers") from error
    if len(numbers) != array.size:
        raise InputError(f"is damaged: {array.size} voxels are declared, and {len(numbers)} are there as text")
    if not np.array_equal(np.sort(numbers.astype(np.float32)), np.sort(array.ravel()), equal_nan=True):
        raise InputError("has voxels as text that do not fit the type in its header; write it with a type that does")


def _surplus(path: Path, header: Header) -> int:
    """Return the bytes after voxels that are not packed and follow their header."""
    is_raw = not header.files and not header.encoding and header.start >= 0
    return path.stat().st_size - header.start - header.voxel_bytes if is_raw else 0


def _check_voxels(path: Path, header: Header) -> bytes:
    """Check size and checksum of the voxels, and return those that are packed or in several files.

    Raises:
        InputError: If they are missing, too few or damaged.
    """
    files = header.files or [path]
    voxels: list[bytes] = []
    for file, declared in zip(files, _declared(files, header), strict=True):
        size, start = file.stat().st_size, max(header.start, 0)
        if header.encoding in ("gzip", "zlib", "bzip2"):
            if header.voxel_bytes > (BZIP2_RATIO if header.encoding == "bzip2" else DEFLATE_RATIO) * size:
                raise InputError(
                    f"is damaged: its header declares {header.voxel_bytes} bytes of voxels, {size} are there"
                )
            check_memory((header.voxel_bytes,))
            with file.open("rb") as stream:
                stream.seek(start)
                voxels.append(unpack(stream.read(), header.encoding, declared))
        elif header.encoding not in TEXTUAL:
            _check_size(file, size - start, declared, is_exact=bool(header.files) and header.start >= 0)
            if header.is_joined:
                check_memory((header.voxel_bytes,))
                voxels.append(file.read_bytes()[size - declared :])
    return b"".join(voxels)


def _declared(files: list[Path], header: Header) -> list[int]:
    """Return the bytes of unpacked voxels that each file must hold.

    Raises:
        InputError: If a file does not exist, or there are more or fewer than the sizes of the volume need.
    """
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"names the file of its voxels {missing.name}, which does not exist in its folder")
    if len(files) > 1 and (header.encoding in TEXTUAL or (not header.num_files and header.encoding)):
        raise InputError("has voxels as text, or packed slabs of them, in several files; save it as one file")
    if header.num_files:
        if len(files) != header.num_files:
            raise InputError(
                f"names {len(files)} files of voxels, its sizes need {header.num_files}; correct the list or the sizes"
            )
        return [header.voxel_bytes // len(files)] * len(files)
    if len(files) == 1:
        return [header.voxel_bytes]
    sizes = [file.stat().st_size - max(header.start, 0) for file in files]
    if sum(sizes) != header.voxel_bytes or min(sizes) < 0:
        raise InputError(
            f"names {len(files)} files with {sum(sizes)} bytes of voxels, its header declares {header.voxel_bytes}; "
            "correct the list or the sizes"
        )
    return sizes


def _check_size(file: Path, size: int, declared: int, is_exact: bool) -> None:
    """Raise InputError if a file has fewer bytes of voxels than declared; ``is_exact``: or more."""
    if size < declared:
        raise InputError(f"is truncated: {file.name} has {size} bytes of voxels, its header declares {declared}")
    if is_exact and size > declared:
        raise InputError(
            f"{file.name} has {size} bytes of voxels, its header declares {declared}; correct the sizes and the type, "
            "or say how many bytes precede the voxels (HeaderSize, byte skip; -1: they end with the file)"
        )


@contextmanager
def _copy(name: str, header: str, voxels: bytes) -> Iterator[Path]:
    """Write a file of unpacked voxels after another header, for as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.write_bytes(header.encode("latin-1") + voxels)
        yield copy
