"""Files or stores to translated files: in the units of targets, on the grid that each source has."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hagan3d.checkpoint import TranslationModel
from hagan3d.data.io.files import write_text
from hagan3d.data.io.geometry import resample_labels, resample_onto, slice_axis, to_output_axes
from hagan3d.data.io.writer import Dtype, write_nifti
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.pictures import MiddlePlanes, comparison_sheet
from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.generation import write_csv
from hagan3d.inference.inputs import TRANSLATED_PICTURE, TRANSLATIONS, UNFINISHED, all_readable, is_store
from hagan3d.inference.memory import slices_at_once, translation_depth
from hagan3d.inference.register_files import check_spacings, moving_and_fixed_of_files, moving_and_fixed_of_store
from hagan3d.inference.slice_translation import SliceTranslator
from hagan3d.inference.source_volume import SourceVolume, check_sources
from hagan3d.inference.volume_files import channel_paths, claim, shown_channels, write_label_names
from hagan3d.inference.windowed_translation import Translator, seam_ratio, window_unit
from hagan3d.networks.translation import ROUTES, Translation
from hagan3d.ops.ggd_interval import ggd_half_width

if TYPE_CHECKING:
    from hagan3d.data.io.volumes import VolumeFile

Interval = tuple[float, float]
SHEET_VOLUMES = 6
OF_SIGMA = ("_sigma", "_epistemic")  # suffixes of maps of uncertainty
LONGEST = 128  # slices that are translated at once unless told otherwise


@dataclass(frozen=True)
class Uncertainty:
    """How the uncertainty of a model is written."""

    level: float = 0.9
    """Probability between the lower and the upper bound."""
    scales: Sequence[float] = ()
    """Factor on sigma of each channel, as `hagan3d evaluate` fits it on validation volumes; empty: 1."""


def target_intervals(description: DataDescription, own: Sequence[Interval]) -> list[Interval]:
    """Values of -1 and 1 of each channel of a translation: the model's where targets have their own units.

    Otherwise, those of the source: a target of simulated sources is in the units of its source.
    """
    if description.source_channels:
        return [channel.interval for channel in description.channels]
    kinds = zip(description.channels, own, strict=True)
    return [channel.interval if channel.intensity in ("window", "labels") else found for channel, found in kinds]


def calibrated_scales(path: Path, description: DataDescription) -> list[float]:
    """Read the factor on sigma of each target channel that an evaluation fitted.

    Raises:
        InputError: If the file is not the metrics.json of a model with uncertainty and the same channels.
    """
    names = [channel.name for channel in description.channels]
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        each = [metrics] if len(names) == 1 else [metrics["channels"][name] for name in names]
        scales = [float(one["calibration"]["scale"]) for one in each]
        if not all(0 < scale < math.inf for scale in scales):
            raise ValueError(scales)
        return scales
    except (ValueError, KeyError, TypeError, RecursionError, FileNotFoundError) as error:
        raise InputError(
            f"{path}: must be the metrics.json of `hagan3d evaluate` on a translation to {', '.join(names)} with "
            "uncertainty"
        ) from error


def make_translator(
    model: TranslationModel, depth: int | None, overlap: int, budget: int | None = None, held: int = 0
) -> Translator:
    """Return a translator by windows of ``depth`` slices (0: whole volumes), or by the thickest that fit a budget.

    For a model of slices, ``depth`` is the number of slices at a time, and there is no overlap. Without a depth,
    windows have 128 slices; of a model in which voxels depend on all that it sees, as many as in training.

    Args:
        model: The model.
        depth: Slices of a window; None: see above.
        overlap: Slices that windows share, rounded up to what the model can halve.
        budget: Bytes; None: any.
        held: Bytes that are in memory besides, see `ensemble_bytes`.

    Raises:
        InputError: If the windows do not fit the volumes, or no windows fit the budget, or the model does not translate
            such windows as those it was trained on.
    """
    data, description = model.config.data, model.description
    unit, length = window_unit(model.config.method), description.size[0]
    only = _only_depth(model, depth)
    if 0 < only < length:
        depth, overlap, unit, is_whole = only, only // 2, 1, False
    else:
        only, is_whole = 0, only == length or model.networks.needs_whole_volume or length % unit != 0
        overlap = unit * math.ceil(overlap / unit)
    depth = depth if depth is not None else 0 if is_whole else max(LONGEST, 2 * unit)
    if data.slices != "none":
        axis = slice_axis(data.slices, description.orientation, description.axis)
        if budget is not None:
            depth = slices_at_once(model.config, description.size, axis, budget, model.device, held)
        return SliceTranslator(model.networks, axis, data.context, depth)
    if budget is not None:
        depth = translation_depth(model.config, overlap, budget, model.device, is_whole, description.size, only, held)
    translator = Translator(model.networks, depth, overlap, unit)
    translator.windows(model.description.size[0])
    return translator


def _only_depth(model: TranslationModel, depth: int | None) -> int:
    """Return the slices of the only windows that a model translates as those it was trained on; 0: it takes others.

    Raises:
        InputError: If other windows of ``depth`` slices are given.
    """
    data, length = model.config.data, model.description.size[0]
    if not model.config.method.is_global or data.slices != "none":
        return 0
    only = length if data.window == "whole" else min(data.depth, length)
    if depth is not None and min(depth or length, length) != only:
        trained, use = ("whole volumes", 0) if only == length else ("windows", only)
        raise InputError(
            f"--depth {depth}: {model.path} was trained on {trained} of {only} slices with norm instance or attention, "
            f"whose statistics are others in windows of {depth or length}; use --depth {use}, or train with "
            f"{model.config.name}.norm rms and no attention"
        )
    return only


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

    Several source channels are columns of a CSV (`find_channels`), or the last axis of 4D files.

    Raises:
        InputError: If there is none, or some cannot be used or are in other units than the model was trained on: one
            line for each, before the first is yielded.
    """
    from hagan3d.data.io.listing import find_volumes
    from hagan3d.data.preprocess.cases import find_channels

    names = [channel.name for channel in description.source_channels or description.channels]
    if path.suffix.lower() == ".csv":
        found = find_channels(path, names)
    else:
        found = [replace(file, frames=len(names) if len(names) > 1 else 0) for file in find_volumes(path)]
    return len(found), all_readable(path, found, partial(read_source, description))


