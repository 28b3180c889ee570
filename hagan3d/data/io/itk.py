"""Readers of NRRD and MetaImage, through ITK, which fills in what a header lacks and does not notice damaged voxels.

So headers are read here first: sizes, checksums and the presence of geometry are checked before ITK is asked.
"""

import contextlib
import itertools
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)

from hagan3d.data.io.checks import check_memory, check_range, check_shape, surplus_remarks
from hagan3d.data.io.geometry import LPS_TO_RAS, NO_PLACE, NO_SIDES
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.data.io.unpack import unpack
from hagan3d.errors import InputError

sitk.ProcessObject.SetGlobalWarningDisplay(False)

LARGEST_HEADER = 2**16  # bytes
META_END = re.compile(rb"^\s*ElementDataFile\s*=[^\n]*(\n|$)", re.IGNORECASE | re.MULTILINE)
NRRD_END = re.compile(rb"\n\r?\n")
DEFLATE_RATIO = 1032  # most bytes that a packed byte holds
BZIP2_RATIO = 2**20
LONGEST_WORD = 120  # characters of a header: the buffers that ITK copies longer ones into overflow
META_SIZES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}
META_SIZES |= {"LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8}
NRRD_SIZES = {"char": 1, "short": 2, "int": 4, "longlong": 8, "float": 4, "double": 8}
NRRD_ALIASES = {"uchar": "char", "ushort": "short", "uint": "int", "ulonglong": "longlong", "block": ""}
ENCODINGS = {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "raw": "", "txt": "text", "text": "text"}
UNITS_IN_MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "um": 1e-3,
    "cm": 10.0,
    "m": 1e3,
    "?": 1.0,
    "none": 1.0,
}
SPACES = ("rightanteriorsuperior", "ras", "leftanteriorsuperior", "las", "leftposteriorsuperior", "lps")
"""Spaces of NRRD in which ITK knows the sides of the axes, without hyphens."""


@dataclass(frozen=True)
class Header:
    """What is checked of a header."""

    voxel_bytes: int
    """Bytes of all voxels, unpacked."""
    files: list[Path]
    """Files of the voxels; empty if they follow the header."""
    start: int
    """First byte of the voxels in their file; -1: they end with it."""
    encoding: str
    """gzip, zlib, bzip2 or text; empty: not packed."""
    has_sides: bool
    """Whether it says which sides its axes point to."""
    has_place: bool
    """Whether it says where the volume lies."""
    unit_mm: float
    """Millimetres of its unit of length."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be assumed."""
        return (*(() if self.has_sides else (NO_SIDES,)), *(() if self.has_place else (NO_PLACE,)))


def data_files(path: Path) -> list[Path]:
    """Return the header and the files of the voxels that it names; the header alone if it is damaged."""
    try:
        header = _meta_header(path) if path.name.lower().endswith((".mha", ".mhd")) else _nrrd_header(path)
    except InputError:
        return [path]
    return [path, *(file for file in header.files if file.exists())]


@reader(".mha", ".mhd", title="MetaImage", parts=data_files)
def read_meta(path: Path) -> RawVolume:
    """Read MetaImage: axes in the order of the file, the affine converted from LPS to RAS mm."""
    header = _meta_header(path)
    voxels = _check_voxels(path, header)
    if header.encoding != "zlib":
        return _read(path, "MetaImageIO", header)
    # ITK takes the size of the packed voxels from the header, and reads memory contents if it is missing or wrong
    lines, _ = _lines(path, META_END)
    dropped = re.compile(r"(compressed\w+|headersize|elementdatafile)\s*=", re.IGNORECASE)
    start = "\n".join([*(line for line in lines if not dropped.match(line)), "ElementDataFile = LOCAL", ""])
    with _copy("volume.mha", start, voxels) as copy:
        return _read(copy, "MetaImageIO", header)


