"""A translating run against held-out pairs: errors in target units and, where the model states it, its uncertainty."""

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hagan3d import __version__
from hagan3d.checkpoint import TranslationModel
from hagan3d.data.batches.pairs import Pair, Pairs
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.metrics.ssim import WINDOW, ssim_map
from hagan3d.evaluation.translation.calibration import Calibration
from hagan3d.evaluation.translation.label_maps import dice_of_labels, dice_summary
from hagan3d.evaluation.translation.registration import misalignment_errors, misalignment_summary
from hagan3d.inference.windowed_translation import Translator, seam_ratio
from hagan3d.methods.registration.networks import RegistrationNetworks
from hagan3d.networks.translation import Translation

VERSION = 1
FOREGROUND = -0.9  # of the [-1, 1] range: target voxels above it are looked at where a store has no masks
MEASURES = ("mae", "mae_percent", "psnr_db", "ssim", "nmse")
WORST = 3  # volumes shown

Start = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Case:
    """One volume, as it is shown."""

    id: str
    volumes: dict[str, np.ndarray]
    """``[D, H, W]`` in [-1, 1] by title."""


@dataclass
class MeasuredPairs:
    """What a report is made of."""

    metrics: dict[str, Any]
    """Plain values, for metrics.json."""
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """Of held-out volumes, as predicted and after scaling."""
    worst: list[Case] = field(default_factory=list)
    """The volumes of largest error, the worst first."""


@dataclass(frozen=True)
class Folds:
    """Which volumes are measured, and on which the factor on sigma of each of them is fitted."""

    held_out: list[int]
    fitted_on: dict[int, tuple[int, ...]]
    """Volumes to fit on, by volume that is measured."""
    text: str


def folds_of(store: Store, pairs: Pairs) -> Folds:
    """Choose: measure test volumes and fit on validation ones; without test volumes, fit on the other half of them.

    Halves are of subjects, in turn by their names. With one subject nothing is fitted.

    Raises:
        InputError: If the store has no held-out volumes.
    """
    validation, test = ([i for i, name in enumerate(store.splits) if name == split] for split in ("validation", "test"))
    if test:
        return Folds(
            test, dict.fromkeys(test, tuple(validation)), "measured on test volumes, scaled on validation ones"
        )
    if not validation:
        raise InputError(f"{store.path}: has no held-out volumes; prepare it with --validation or --test above 0")
    subjects = sorted({store.subjects[i] for i in validation})
    half = {subject: number % 2 for number, subject in enumerate(subjects)}
    groups = [tuple(i for i in validation if half[store.subjects[i]] == side) for side in (0, 1)]
    fitted = {i: groups[1 - half[store.subjects[i]]] for i in validation}
    return Folds(validation, fitted, "measured on validation volumes, each half scaled on the other subjects")


def voxel_errors(made: Tensor, target: Tensor, inside: Tensor, unit: float) -> dict[str, dict[str, float]]:
    """Measure a translation everywhere (``whole``) and inside a ``mask``.

    Args:
        made: ``[C, D, H, W]``.
        target: The same in [-1, 1].
        inside: The mask ``[1, D, H, W]``, bool.
        unit: Target units per unit of the [-1, 1] range.

    Returns:
        For each, ``mae`` in target units and ``mae_percent`` of the range; ``psnr_db`` for the range of 2; ``ssim`` of
        `ssim_map` (within the volume, on x + 1 with range 2), which is MONAI's; ``nmse``, the squared error over
        the square of x + 1.
    """
    similarity = ssim_map(made + 1, target + 1, data_range=2.0)
    everywhere = torch.ones_like(inside)
    return {
        name: _errors(made, target, kept.expand_as(target), similarity, unit)
        for name, kept in (("whole", everywhere), ("mask", inside))
    }


def _errors(made: Tensor, target: Tensor, kept: Tensor, similarity: Tensor, unit: float) -> dict[str, float]:
    """Measures of `voxel_errors` over some voxels."""
    margin = WINDOW // 2
    middle = kept[:, margin:-margin, margin:-margin, margin:-margin]
    error, signal = (made - target).double()[kept], (target + 1).double()[kept]
    square = float(error.square().mean())
    return {
        "mae": float(error.abs().mean()) * unit,
        "mae_percent": float(error.abs().mean()) * 50,
        "psnr_db": 10 * math.log10(4 / square) if square else math.inf,
        "ssim": float(similarity[middle].mean()) if middle.any() else math.nan,
        "nmse": float(error.square().sum() / signal.square().sum()),
    }


