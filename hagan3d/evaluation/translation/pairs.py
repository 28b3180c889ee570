"""Evaluation of a translating run on held-out pairs: voxel errors and, where predicted, calibration of uncertainty."""

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hagan3d import __version__
from hagan3d.checkpoint import TranslationModel
from hagan3d.data.batches.pairs import Pair, Pairs
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.metrics.registry import metrics
from hagan3d.evaluation.metrics.translation import TranslatedPair
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.evaluation.translation.calibration import Calibration
from hagan3d.evaluation.translation.label_maps import dice_of_labels, dice_summary
from hagan3d.evaluation.translation.registration import misalignment_errors, misalignment_summary
from hagan3d.evaluation.translation.results import (
    SOURCE,
    TRANSLATED,
    ChannelErrors,
    ChannelEvaluation,
    EvaluatedPairs,
    PairEvaluation,
    RegionErrors,
    ShownCase,
    Spread,
    VolumeErrors,
)
from hagan3d.inference.register_files import check_spacings
from hagan3d.inference.source_volume import check_sources
from hagan3d.inference.windowed_translation import Translator, seam_ratio
from hagan3d.networks.state_hash import state_hash
from hagan3d.networks.translation import Translation

PAIR_PROTOCOL_VERSION = 3
FOREGROUND = -0.9  # of the [-1, 1] range: threshold of the target that defines the mask where a store has no masks
WORST = 3  # cases shown in the report


@dataclass(frozen=True)
class CalibrationFolds:
    """Which volumes are evaluated, and on which volumes the scale of sigma of each is fitted."""

    held_out: list[int]
    fitted_on: dict[int, tuple[int, ...]]
    """Volumes to fit on, by evaluated volume."""
    text: str


def calibration_folds(store: Store, pairs: Pairs) -> CalibrationFolds:
    """Evaluate on test volumes and fit on validation volumes; without test volumes, two-fold over subjects.

    With one subject nothing is fitted.

    Raises:
        InputError: If the store has no held-out volumes.
    """
    validation, test = ([i for i, name in enumerate(store.splits) if name == split] for split in ("validation", "test"))
    if test:
        text = "evaluated on test volumes, scale of sigma fitted on validation volumes"
        return CalibrationFolds(test, dict.fromkeys(test, tuple(validation)), text)
    if not validation:
        raise InputError(f"{store.path}: has no held-out volumes; prepare it with --validation or --test above 0")
    subjects = sorted({store.subjects[i] for i in validation})
    half = {subject: number % 2 for number, subject in enumerate(subjects)}
    groups = [tuple(i for i in validation if half[store.subjects[i]] == side) for side in (0, 1)]
    fitted = {i: groups[1 - half[store.subjects[i]]] for i in validation}
    text = "evaluated on validation volumes, scale of sigma fitted on the other half of the subjects"
    return CalibrationFolds(validation, fitted, text)


def voxel_errors(translated: Tensor, target: Tensor, mask: Tensor, unit: float) -> RegionErrors:
    """Compute all registered metrics of a translation, over the ``whole`` volume and inside the ``mask``.

    Args:
        translated: Translated volume ``[C, D, H, W]``.
        target: Target ``[C, D, H, W]`` in [-1, 1].
        mask: Mask ``[1, D, H, W]``, bool.
        unit: Intensity units per unit of the [-1, 1] range.

    Returns:
        By region and by key of the metric, see `hagan3d.evaluation.metrics.translation`.
    """
    pair = TranslatedPair(translated, target, unit)
    regions = {"whole": torch.ones_like(mask), "mask": mask}
    return {
        name: {one.key: one.function(pair, region.expand_as(target)) for one in metrics("pair")}
        for name, region in regions.items()
    }