@reader(".nrrd", ".nhdr", title="NRRD", parts=data_files)
def read_nrrd(path: Path) -> RawVolume:
    """Read NRRD: axes in the order of the file, the affine converted from LPS to RAS mm."""
    header = _nrrd_header(path)
    voxels = _check_voxels(path, header)
    if header.encoding != "bzip2":
        return _read(path, "NrrdImageIO", header)
    lines, _ = _lines(path, NRRD_END)  # which ITK cannot unpack
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
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3] if header.has_place else 0  # where ITK may take the axis mins of NRRD
    affine[:3] *= header.unit_mm
    remarks = (*header.remarks, *surplus_remarks(_surplus(path, header)))
    return RawVolume(array.reshape(shape), LPS_TO_RAS @ affine if header.has_sides else affine, remarks)


def _surplus(path: Path, header: Header) -> int:
    """Return the bytes after voxels that are not packed and follow their header."""
    is_raw = not header.files and not header.encoding and header.start >= 0
    return path.stat().st_size - header.start - header.voxel_bytes if is_raw else 0


def _check_voxels(path: Path, header: Header) -> bytes:
    """Check size and checksum of the voxels, and return those of a packed file.

    Raises:
        InputError: If they are missing, too few or damaged.
    """
    files = header.files or [path]
    share = header.voxel_bytes // len(files)
    unpacked = []
    for file in files:
        if not file.is_file():
            raise InputError(f"names the file of its voxels {file.name}, which does not exist in its folder")
        size, start = file.stat().st_size, max(header.start, 0)
        if header.encoding in ("gzip", "zlib", "bzip2"):
            if header.voxel_bytes > (BZIP2_RATIO if header.encoding == "bzip2" else DEFLATE_RATIO) * size:
                raise InputError(
                    f"is damaged: its header declares {header.voxel_bytes} bytes of voxels, {size} are there"
                )
            check_memory((header.voxel_bytes,))
            with file.open("rb") as stream:
                stream.seek(start)
                unpacked.append(unpack(stream.read(), header.encoding, share))
        elif header.encoding != "text":
            _check_size(file, size - start, share, is_exact=bool(header.files) and header.start >= 0)
    return b"".join(unpacked)


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


def _lines(path: Path, end: re.Pattern[bytes]) -> tuple[list[str], int]:
    """Return the lines of a text header, and its size; it ends with the first match of ``end``, else with the file."""
    with path.open("rb") as file:
        start = file.read(LARGEST_HEADER)
    if not start:
        raise InputError("is empty (0 bytes); copy or export it again")
    found = end.search(start)
    size = found.end() if found else len(start)
    lines = [line.strip() for line in start[:size].decode("latin-1").replace("\r\n", "\n").split("\n")]
    if any(len(word) > LONGEST_WORD for line in lines for word in line.split() if not line.startswith("#")):
        raise InputError(f"has a word of more than {LONGEST_WORD} characters in its header: it is damaged")
    return lines, size


def _meta_header(path: Path) -> Header:
    """Read the header of a MetaImage file."""
    lines, size = _lines(path, META_END)
    pairs = (line.partition("=") for line in lines if "=" in line)
    values = {key.strip().lower(): value.strip() for key, _, value in pairs}
    try:
        sides = _sides(values["dimsize"], values["ndims"])
        one = META_SIZES[values["elementtype"].upper().removeprefix("MET_").removesuffix("_ARRAY")]
        one *= int(values.get("elementnumberofchannels", 1))
        named = values["elementdatafile"]
    except (KeyError, ValueError) as error:
        raise InputError("not a MetaImage file, in spite of its ending, or its header is damaged") from error
    if "elementspacing" not in values and "elementsize" not in values:
        raise InputError("has no ElementSpacing, so its voxels have no size; repair the header")
    _check_meta_numbers(values, len(sides))
    packed = values.get("compresseddata", "false").lower() == "true"
    encoding = "zlib" if packed else "" if values.get("binarydata", "true").lower() == "true" else "text"
    files = _meta_files(path, named, sides)
    start = _meta_start(values, size, is_local=not files)
    has_sides, has_place = (any(key in values for key in keys) for keys in (META_DIRECTIONS, META_ORIGINS))
    unit = _unit_mm([values.get("distanceunits", "mm")])
    return Header(one * int(np.prod(sides, dtype=object)), files, start, encoding, has_sides, has_place, unit)


