"""Files or stores to translated files: in the units of targets, on the grid that each source has."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import TranslationModel
from hagan3d.data.io.geometry import resample_onto, slice_axis, to_output_axes
from hagan3d.data.io.writer import Dtype, write_nifti
from hagan3d.data.pictures import MiddlePlanes, comparison_sheet
from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.data.preprocess.volume import preprocess_volume
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.generation import write_csv
from hagan3d.inference.inputs import all_readable, is_store
from hagan3d.inference.memory import slices_at_once, translation_depth
from hagan3d.inference.register_files import moving_and_fixed_of_files, moving_and_fixed_of_store
from hagan3d.inference.slice_translation import SliceTranslator
from hagan3d.inference.source_volume import SourceVolume
from hagan3d.inference.windowed_translation import Translator, seam_ratio
from hagan3d.networks.translation import Translation
from hagan3d.ops.ggd_interval import ggd_half_width

SHEET_VOLUMES = 6
LEAST_SPREAD = 0.05  # of the range a model was trained on: with less, an input is in other units
LEAST_INSIDE = 0.5  # of an input's range must lie within that of the model


@dataclass(frozen=True)
class Uncertainty:
    """How the uncertainty of a model is written."""

    level: float = 0.9
    """Probability between the lower and the upper bound."""
    scale: float = 1.0
    """Factor on sigma, as `hagan3d evaluate` fits it on validation volumes."""


def target_interval(description: DataDescription, lo: float, hi: float) -> tuple[float, float]:
    """Values of -1 and 1 of a translation: the model's where targets have units of their own, else the source's."""
    target = description.channels[0]
    if not description.source_channels and target.intensity not in ("window", "labels"):
        return lo, hi
    return target.interval


def calibrated_scale(path: Path) -> float:
    """Read the factor on sigma that an evaluation fitted.

    Raises:
        InputError: If the file is not the metrics.json of a model with uncertainty.
    """
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["calibration"]["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: must be the metrics.json of `hagan3d evaluate` on a translation with uncertainty"
        ) from error


def make_translator(model: TranslationModel, depth: int, overlap: int, budget: int | None = None) -> Translator:
    """Return a translator by windows of ``depth`` slices (0: whole volumes), or by the thickest that fit a budget.

    For a model of slices, ``depth`` is the number of slices at a time, and there is no overlap.

    Raises:
        InputError: If the windows do not fit the volumes, or no windows fit the budget (bytes).
    """
    data, description = model.config.data, model.description
    if data.slices != "none":
        axis = slice_axis(data.slices, description.orientation, description.axis)
        if budget is not None:
            depth = slices_at_once(model.config, description.size, axis, budget, model.device)
        return SliceTranslator(model.networks, axis, data.context, depth)
    if budget is not None:
        depth = translation_depth(model.config, overlap, budget, model.device)
    translator = Translator(model.networks, depth, overlap)
    translator.windows(model.description.size[0])
    return translator


def sources_of(path: Path, model: TranslationModel, split: str, simulate: bool) -> tuple[int, Iterator[SourceVolume]]:
    """Return the number of volumes to translate, of a store or of files, and an iterator over them.

    Raises:
        InputError: If they do not fit the model, or some files cannot be used.
    """
    if is_store(path):
        return sources_of_store(path, model, split, simulate)
    if model.networks.registers:
        return moving_and_fixed_of_files(path, model)
    return sources_of_files(path, model.description)


def sources_of_files(path: Path, description: DataDescription) -> tuple[int, Iterator[SourceVolume]]:
    """Return the number of volumes of a folder, list, file or DICOM series, and an iterator on the model grid.

    Raises:
        InputError: If there is none, or some cannot be used or are in other units than the model was trained on: one
            line for each, before the first is yielded.
    """
    from hagan3d.data.io.volumes import VolumeFile, find_volumes, read_volume

    channel = (description.source_channels or description.channels)[0]
    rule = channel.rule
    found = find_volumes(path)

    def read(source: VolumeFile) -> SourceVolume:
        volume = read_volume(source.path)
        if rule.kind == "window":
            check_units(volume.array, *rule.window, channel.units, volume.name)
        made = preprocess_volume(volume, description.grid_rule, rule)
        interval = target_interval(description, made.lo, made.hi)
        home = (volume.array.shape, volume.affine)
        return SourceVolume(source.id, torch.from_numpy(made.x)[None], made.affine, interval, home)

    return len(found), all_readable(found, read)


def check_units(values: np.ndarray, lo: float, hi: float, units: str, name: str) -> None:
    """Raise InputError if a volume cannot be in the units of a model whose sources lay in [lo, hi]."""
    first, last = (float(value) for value in np.percentile(values, (1, 99)))
    inside = max(0.0, min(last, hi) - max(first, lo))
    if inside < LEAST_SPREAD * (hi - lo) or inside < LEAST_INSIDE * (last - first):
        raise InputError(
            f"{name}: its values run from {first:g} to {last:g}, but the model was trained on {lo:g} to {hi:g} "
            f"{units}".rstrip()
            + "; give a volume in those units"
        )


def sources_of_store(
    path: Path, model: TranslationModel, split: str, simulate: bool
) -> tuple[int, Iterator[SourceVolume]]:
    """Return the number of sources of a store, and an iterator over them.

    Args:
        path: The store: of pairs or two domains (its sources), or of volumes that are taken as they are.
        model: The model.
        split: Its part.
        simulate: Whether volumes are degraded first, by the run's `data.degrade`.

    Raises:
        InputError: If the store does not fit the model.
    """
    from hagan3d.data.batches.pairs import Pairs
    from hagan3d.data.store.store import Store

    store, description = Store(path), model.description
    if store.size != description.size:
        raise InputError(f"{path}: volumes of {list(store.size)} voxels, but the model's are {list(description.size)}")
    if simulate and not model.config.data.degrade.active:
        raise InputError(f"--simulate: {model.path} was trained on pairs of a store, not on simulated sources")
    if model.networks.registers and not simulate:
        return moving_and_fixed_of_store(store, model, split)
    pairs = Pairs(store, model.config.data.degrade) if simulate or store.has_sources or store.has_domains else None
    chosen = store.indices(split) if pairs is None else pairs.indices(split, "source")

    def read() -> Iterator[SourceVolume]:
        for i in map(int, chosen):
            x = store.volume(i) if pairs is None or store.has_domains else pairs.pair(i).source
            own = (float(store.intervals[i, 0, 0]), float(store.intervals[i, 0, 1]))
            interval = own if store.has_sources else target_interval(description, *own)
            yield SourceVolume(store.ids[i], x, store.affines[i], interval)

    return len(chosen), read()


def write_translations(
    model: TranslationModel,
    translator: Translator,
    sources: Iterable[SourceVolume],
    out: Path,
    uncertainty: Uncertainty | None = None,
    *,
    dtype: Dtype = "float32",
    format: str = "nii.gz",
) -> int:
    """Translate volumes and write each as ID.nii.gz, on the grid of its file, in target units.

    A model with predicted uncertainty also writes ID_sigma, ID_lower and ID_upper. `translations.csv` has a line
    for each, `translations.png` shows some. One volume at a time is in memory, with its maps.

    Returns:
        Volumes written.
    """
    rows: list[list[object]] = []
    shown: dict[str, list[MiddlePlanes]] = {}
    for source in sources:
        made = translator.whole(source.x)
        borders = translator.windows(source.x.shape[1]).borders
        seams = seam_ratio(made.mean[0, 0].numpy(), borders)
        maps = maps_of(made, source.interval, uncertainty or Uncertainty())
        for suffix, array in maps.items():
            _write(out / f"{source.id.replace('/', '_')}{suffix}.{format}", array, source, model.description, dtype)
        sigma = "" if "_sigma" not in maps else f"{maps['_sigma'].mean():.6g}"
        rows.append([source.id, "" if seams is None else f"{seams:.4f}", sigma])
        if len(rows) <= SHEET_VOLUMES:
            _show(shown, source, made, model.description)
    write_csv(out / "translations.csv", ["id", "seam_ratio", "mean_sigma"], rows)
    comparison_sheet(shown, model.description.affine_array, out / "translations.png")
    return len(rows)


def maps_of(made: Translation, interval: tuple[float, float], uncertainty: Uncertainty) -> dict[str, np.ndarray]:
    """Turn a translation into volumes ``[D, H, W]`` in target units, by the suffix of the file: mean, sigma, bounds."""
    half = (interval[1] - interval[0]) / 2
    mean = denormalize(made.mean[0, 0].numpy(), *interval)
    if made.alpha is None or made.beta is None or made.sigma is None:
        return {"": mean}
    reach = (made.alpha * ggd_half_width(made.beta, uncertainty.level))[0, 0].numpy() * (half * uncertainty.scale)
    sigma = made.sigma[0, 0].numpy() * (half * uncertainty.scale)
    return {"": mean, "_sigma": sigma, "_lower": mean - reach, "_upper": mean + reach}


def _write(path: Path, array: np.ndarray, source: SourceVolume, description: DataDescription, dtype: Dtype) -> None:
    """Resample a volume to the grid of its source and write it; label maps as integers."""
    is_map = description.channels[0].intensity == "labels"
    array, dtype = (np.rint(array), "int16") if is_map else (array, dtype)
    if source.home is None:
        turned, affine = to_output_axes(array, source.affine, description.orientation)
        write_nifti(path, turned, affine, dtype)
        return
    shape, affine = source.home
    size = (shape[0], shape[1], shape[2])
    write_nifti(path, resample_onto(array, source.affine, affine, size, nearest=is_map), affine, dtype)


def _show(
    shown: dict[str, list[MiddlePlanes]], source: SourceVolume, made: Translation, description: DataDescription
) -> None:
    """Add the middle planes of a source and its translation to the picture."""
    volumes = {"source": source.x[0], "translated": made.mean[0, 0].clamp(-1, 1)}
    if made.sigma is not None:
        sigma = made.sigma[0, 0]
        volumes["sigma (white: its largest)"] = sigma / sigma.max() * 2 - 1
    for name, x in volumes.items():
        planes = MiddlePlanes(description.size, description.affine_array)
        planes.add(x.numpy())
        shown.setdefault(name, []).append(planes)