def evaluate_pairs(
    models: Sequence[TranslationModel],
    store: Store,
    translator: Translator,
    progress: ProgressCallback = no_progress,
    shown: int = WORST,
) -> EvaluatedPairs:
    """Translate held-out volumes and compare them with their targets.

    Args:
        models: The run, or those of an ensemble.
        store: Pairs, or volumes that are degraded as in training (`data.degrade`), deterministically.
        translator: Translates by them.
        progress: Shows progress.
        shown: Worst cases for pictures.

    Raises:
        InputError: If the store has no pairs or no held-out ones, or does not fit the model.
    """
    model = models[0]
    pairs = Pairs(store, model.config.data.degrade)
    check_sources(store, model.description, "all", with_targets=True)
    if store.has_domains:
        raise InputError(f"{store.path}: holds two domains without pairs, so translations cannot be evaluated")
    folds = calibration_folds(store, pairs)
    if model.networks.registers:
        check_spacings(store, model, folds.held_out)
    scales = _scales(folds, pairs, translator, progress)
    evaluator = _PairEvaluator(model, store, pairs, translator)
    for i in track(folds.held_out, "evaluate", len(folds.held_out), progress):
        evaluator.add(i, scales.get(folds.fitted_on[i]))
    origin = _origin(models, store, translator, pairs, folds)
    used = [scales[group] for group in set(folds.fitted_on.values()) if group in scales]
    results = evaluator.results(origin, scales.get((), []), used)
    return EvaluatedPairs(results, evaluator.calibration, evaluator.worst(shown))


def pair_evaluation_key(models: Sequence[TranslationModel], store: Store, translator: Translator) -> str:
    """Return a hash of everything that the results depend on: weights, store, windows, members of an ensemble."""
    runs = [(state_hash(model.networks.state_dict()), model.step) for model in models]
    content = [store.store_fingerprint, translator.depth, translator.overlap, translator.passes]
    return hashlib.sha256(json.dumps([PAIR_PROTOCOL_VERSION, runs, *content]).encode()).hexdigest()