META_DIRECTIONS = ("transformmatrix", "rotation", "orientation")
META_ORIGINS = ("offset", "position", "origin")
META_SCALE = {"slope": "1", "offset": "0"}


def _check_meta_numbers(values: dict[str, str], axes: int) -> None:
    """Raise InputError unless the numbers of the geometry are there for each axis: ITK fills in others."""
    counts = dict.fromkeys(("elementspacing", "elementsize", *META_ORIGINS), axes)
    for key, count in (counts | dict.fromkeys(META_DIRECTIONS, axes**2)).items():
        if key in values and len(_finite(values[key].split())) != count:
            raise InputError(f"{key} must have {count} finite numbers, got {values[key]}; repair the header")
    scale = [values.get(f"elementtointensityfunction{name}", default) for name, default in META_SCALE.items()]
    if _finite(scale) != [1, 0]:  # which ITK does not apply
        raise InputError(
            f"says that its values are to be scaled (ElementToIntensityFunctionSlope {scale[0]}, Offset {scale[1]}); "
            "scale them and remove both lines"
        )


def _meta_start(values: dict[str, str], size: int, is_local: bool) -> int:
    """Return the first byte of the voxels in their file.

    Raises:
        InputError: If it is not a number, or the voxels would begin within the header, whose bytes ITK would take.
    """
    try:
        skipped = int(values.get("headersize", 0))
    except ValueError as error:
        raise InputError(f"HeaderSize must be an integer, got {values['headersize']}; repair the header") from error
    if not is_local or skipped < 0:
        return skipped
    if 0 < skipped < size:
        raise InputError(f"HeaderSize is {skipped}, so its voxels would begin within the header; repair the header")
    return max(size, skipped)


def _finite(words: list[str]) -> list[float]:
    """Return the finite numbers among words."""
    numbers = []
    for word in words:
        with contextlib.suppress(ValueError):
            numbers.append(float(word))
    return [number for number in numbers if math.isfinite(number)]


def _sides(text: str, count: str) -> list[int]:
    """Return the sides of a volume; ValueError unless there are so many, each above 0."""
    sides = [int(side) for side in text.split()]
    if len(sides) != int(count) or min(sides) < 1:
        raise ValueError(sides)
    return sides


def _unit_mm(names: list[str]) -> float:
    """Return the millimetres of a unit of length.

    Raises:
        InputError: If it is unknown, or axes have different ones.
    """
    found = {UNITS_IN_MM.get(name.lower().strip()) for name in names if name.strip()}
    if len(found) > 1 or None in found:
        raise InputError(f"has lengths in {', '.join(sorted(set(names)))}; save it in mm")
    return float(next(iter(found), 1.0) or 1.0)


def _meta_files(path: Path, named: str, sides: list[int]) -> list[Path]:
    """Return the files of the voxels that a MetaImage header names; none if they follow it."""
    if named.upper() == "LOCAL":
        return []
    words = named.split()
    if words[0].upper() == "LIST":
        rest = path.read_text(encoding="latin-1").splitlines()
        first = next(
            number for number, line in enumerate(rest) if line.lower().replace(" ", "").startswith("elementdata")
        )
        return [path.parent / line.strip() for line in rest[first + 1 :] if line.strip()]
    if "%" in words[0] and len(words) >= 3 and all(word.isdecimal() for word in words[1:4]):
        begin, end, step = (int(word) for word in [*words[1:3], *(words[3:4] or ["1"])])
        numbers = itertools.islice(range(begin, end + 1, max(1, step)), max(sides))
        return [path.parent / _numbered(words[0], number) for number in numbers]
    return [path.parent / named]


def _numbered(pattern: str, number: int) -> str:
    """Return a file name from a pattern such as slice%03d.raw."""
    return re.sub(r"%0?(\d*)d", lambda found: f"{number:0{found[1] or 1}d}", pattern)