def read_source(description: DataDescription, file: "VolumeFile") -> SourceVolume:
    """Read the channels of a source onto the grid of the model, which follows from the first.

    Raises:
        InputError: If one cannot be used, or is in other units than the model was trained on.
    """
    from hagan3d.inference.case_files import read_case

    case = read_case(file, description.grid_rule, description.source_channels or description.channels, description.fill)
    home = case.first.array.shape, case.first.affine
    intervals = target_intervals(description, case.intervals)
    return SourceVolume(file.id, torch.from_numpy(case.x), case.affine, intervals, home, case.remarks)


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
    begins, *_, ends = ROUTES[model.networks.direction]
    if simulate and not model.config.data.degrade.active:
        raise InputError(f"--simulate: {model.path} was trained on pairs of a store, not on simulated sources")
    if model.networks.registers and not simulate:
        return moving_and_fixed_of_store(store, model, split)
    check_sources(store, description, begins, with_targets=model.networks.registers and store.has_sources)
    pairs = Pairs(store, model.config.data.degrade) if simulate or store.has_sources or store.has_domains else None
    chosen = store.indices(split) if pairs is None else pairs.indices(split, begins)
    if model.networks.registers:
        check_spacings(store, model, chosen)

    def read() -> Iterator[SourceVolume]:
        for i in map(int, chosen):
            own = store.intervals[i]  # without label maps
            whole = pairs is None or store.has_domains
            x = store.volume(i)[: len(own)] if whole or pairs is None else getattr(pairs.pair(i), begins)
            if store.has_sources:  # the volume of this subject in the units that the route ends in
                moves = ends == "source" or model.networks.registers
                own = store.source_intervals[i] if moves else own
                intervals = [(float(lo), float(hi)) for lo, hi in own]
            else:
                intervals = target_intervals(description, [(float(lo), float(hi)) for lo, hi in own])
            yield SourceVolume(store.ids[i], x, store.affines[i], intervals)

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

    A volume of several channels is a file per channel, ID_CHANNEL.nii.gz, its label map is ID_seg.nii.gz. A model with
    predicted uncertainty also writes ..._sigma, ..._lower and ..._upper. `translations.csv` has a line for each volume,
    `translations.png` shows some. One volume at a time is in memory, with its maps.

    Returns:
        Volumes written.
    """
    rows: list[list[object]] = []
    shown: dict[str, list[MiddlePlanes]] = {}
    description = model.description
    files = _TranslatedFiles(out, description, uncertainty or Uncertainty(), dtype, format)
    write_text(out / UNFINISHED, "")
    write_label_names(out, description)
    for source in sources:
        made = translator.whole(source.x)
        rows.append(files.write(source, made, translator.windows(source.x.shape[1]).borders))
        if len(rows) <= SHEET_VOLUMES:
            _show(shown, source, made, description)
    names = shown_channels(description)[: len(description.channels)]
    columns = [f"{column}{name and '_'}{name}" for name in names for column in ("seam_ratio", "mean_sigma")]
    write_csv(out / TRANSLATIONS, ["id", *columns], rows)
    comparison_sheet(shown, description.affine_array, out / TRANSLATED_PICTURE)
    (out / UNFINISHED).unlink()
    return len(rows)


@dataclass(frozen=True)
class _TranslatedFiles:
    """Writes translated volumes to a folder, each under names of its own."""

    out: Path
    description: DataDescription
    uncertainty: Uncertainty
    dtype: Dtype
    format: str
    taken: set[Path] = field(default_factory=set)

    def write(self, source: SourceVolume, made: Translation, borders: Sequence[int]) -> list[object]:
        """Write a volume, its label map and maps of uncertainty; return its row: id, seam ratios and sigmas."""
        paths = channel_paths(self.out / f"{source.id.replace('/', '_')}.{self.format}", self.description)
        row: list[object] = [source.id]
        if self.description.label_names:
            labels = label_map_of(made.mean[0].numpy(), len(paths) - 1)
            _write(claim(paths.pop(), self.taken), labels, source, self.description, "int16", None)
        for channel, path in enumerate(paths):
            seams = seam_ratio(made.mean[0, channel].numpy(), borders)
            sigma = self._write_channel(source, made, channel, path)
            row += ["" if seams is None else f"{seams:.4f}", "" if sigma is None else f"{sigma:.6g}"]
        return row

    def _write_channel(self, source: SourceVolume, made: Translation, channel: int, path: Path) -> float | None:
        """Write a channel and its maps of uncertainty; return the mean sigma."""
        lowest, highest = source.intervals[channel]
        maps = maps_of(made, channel, (lowest, highest), self.uncertainty)
        for suffix, array in maps.items():
            own = path.with_name(f"{path.name.removesuffix(f'.{self.format}')}{suffix}.{self.format}")
            # Where the grid of the model ends nothing was translated: anything from the lowest intensity to the
            # highest, the largest sigma.
            unknown = {"_upper": highest} | dict.fromkeys(OF_SIGMA, float(array.max()))
            outside = unknown.get(suffix, lowest)
            _write(claim(own, self.taken), array, source, self.description, self.dtype, channel, outside)
        return float(maps["_sigma"].mean()) if "_sigma" in maps else None


def maps_of(made: Translation, channel: int, interval: Interval, uncertainty: Uncertainty) -> dict[str, np.ndarray]:
    """Turn a channel of a translation into volumes ``[D, H, W]`` in target units, by suffix.

    The mean; with uncertainty sigma and bounds; of an ensemble the epistemic part of sigma.
    """
    half = (interval[1] - interval[0]) / 2
    mean = denormalize(made.mean[0, channel].numpy(), *interval)
    if made.alpha is None or made.beta is None or made.sigma is None:
        return {"": mean}
    half *= uncertainty.scales[channel] if uncertainty.scales else 1.0
    own = {} if made.epistemic is None else {"_epistemic": made.epistemic[0, channel].numpy() * half}
    reach = (made.alpha[0, channel] * ggd_half_width(made.beta[0, channel], uncertainty.level)).numpy() * half
    return {
        "": mean,
        "_sigma": made.sigma[0, channel].numpy() * half,
        "_lower": mean - reach,
        "_upper": mean + reach,
        **own,
    }


def _write(
    path: Path,
    array: np.ndarray,
    source: SourceVolume,
    description: DataDescription,
    dtype: Dtype,
    channel: int | None,
    outside: float = 0.0,
) -> None:
    """Resample a channel, or a label map (None), to the grid of its source and write it; label maps as integers.

    Voxels of the source outside the grid of the model get the value ``outside``; those of label maps 0.
    """
    is_map = channel is None or description.channels[channel].intensity == "labels"
    array, dtype = (np.rint(array), "int16") if is_map else (array, dtype)
    if source.home is None:
        turned, affine = to_output_axes(array, source.affine, description.orientation)
        write_nifti(path, turned, affine, dtype)
        return
    shape, affine = source.home
    size = (shape[0], shape[1], shape[2])
    if is_map:
        on_grid = resample_labels(array, source.affine, affine, size)
    else:
        on_grid = resample_onto(array, source.affine, affine, size, background=outside)
    write_nifti(path, on_grid, affine, dtype)


def _show(
    shown: dict[str, list[MiddlePlanes]], source: SourceVolume, made: Translation, description: DataDescription
) -> None:
    """Add the middle planes of the channels of a source and its translation to the picture."""
    sources = [channel.name for channel in description.source_channels or description.channels]
    targets = [channel.name for channel in description.channels]
    volumes = [("source", sources, source.x), ("translated", targets, made.mean[0].clamp(-1, 1))]
    if made.sigma is not None:
        largest = made.sigma[0].amax((1, 2, 3), keepdim=True)
        volumes.append(("sigma (white: its largest)", targets, made.sigma[0] / largest * 2 - 1))
    for title, names, channels in volumes:
        for name, x in zip(
            names, channels, strict=False
        ):  # without those of labels; of two images to register, the moving one alone
            planes = MiddlePlanes(description.size, description.affine_array)
            planes.add(x.numpy())
            shown.setdefault(title if len(names) == 1 else f"{title}, {name}", []).append(planes)
