"""Headers of MetaImage and NRRD, read here because ITK fills in what they lack and takes what does not fit."""

import contextlib
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.data.io.geometry import NO_PLACE, NO_SIDES
from hagan3d.errors import InputError

LARGEST_HEADER = 2**16  # bytes
META_END = re.compile(rb"^\s*ElementDataFile\s*=[^\n]*(\n|$)", re.IGNORECASE | re.MULTILINE)
NRRD_END = re.compile(rb"\n\r?\n")
LONGEST_WORD = 120  # characters of a header: the buffers that ITK copies longer ones into overflow
META_SIZES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "DOUBLE": 8}
META_SIZES |= {"LONG": 4, "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8}
NRRD_SIZES = {"char": 1, "short": 2, "int": 4, "longlong": 8, "float": 4, "double": 8}
NRRD_ALIASES = {"uchar": "char", "ushort": "short", "uint": "int", "ulonglong": "longlong", "block": ""}
ENCODINGS = {
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bzip2",
    "bzip2": "bzip2",
    "raw": "",
    "txt": "text",
    "text": "text",
    "ascii": "text",
}
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
NO_CHANNELS = ("none", "???", "domain", "space", "time")
"""Kinds of NRRD axes that ITK does not read as channels."""
SPACES = ("rightanteriorsuperior", "ras", "leftanteriorsuperior", "las", "leftposteriorsuperior", "lps")
"""Spaces of NRRD in which ITK knows the sides of the axes, without hyphens."""

LETTERS_ALONE = (
    "names the sides of its axes by AnatomicalOrientation {} alone, which programs read differently: they are taken as "
    "those of RAS; add a TransformMatrix"
)


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
    """gzip, zlib, bzip2, text or hex; empty: not packed."""
    has_sides: bool
    """Whether it says which sides its axes point to."""
    has_place: bool
    """Whether it says where the volume lies."""
    unit_mm: float
    """Millimetres of its unit of length."""
    num_files: int = 1
    """Files that its sizes need; 0: slabs, each of any number of slices."""
    letters: str = ""
    """Letters of its axes that are not read, as programs differ in what they mean by them."""

    @property
    def is_joined(self) -> bool:
        """Whether its files are joined before ITK is asked, which reads memory contents if they are not one a slice."""
        return self.num_files != 1 or any("%" in file.name for file in self.files)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be assumed."""
        sides = LETTERS_ALONE.format(self.letters) if self.letters else NO_SIDES
        return (*(() if self.has_sides else (sides,)), *(() if self.has_place else (NO_PLACE,)))


def header_lines(path: Path, end: re.Pattern[bytes]) -> tuple[list[str], int]:
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


def meta_header(path: Path) -> Header:
    """Read the header of a MetaImage file."""
    lines, size = header_lines(path, META_END)
    values = _meta_values(lines)
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
    encoding = "zlib" if _is_true(values, "compresseddata") else "" if _is_true(values, "binarydata") else "text"
    files, num_files = _meta_files(path, named, sides)
    start = _meta_start(values, size, is_local=not files)
    has_sides, has_place = (any(key in values for key in keys) for keys in (META_DIRECTIONS, META_ORIGINS))
    unit = _unit_mm([values.get("distanceunits", "mm")])
    letters = values.get("anatomicalorientation", "").strip("?")
    voxel_bytes = one * int(np.prod(sides, dtype=object))
    return Header(voxel_bytes, files, start, encoding, has_sides, has_place, unit, num_files, letters)


def _meta_values(lines: list[str]) -> dict[str, str]:
    """Return the fields of a MetaImage header by name, in lower case.

    Raises:
        InputError: If a field has two values.
    """
    values = dict[str, str]()
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            continue
        if values.setdefault(name.lower(), value) != value:
            raise InputError(f"has two values of {name}; repair the header")
    return values


def _is_true(values: dict[str, str], key: str) -> bool:
    """Return whether a field is true; as for ITK, its first letter decides."""
    return values.get(key, META_FLAGS[key])[:1] in ("t", "T", "1")


META_DIRECTIONS = ("transformmatrix", "rotation", "orientation")
META_ORIGINS = ("offset", "position", "origin")
META_FLAGS = {"compresseddata": "False", "binarydata": "True"}
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


def _meta_files(path: Path, named: str, sides: list[int]) -> tuple[list[Path], int]:
    """Return the files of the voxels that a MetaImage header names, none if they follow it, and how many it needs.

    A list has a file for each slice, or for each part of as many axes as it says: ``LIST 3D``, of a whole volume, one
    or more slabs, whose number is not known (0).

    Raises:
        InputError: If the number of axes of a list is not understood.
    """
    words = named.split() or [""]
    if words[0].upper() == "LOCAL":
        return [], 1
    if words[0].upper() == "LIST":
        axes = re.fullmatch(r"(\d)D?", words[1], re.IGNORECASE) if len(words) == 2 else None
        dimension = int(axes[1]) if axes else len(sides) - 1
        if len(words) > 1 and not (axes and 1 <= dimension <= len(sides)):
            raise InputError(f"ElementDataFile = {named}: must be LIST, or LIST 2D or 3D; repair the header")
        rest = path.read_text(encoding="latin-1").splitlines()
        first = next(
            number for number, line in enumerate(rest) if line.lower().replace(" ", "").startswith("elementdata")
        )
        names = [line.strip() for line in rest[first + 1 :] if line.strip()]
        if not names:
            raise InputError("has a list of its files of voxels that is empty; repair the header")
        needed = math.prod(sides[dimension:]) if dimension < len(sides) else 0
        return [path.parent / name for name in names], needed
    if re.search(r"%0?\d*d", words[0]) and all(word.isdecimal() for word in words[1:4]):
        given = [int(word) for word in words[1:4]]
        begin, end, step = [*given, *(1, sides[-1] + (given or [1])[0] - 1, 1)[len(given) :]]
        numbers = itertools.islice(range(begin, end + 1, max(1, step)), sides[-1] + 1)  # more than needed are refused
        return [path.parent / _numbered(words[0], number) for number in numbers], sides[-1]
    return [path.parent / named], 1


def _numbered(pattern: str, number: int) -> str:
    """Return a file name from a pattern such as slice%03d.raw."""
    return re.sub(r"%0?(\d*)d", lambda found: f"{number:0{found[1] or 1}d}", pattern)


def nrrd_header(path: Path) -> Header:
    """Read the header of an NRRD file."""
    lines, size = header_lines(path, NRRD_END)
    if not lines[0].startswith("NRRD"):
        raise InputError("not an NRRD file, in spite of its ending")
    fields = (line.partition(":") for line in lines[1:] if ":" in line and not line.startswith("#"))
    values = {key.strip().lower(): value.strip() for key, _, value in fields if not value.startswith("=")}
    try:
        sides = _sides(values["sizes"], values["dimension"])
        one = _nrrd_type_bytes(values["type"])
        encoding = ENCODINGS.get(values["encoding"].lower(), "hex")
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
    """Raise InputError unless three axes have a size in mm, in ways that ITK reads: it takes 1 mm for others."""
    space = values.get("space", "")
    if "time" in space.lower():
        raise InputError(f"has the space {space}; save it without time, as left-posterior-superior")
    if space and "space directions" not in values:
        raise InputError(f"has the space {space} and spacings; give it space directions instead of spacings")
    directions = re.findall(r"\([^)]*\)|none", values.get("space directions", "").lower())
    kinds = values.get("kinds", "").lower().split() or ["none"] * axes
    if any(kind in NO_CHANNELS for kind, vector in zip(kinds, directions, strict=False) if vector == "none"):
        raise InputError(
            "has an axis of channels or time (space directions none) without a kind that says so; give it one, as in "
            "kinds: domain domain domain list"
        )
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
