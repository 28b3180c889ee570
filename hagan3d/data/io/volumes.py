"""Volumes on disk: find them, and read one in its own units and geometry."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hagan3d.errors import InputError

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".npy")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DICOM_MAGIC = b"DICM"  # at byte 128


@dataclass(frozen=True)
class Volume:
    """One volume as its file has it."""

    array: np.ndarray
    """Voxels [D, H, W], float32, in the units of the file (HU for CT); axes in the file's order."""
    affine: np.ndarray
    """Voxel index (d, h, w) to RAS mm [4, 4], float64."""
    name: str
    """File or folder it was read from."""


@dataclass(frozen=True)
class Source:
    """Where a volume is, before it is read."""

    path: Path
    """A file, or a folder with the slices of one DICOM series."""
    id: str
    """Unique among the sources found together: the name without its ending, with folders before it if need be."""
    partner: Path | None = None
    """Of a pair: the volume that is translated into this one."""
    mask: Path | None = None
    """Of a pair: above 0 where the likelihood and metrics look; on the grid of this volume."""
    subject: str | None = None
    """Whom it is of, where that is known before any table of labels."""
    domain: str = ""
    """source or target, where volumes of two domains are not paired."""

    @property
    def files(self) -> list[Path]:
        """All files and folders of series that it is read from."""
        return [path for path in (self.path, self.partner, self.mask) if path is not None]


def find_volumes(inputs: Path | str | Iterable[Path | str]) -> list[Source]:
    """List the volumes in folders (searched all the way down), text files that list paths, and single files.

    A folder of DICOM slices is one volume. In a text file each line is a path, relative to that file; lines that are
    empty or begin with # are passed over.

    Returns:
        Sources with unique ids, sorted by id.

    Raises:
        InputError: If a path does not exist, or nothing is found.
    """
    given = [Path(inputs)] if isinstance(inputs, Path | str) else [Path(item) for item in inputs]
    paths = {found.resolve(): found for item in given for found in _expand(item)}
    if not paths:
        names = ", ".join(str(item) for item in given) or "the input"
        raise InputError(f"{names}: no volume found; want {', '.join(SUFFIXES)} or folders of DICOM slices")
    return sorted(_with_ids(list(paths.values())), key=lambda source: source.id)


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM slice, by its ending or by its first bytes."""
    if path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == DICOM_MAGIC


def stem_of(path: Path) -> str:
    """Name of a volume without its ending; a folder keeps its whole name."""
    lower = path.name.lower()
    ending = next((end for end in sorted(SUFFIXES + DICOM_SUFFIXES, key=len, reverse=True) if lower.endswith(end)), "")
    return path.name[: len(path.name) - len(ending)] if ending and not path.is_dir() else path.name


def read_volume(path: Path, fill: float | None = None) -> Volume:
    """Read a volume with its affine and in the units of its file, and make sure that it can be used.

    Args:
        path: A .nii, .nii.gz, .nrrd, .mha, .mhd or .npy file, a DICOM file of many frames, or the folder of a series.
        fill: Value that replaces NaN and infinite voxels; None: they are an error.

    Raises:
        InputError: With file, reason and remedy, whatever is wrong with the file.
    """
    from hagan3d.data.io.readers import reader_of  # the readers' libraries are not needed for generation

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: {'is a link to what is not there' if path.is_symlink() else 'does not exist'}")
    try:
        array, affine = reader_of(path)(path)
        _check_affine(affine)
        return Volume(_checked(array, fill), np.asarray(affine, dtype=np.float64), str(path))
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    except MemoryError as error:
        raise InputError(f"{path}: too little memory to read it; use fewer --workers or a machine with more") from error


def _expand(path: Path) -> list[Path]:
    """Volumes that one input stands for."""
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() in (".txt", ".lst", ".list"):
        return _in_list(path)
    return [path]


def _in_folder(folder: Path) -> list[Path]:
    """Volume files and folders of DICOM slices, at any depth, in order; hidden files are passed over.

    A link to what is not there counts as a file: who reads it says so.
    """
    files = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    volumes = [file for file in files if not file.is_dir() and file.name.lower().endswith(SUFFIXES)]
    if any(is_dicom(file) for file in files if file.is_file() and file not in volumes):
        volumes.append(folder)
    return volumes + [found for entry in files if entry.is_dir() for found in _in_folder(entry)]


def _in_list(path: Path) -> list[Path]:
    """Volumes named in a text file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text file that lists paths") from error
    named = [path.parent / line for line in lines if line and not line.startswith("#")]
    missing = [str(item) for item in named if not item.exists()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{path}: lists {missing[0]}{more}, which does not exist")
    return [found for item in named for found in (_in_folder(item) if item.is_dir() else [item])]


def _with_ids(paths: list[Path]) -> list[Source]:
    """Name every path by its stem, with as many folders before it as make all names differ."""
    parts = {path: (*path.resolve().parent.parts[1:], stem_of(path)) for path in paths}
    sources = [Source(path, parts[path][-1]) for path in paths]
    for depth in range(2, max(len(names) for names in parts.values()) + 1):
        counts = Counter(source.id for source in sources)
        sources = [
            replace(source, id="_".join(parts[source.path][-depth:])) if counts[source.id] > 1 else source
            for source in sources
        ]
    counts = Counter(source.id for source in sources)
    twins = [source for source in sources if counts[source.id] > 1]
    if twins:
        raise InputError(
            f"{twins[0].path} and {twins[1].path}: have one name, {twins[0].id!r}; rename one or leave it out"
        )
    return sources


def _check_affine(affine: np.ndarray) -> None:
    """Raise InputError unless an affine places voxels in space."""
    matrix = affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all() or abs(np.linalg.det(matrix / spacing)) < 1e-3:
        shown = ", ".join(f"{value:g}" for value in spacing)
        raise InputError(
            f"its header places voxels nowhere (spacing {shown} mm, or axes that fall together); repair the header"
        )


def _checked(array: np.ndarray, fill: float | None) -> np.ndarray:
    """Raise InputError for voxels that no model can learn from; fill where asked to."""
    if min(array.shape) < 2:
        raise InputError(f"has one slice only ({_times(array.shape)} voxels); want a volume")
    broken = ~np.isfinite(array)
    count = int(broken.sum())
    if count and fill is None:
        raise InputError(f"{count} of {array.size} voxels are NaN or infinite; replace them by --fill VALUE")
    if count:
        array = np.where(broken, np.float32(fill), array)
    if array.min() == array.max():
        raise InputError(f"every voxel is {array.flat[0]:g}; leave it out (--skip_bad true)")
    return array


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