def _origin(
    models: Sequence[TranslationModel], store: Store, translator: Translator, pairs: Pairs, folds: CalibrationFolds
) -> dict[str, Any]:
    model = models[0]
    return {
        "protocol": PAIR_PROTOCOL_VERSION,
        "key": pair_evaluation_key(models, store, translator),
        "method": model.config.name,
        "run": " ".join(str(one.path) for one in models),
        "step": model.step,
        "passes": translator.passes,
        "degrade": pairs.degrade.kind,
        "store": {"path": str(store.path), "fingerprint": store.store_fingerprint},
        "split": folds.text if translator.predicts_uncertainty else folds.text.partition(",")[0],
        "versions": {"hagan3d": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _scales(
    folds: CalibrationFolds, pairs: Pairs, translator: Translator, progress: ProgressCallback
) -> dict[tuple[int, ...], list[float]]:
    """Scale of sigma of each target channel, fitted on each group of volumes, and on all of them under ``()``.

    Empty without uncertainty. Channels may share a sigma, as in a model that predicts one map for all, but their errors
    differ.
    """
    if not translator.predicts_uncertainty:
        return {}
    every = sorted({i for group in folds.fitted_on.values() for i in group})
    fits = dict[int, list[Calibration]]()
    for i in track(every, "fit the scale of sigma", len(every), progress):
        pair = pairs.pair(i)
        prediction = translator.whole(pair.source)
        assert prediction.alpha is not None and prediction.beta is not None
        fits[i] = [Calibration() for _ in pairs.store.channels]
        values = pair.target - prediction.mean[0], prediction.alpha[0], prediction.beta[0], _mask(pair)
        for calibration, *channel in zip(fits[i], *values, strict=False):  # the channels of labels come last
            calibration.add(*channel)
    groups = {group for group in folds.fitted_on.values() if group}
    scales = {group: _fitted([fits[i] for i in group]) for group in groups}
    return scales | {(): _fitted(list(fits.values()))} if fits else {}


def _fitted(fits: list[list[Calibration]]) -> list[float]:
    """Return the scale of sigma of each channel, over volumes."""
    return [sum(channel, Calibration()).scale() for channel in zip(*fits, strict=True)]


def _mask(pair: Pair) -> Tensor:
    """Mask of the pair, or else the foreground of the target; ``[Ct, D, H, W]``, bool."""
    mask = pair.target > FOREGROUND if pair.mask is None else pair.mask > 0
    return mask.expand_as(pair.target)


class _PairEvaluator:
    """Collects the errors of one volume after the other."""

    def __init__(self, model: TranslationModel, store: Store, pairs: Pairs, translator: Translator) -> None:
        self.model, self.store, self.pairs, self.translator = model, store, pairs, translator
        self.names = [channel.name for channel in model.description.channels]
        self.rows: list[VolumeErrors] = []
        self.calibration: dict[str, dict[str, Calibration]] = {}

    def add(self, i: int, scales: list[float] | None) -> None:
        """Translate a volume and compute its errors; ``scales``: of sigma, one per channel."""
        pair = self.pairs.pair(i)
        prediction = self.translator.whole(pair.source)
        truth = self.pairs.misalignment(i)
        self.rows.append(
            VolumeErrors(
                id=self.store.ids[i],
                index=i,
                subject=self.store.subjects[i],
                channels={name: self._errors(i, k, pair, prediction) for k, name in enumerate(self.names)},
                dice=self._dice(i, pair, prediction),
                misalignment=None if truth is None else self._misalignment(pair.source, truth),
            )
        )
        self._calibrate(pair, prediction, scales)

    def _dice(self, i: int, pair: Pair, prediction: Translation) -> dict[str, float | None] | None:
        """Return the Dice coefficient of each label, where the target is a label map or has one."""
        if self.store.has_label_maps:
            labels = round(float(self.store.intervals[i, 0, 1])) + 1
            coded = (x.add(1).mul((labels - 1) / 2).round().numpy() for x in (prediction.mean[0, 0], pair.target[0]))
            predicted, target = coded
            return dice_of_labels(predicted, target, [str(label) for label in range(labels)])
        if not self.store.label_names:
            return None
        predicted, target = (label_map_of(x.numpy(), len(self.names)) for x in (prediction.mean[0], pair.target))
        return dice_of_labels(predicted, target, self.store.label_names)

    def _errors(self, i: int, channel: int, pair: Pair, prediction: Translation) -> ChannelErrors:
        """Compute the errors of one channel."""
        own = slice(channel, channel + 1)
        compared = {TRANSLATED: prediction.mean[0, own].clamp(-1, 1)}
        if self.pairs.degrade.changes:
            compared[SOURCE] = pair.source[own]
        unit, target, mask = float(np.diff(self.store.intervals[i, channel])[0]) / 2, pair.target[own], _mask(pair)[own]
        borders = self.translator.windows(self.store.size[0]).borders
        errors = {name: voxel_errors(x, target, mask, unit) for name, x in compared.items()}
        return ChannelErrors(errors, seam_ratio(prediction.mean[0, channel].numpy(), borders))

    def _misalignment(self, source: Tensor, truth: Tensor) -> dict[str, dict[str, float]]:
        """Errors of the transform parameters: of the identity (``before``) and of the model's estimate (``after``)."""
        networks = self.model.networks
        if not networks.registers:
            return {}
        with torch.no_grad():
            estimate = networks.estimate(source[None].to(self.translator.device))[0].cpu()
        each = {"before": torch.zeros_like(estimate), "after": estimate}
        return {when: misalignment_errors(x, truth, self.store.size, networks.spacing) for when, x in each.items()}

    def _calibrate(self, pair: Pair, prediction: Translation, scales: list[float] | None) -> None:
        if prediction.alpha is None or prediction.beta is None:
            return
        error, alpha, beta, mask = (
            pair.target - prediction.mean[0],
            prediction.alpha[0],
            prediction.beta[0],
            _mask(pair),
        )
        for k, name in enumerate(self.names):
            of_channel = self.calibration.setdefault(name, {})
            for title, factor in (("as predicted", 1.0), ("scaled", None if scales is None else scales[k])):
                if factor is not None:
                    of_channel.setdefault(title, Calibration()).add(error[k], alpha[k] * factor, beta[k], mask[k])

    def results(self, origin: dict[str, Any], scales: list[float], used: list[list[float]]) -> PairEvaluation:
        """Return the results over all volumes.

        Args:
            origin: See `PairEvaluation`.
            scales: Of sigma, fitted on all volumes, one per channel; empty: none was fitted.
            used: Those fitted on each group of volumes.
        """
        threshold = f"target above {FOREGROUND} of the [-1, 1] range"
        return PairEvaluation(
            origin=origin,
            mask="masks of the store" if self.store.has_masks else threshold,
            channels={
                name: self._channel(k, scales[k] if scales else 1.0, sorted({one[k] for one in used}))
                for k, name in enumerate(self.names)
            },
            rows=tuple(self.rows),
            is_label_map=self.store.has_label_maps,
            dice=dice_summary([row.dice for row in self.rows if row.dice is not None]),
            misalignment=misalignment_summary([row.misalignment for row in self.rows if row.misalignment is not None]),
        )

    def _channel(self, k: int, scale: float, used: list[float]) -> ChannelEvaluation:
        """Return the results of one channel."""
        name = self.names[k]
        rows = [row.channels[name] for row in self.rows]
        seams = [row.seam_ratio for row in rows if row.seam_ratio is not None]
        calibration: dict[str, Any] | None = None
        if name in self.calibration and all(one.voxels for one in self.calibration[name].values()):
            calibration = {title: one.result() for title, one in self.calibration[name].items()}
            calibration |= {"scale": scale, "scales": used}
        return ChannelEvaluation(
            units=self.model.description.channels[k].units,
            summary={
                compared: {where: _summary([row.errors[compared][where] for row in rows]) for where in regions}
                for compared, regions in rows[0].errors.items()
            },
            seam_ratio=float(np.mean(seams)) if seams else None,
            calibration=calibration,
        )

    def worst(self, count: int) -> tuple[ShownCase, ...]:
        """Return the volumes with the lowest PSNR in the mask (last those without), translated again for pictures."""
        rows = sorted(self.rows, key=lambda row: (np.isnan(row.psnr_db), row.psnr_db))[:count]
        return tuple(self._cases([row.index for row in rows]))

    def _cases(self, indices: list[int]) -> Iterator[ShownCase]:
        for i in indices:
            pair = self.pairs.pair(i)
            prediction = self.translator.whole(pair.source)
            description = self.model.description
            names = [channel.name for channel in description.source_channels or description.channels]
            # of a moving and a fixed image, the moving one
            shown = {_title("source", name, names): x for name, x in zip(names, pair.source, strict=False)}
            for k, name in enumerate(self.names):
                sigma = None if prediction.sigma is None else prediction.sigma[0, k]
                pictures = _pictures(prediction.mean[0, k].clamp(-1, 1), pair.target[k], sigma)
                shown |= {_title(title, name, self.names): x for title, x in pictures.items()}
            if self.store.label_names:
                shown |= self._label_pictures({"translated": prediction.mean[0], "target": pair.target})
            yield ShownCase(self.store.ids[i], {title: x.clamp(-1, 1).numpy() for title, x in shown.items()})

    def _label_pictures(self, volumes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the label maps of volumes ``[C, D, H, W]`` as grey values, by title."""
        maps = {title: label_map_of(x.numpy(), len(self.names)) for title, x in volumes.items()}
        scale = 2 / (len(self.store.label_names) - 1)
        return {f"labels, {title}": torch.from_numpy(x.astype(np.float32)) * scale - 1 for title, x in maps.items()}


def _summary(rows: list[dict[str, float]]) -> dict[str, Spread]:
    """Return mean and standard deviation of each metric over volumes."""
    return {one.key: Spread.of([row[one.key] for row in rows]) for one in metrics("pair")}


def _title(title: str, name: str, names: list[str]) -> str:
    """Return the title of a picture, with the name of its channel if there are several."""
    return title if len(names) == 1 else f"{title}, {name}"


def _pictures(mean: Tensor, target: Tensor, sigma: Tensor | None) -> dict[str, Tensor]:
    """Return a translated channel ``[D, H, W]``, its target, its error and sigma, by title."""
    white = max(float((mean - target).abs().quantile(0.999)), 1e-6) if mean.numel() < 2**24 else 0.5
    shown = {"translated": mean, "target": target, f"error (white: {white:.2f})": (mean - target).abs() / white * 2 - 1}
    return shown if sigma is None else shown | {f"sigma (white: {white:.2f})": sigma / white * 2 - 1}