def _nrrd_header(path: Path) -> Header:
    """Read the header of an NRRD file."""
    lines, size = _lines(path, NRRD_END)
    if not lines[0].startswith("NRRD"):
        raise InputError("not an NRRD file, in spite of its ending")
    fields = (line.partition(":") for line in lines[1:] if ":" in line and not line.startswith("#"))
    values = {key.strip().lower(): value.strip() for key, _, value in fields if not value.startswith("=")}
    try:
        sides = _sides(values["sizes"], values["dimension"])
        one = _nrrd_type_bytes(values["type"])
        encoding = ENCODINGS.get(values["encoding"].lower(), "text")
    except (KeyError, ValueError) as error:
        raise InputError("not an NRRD file, in spite of its ending, or its header is damaged") from error
    if "space directions" not in values and "spacings" not in values:
        raise InputError("has neither spacings nor space directions, so its voxels have no size; repair the header")
    named = values.get("data file") or values.get("datafile")
    if named is not None and (named.upper().startswith("LIST") or "%" in named):
        raise InputError("names several files of voxels; save it as one file")
    _check_nrrd_numbers(values, len(sides))
    has_sides = values.get("space", "").lower().replace("-", "") in SPACES
    unit = _unit_mm(re.findall(r'"([^"]*)"', values.get("space units") or values.get("units") or ""))
    start = _nrrd_start(values, size if named is None else 0, is_packed=encoding in ("gzip", "bzip2"))
    files = [] if named is None else [path.parent / named]
    voxel_bytes = one * int(np.prod(sides, dtype=object))
    return Header(voxel_bytes, files, start, encoding, has_sides, "space origin" in values, unit)


def _nrrd_start(values: dict[str, str], first: int, is_packed: bool) -> int:
    """Return the first byte of the voxels in their file; -1 if it is not known.

    Raises:
        InputError: If skips are no numbers, or apply to packed voxels.
    """
    skips = [values.get(f"{unit} skip") or values.get(f"{unit}skip") or "0" for unit in ("byte", "line")]
    if not all(re.fullmatch(r"-?\d+", skip) for skip in skips):
        raise InputError(f"byte skip and line skip must be integers, got {' and '.join(skips)}; repair the header")
    bytes_skipped, lines_skipped = map(int, skips)
    if is_packed and (bytes_skipped or lines_skipped):
        raise InputError("has byte skip or line skip before packed voxels, which is not read; save it without")
    return -1 if lines_skipped or bytes_skipped < 0 else first + bytes_skipped


def _check_nrrd_numbers(values: dict[str, str], axes: int) -> None:
    """Raise InputError unless three axes have a size in mm: ITK takes 1 mm for others."""
    if "space directions" in values:
        vectors = [_finite(vector.split(",")) for vector in re.findall(r"\(([^)]*)\)", values["space directions"])]
        usable = [vector for vector in vectors if len(vector) == 3 and any(vector)]
    else:
        usable = [[size] for size in _finite(values["spacings"].split()) if size]
    if len(usable) < min(axes, 3):
        raise InputError("has axes without spacing or direction, so its voxels have no size; repair the header")
    if "space origin" in values and len(_finite(values["space origin"].strip("() ").split(","))) != 3:
        raise InputError(f"space origin must have 3 finite numbers, got {values['space origin']}; repair the header")


def _nrrd_type_bytes(name: str) -> int:
    """Return the bytes of a value of an NRRD type, such as `unsigned short` or `int16`."""
    plain = name.lower().replace("unsigned", "").replace("signed", "").replace("_t", "").strip().replace(" ", "")
    sized = re.fullmatch(r"u?int(8|16|32|64)", plain)
    if sized:
        return int(sized[1]) // 8
    plain = NRRD_ALIASES.get(plain, plain).removesuffix("int") or "int"
    return NRRD_SIZES["longlong" if plain in ("longlong", "long long") else plain]