def measure_pairs(
    model: TranslationModel, store: Store, translator: Translator, start: Start, shown: int = WORST
) -> MeasuredPairs:
    """Translate held-out volumes and compare them with their targets.

    Args:
        model: The run.
        store: Pairs, or volumes that are spoilt as the run's `data.degrade` has it, the same way each time.
        translator: How volumes are cut.
        start: Called with the title and length of each part of the work; gives what is called as it goes on.
        shown: Worst cases that are kept as pictures.

    Raises:
        InputError: If the store has no pairs or no held-out ones, or does not fit the model.
    """
    if store.size != model.description.size:
        raise InputError(
            f"{store.path}: volumes of {list(store.size)} voxels, but the model's are {list(model.description.size)}"
        )
    pairs = Pairs(store, model.config.data.degrade)
    if store.has_domains:
        raise InputError(f"{store.path}: holds two domains without pairs, so no translation can be told right or wrong")
    folds = folds_of(store, pairs)
    scales = _scales(folds, pairs, translator, start)
    work = _Work(model, store, pairs, translator)
    advance = start("measure", len(folds.held_out))
    for i in folds.held_out:
        work.add(i, scales.get(folds.fitted_on[i]))
        advance(1)
    metrics = work.metrics() | {"protocol": VERSION, "key": key_of(model, store, translator), "split": folds.text}
    if work.calibration:
        metrics["calibration"] = {name: found.result() for name, found in work.calibration.items()}
        used = {scales[group] for group in folds.fitted_on.values() if group in scales}
        metrics["calibration"] |= {"scale": scales.get((), 1.0), "scales": sorted(used)}
    return MeasuredPairs(metrics, work.calibration, work.worst(shown))


def key_of(model: TranslationModel, store: Store, translator: Translator) -> str:
    """Tell one evaluation from others: run, step, store, windows."""
    content = [str(model.path.resolve()), model.step, store.store_fingerprint, translator.depth, translator.overlap]
    return hashlib.sha256(json.dumps([VERSION, *content]).encode()).hexdigest()


def _scales(folds: Folds, pairs: Pairs, translator: Translator, start: Start) -> dict[tuple[int, ...], float]:
    """Factor on sigma of each set of volumes that it is fitted on, and of all under ``()``; empty without any."""
    every = sorted({i for group in folds.fitted_on.values() for i in group})
    advance, found = start("fit the scale of sigma", len(every)), dict[int, Calibration]()
    for i in every:
        pair = pairs.pair(i)
        made = translator.whole(pair.source)
        if made.alpha is None or made.beta is None:
            return {}
        found[i] = Calibration()
        found[i].add(pair.target - made.mean[0], made.alpha[0], made.beta[0], _inside(pair))
        advance(1)
    groups = {group for group in folds.fitted_on.values() if group}
    scales = {group: sum((found[i] for i in group), Calibration()).scale() for group in groups}
    return scales | {(): sum(found.values(), Calibration()).scale()} if found else {}


def _inside(pair: Pair) -> Tensor:
    """Voxels that are looked at: the mask, else the foreground of the target; ``[Ct, D, H, W]``, bool."""
    chosen = pair.target > FOREGROUND if pair.mask is None else pair.mask > 0
    return chosen.expand_as(pair.target)


class _Work:
    """The measures of volumes, one after the other."""

    def __init__(self, model: TranslationModel, store: Store, pairs: Pairs, translator: Translator) -> None:
        self.model, self.store, self.pairs, self.translator = model, store, pairs, translator
        self.rows: list[dict[str, Any]] = []
        self.calibration: dict[str, Calibration] = {}

    def add(self, i: int, scale: float | None) -> None:
        """Translate a volume and take its measures."""
        pair = self.pairs.pair(i)
        made = self.translator.whole(pair.source)
        unit = float(self.store.hi[i] - self.store.lo[i]) / 2
        inside = _inside(pair)[:1]
        row: dict[str, Any] = {"id": self.store.ids[i], "index": i, "subject": self.store.subjects[i]}
        compared = {"translated": made.mean[0].clamp(-1, 1)}
        if self.pairs.degrade.active:
            compared["source as it is"] = pair.source[:1]
        for name, x in compared.items():
            row[name] = voxel_errors(x, pair.target, inside, unit)
        if self.store.has_label_maps:
            row["dice"] = dice_of_labels(made.mean[0, 0], pair.target[0], round(2 * unit) + 1)
        known = self.pairs.misalignment(i)
        if known is not None:
            row["misalignment"] = self._misaligned(pair.source, known)
        row["seam_ratio"] = seam_ratio(made.mean[0, 0].numpy(), self.translator.windows(self.store.size[0]).borders)
        self.rows.append(row)
        self._calibrate(pair, made, scale)

    def _misaligned(self, source: Tensor, known: Tensor) -> dict[str, dict[str, float]]:
        """Errors of the numbers that bring a source back, of zeros ``before`` and of the model ``after``."""
        networks = self.model.networks
        if not isinstance(networks, RegistrationNetworks):
            return {}
        with torch.no_grad():
            numbers = networks.estimate(source[None].to(self.translator.device))[0].cpu()
        each = {"before": torch.zeros_like(numbers), "after": numbers}
        return {when: misalignment_errors(x, known, self.store.size, networks.spacing) for when, x in each.items()}

    def _calibrate(self, pair: Pair, made: Translation, scale: float | None) -> None:
        if made.alpha is None or made.beta is None:
            return
        error, inside = pair.target - made.mean[0], _inside(pair)
        for name, factor in (("as predicted", 1.0), ("scaled", scale)):
            if factor is not None:
                found = self.calibration.setdefault(name, Calibration())
                found.add(error, made.alpha[0] * factor, made.beta[0], inside)

    def metrics(self) -> dict[str, Any]:
        """Plain values of all volumes."""
        names = [name for name in ("translated", "source as it is") if name in self.rows[0]]
        seams = [row["seam_ratio"] for row in self.rows if row["seam_ratio"] is not None]
        return {
            "method": self.model.config.name,
            "run": str(self.model.path),
            "step": self.model.step,
            "units": self.model.description.units,
            "degrade": self.pairs.degrade.kind,
            "mask": "masks of the store" if self.store.has_masks else f"target above {FOREGROUND} of the [-1, 1] range",
            "store": {"path": str(self.store.path), "fingerprint": self.store.store_fingerprint},
            "volumes": len(self.rows),
            "summary": {name: {where: self._summary(name, where) for where in ("whole", "mask")} for name in names},
            "seam_ratio": float(np.mean(seams)) if seams else None,
            "dice": dice_summary([row["dice"] for row in self.rows if "dice" in row]),
            "misalignment": misalignment_summary([row["misalignment"] for row in self.rows if "misalignment" in row]),
            "rows": self.rows,
            "versions": {"hagan3d": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }

    def _summary(self, name: str, where: str) -> dict[str, dict[str, float]]:
        """Mean and standard deviation over volumes."""
        values = {key: np.array([row[name][where][key] for row in self.rows]) for key in MEASURES}
        return {
            key: {"mean": float(v.mean()), "deviation": float(v.std(ddof=1)) if len(v) > 1 else 0.0}
            for key, v in values.items()
        }

    def worst(self, count: int) -> list[Case]:
        """The volumes of largest mean squared error in the mask, translated again for pictures."""
        chosen = sorted(self.rows, key=lambda row: row["translated"]["mask"]["psnr_db"])[:count]
        return list(self._cases([row["index"] for row in chosen]))

    def _cases(self, indices: list[int]) -> Iterator[Case]:
        for i in indices:
            pair = self.pairs.pair(i)
            made = self.translator.whole(pair.source)
            mean, target = made.mean[0, 0].clamp(-1, 1), pair.target[0]
            shown = {"source": pair.source[0], "translated": mean, "target": target}
            white = max(float((mean - target).abs().quantile(0.999)), 1e-6) if mean.numel() < 2**24 else 0.5
            shown[f"error (white: {white:.2f})"] = (mean - target).abs() / white * 2 - 1
            if made.sigma is not None:
                shown[f"sigma (white: {white:.2f})"] = made.sigma[0, 0] / white * 2 - 1
            yield Case(self.store.ids[i], {name: x.clamp(-1, 1).numpy() for name, x in shown.items()})
