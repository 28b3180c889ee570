"""Ensembles of translations: several runs, dropout at inference, mirrored and shifted sources; mean and uncertainty.

The epistemic variance is that of the means of the members; it is added to the mean of the variances that they predict
(law of total variance). Sources: Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles, NeurIPS 2017; Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016; Wang et al., Aleatoric
Uncertainty Estimation with Test-time Augmentation, Neurocomputing 338, 2019.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.checkpoint import TranslationModel
from hagan3d.data.store.preparation import differences
from hagan3d.errors import InputError
from hagan3d.inference.memory import ensemble_bytes
from hagan3d.inference.windowed_translation import Translator, Windows
from hagan3d.networks.translation import Translation
from hagan3d.ops import ggd_log_sigma

SHIFT = 2  # voxels by which sources are shifted
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EnsembleOptions:
    """What the members of an ensemble differ in, besides their runs."""

    samples: int = 0
    """Passes with dropout, each with a seed of its own; 0: one pass without dropout."""
    augment: tuple[str, ...] = ()
    """flips: also of the source mirrored along each axis. shifts: also of the source shifted along each axis."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.samples == 1:
            raise InputError(f"--samples {self.samples}: must be at least 2, or 0 for one pass without dropout")
        unknown = sorted({*self.augment} - {*CHANGES})
        if unknown:
            raise InputError(f"--augment {unknown[0]}: must be one or both of {', '.join(CHANGES)}")


def _flipped(axis: int) -> tuple[Change, Change]:
    def flip(x: Tensor) -> Tensor:
        return x.flip(axis)

    return flip, flip


def _shifted(axis: int, by: int) -> tuple[Change, Change]:
    """Return a shift along an axis, which repeats the face, and its inverse; maps may have lost ``by`` slices."""

    def shift(x: Tensor, by: int = by) -> Tensor:
        pads = [0] * 6
        pads[2 * (-1 - axis) + (by < 0)] = abs(by)
        padded = F.pad(x[None] if x.ndim == 4 else x, pads, mode="replicate")
        padded = padded[0] if x.ndim == 4 else padded
        return padded.narrow(axis, 0 if by > 0 else -by, x.shape[axis])

    return shift, lambda x: shift(x, -by)


CHANGES: dict[str, list[tuple[Change, Change]]] = {
    "flips": [_flipped(axis) for axis in (-3, -2, -1)],
    "shifts": [_shifted(axis, by) for axis, by in product((-3, -2, -1), (SHIFT, -SHIFT))],
}
"""Changes of a volume ``[..., D, H, W]`` and what undoes them."""


@dataclass
class _Moments:
    """Running mean of the members' means and sum of squared deviations, and of what they predict."""

    count: int = 0
    predicting: int = 0
    """Members that predict sigma."""
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    variance: Tensor | None = None
    log_shape: Tensor | None = None

    def add(self, made: Translation) -> None:
        self.count += 1
        change = made.mean - self.mean
        self.mean = self.mean + change / self.count
        self.squares = self.squares + change * (made.mean - self.mean)
        if made.sigma is not None and made.beta is not None:
            self.predicting += 1
            self.variance = _sum(self.variance, made.sigma.square())
            self.log_shape = _sum(self.log_shape, made.beta.log())

    def result(self) -> Translation:
        """Return the mean and the total uncertainty, as a generalized Gaussian of the mean shape."""
        epistemic = self.squares / max(1, self.count - 1)
        if self.variance is None or self.log_shape is None:
            beta, total = torch.full_like(epistemic, 2.0), epistemic
        else:
            beta = (self.log_shape / self.predicting).exp()
            total = self.variance / self.predicting + epistemic
            beta = beta.expand_as(total)
        sigma = total.sqrt()
        of_unit_scale = ggd_log_sigma(torch.zeros_like(beta), beta.log()).exp()  # sigma where alpha is 1
        floor = torch.finfo(sigma.dtype).tiny ** 0.5
        return Translation(self.mean, (sigma / of_unit_scale).clamp(min=floor), beta, sigma, epistemic.sqrt())


def _sum(total: Tensor | None, x: Tensor) -> Tensor:
    return x if total is None else total + x


class EnsembleTranslator(Translator):
    """Several translators of the same channels that translate one after the other; memory does not grow with them."""

    def __init__(self, members: Sequence[Translator], options: EnsembleOptions) -> None:
        """Combine ``members``, each with every dropout seed and change of ``options``."""
        first = members[0]
        super().__init__(first.networks, first.depth, first.overlap)
        self.members, self.options = members, options

    @property
    def passes(self) -> str:
        """Describe the passes behind a translation."""
        parts = [f"{len(self.members)} runs"] if len(self.members) > 1 else []
        parts += [f"{self.options.samples} dropout samples"] if self.options.samples else []
        return " x ".join([*parts, *self.options.augment])

    @property
    def predicts_uncertainty(self) -> bool:
        """Whether a translation has alpha, beta and sigma."""
        return True

    def windows(self, length: int) -> Windows:
        """How a volume of so many slices is cut."""
        return self.members[0].windows(length)

    def whole(self, source: Tensor) -> Translation:
        """Translate a volume ``[Cs, D, H, W]`` by all members; returns mean and total uncertainty on the CPU."""
        moments = _Moments()
        for translator, seed, (change, undo) in self._passes():
            translator.networks.dropout_seed = seed
            made = translator.whole(change(source))
            translator.networks.dropout_seed = None
            maps = {name: x for name in ("mean", "alpha", "beta", "sigma") if (x := getattr(made, name)) is not None}
            moments.add(Translation(**{name: undo(x) for name, x in maps.items()}))
        return moments.result()

    def _passes(self) -> Iterator[tuple[Translator, int | None, tuple[Change, Change]]]:
        changes = [(_same, _same), *(change for name in self.options.augment for change in CHANGES[name])]
        seeds: list[int | None] = list(range(self.options.samples)) or [None]
        yield from product(self.members, seeds, changes)


def _same(x: Tensor) -> Tensor:
    return x


def ensemble_bytes_of(models: Sequence[TranslationModel], options: EnsembleOptions) -> int:
    """Return the bytes that an ensemble of models holds besides one member; 0 of one model without other members."""
    if len(models) == 1 and options == EnsembleOptions():
        return 0
    first = models[0]
    predicts = any(model.networks.predicts_uncertainty for model in models)
    return ensemble_bytes([model.config for model in models], first.description.size, predicts)


def ensemble(models: Sequence[TranslationModel], members: Sequence[Translator], options: EnsembleOptions) -> Translator:
    """Return a translator of all members; of one without dropout and changes, that itself.

    Args:
        models: The runs.
        members: A translator for each.
        options: Dropout and changes.

    Raises:
        InputError: If the runs do not translate the same channels, or their translations have no mean.
    """
    if len(members) == 1 and options == EnsembleOptions():
        return members[0]
    first = models[0]
    for model in models:
        if not model.networks.is_continuous:
            raise InputError(
                f"{model.path}: method {model.config.name} gives label maps or transforms, which have no mean; leave "
                "out --samples, --augment and further runs"
            )
        if options.samples and not model.networks.has_dropout:
            raise InputError(
                f"--samples {options.samples}: {model.path} has no dropout; give several runs that were trained with "
                "other seeds, or --augment flips"
            )
        ends = [(m.description.size, _names(m)) for m in (first, model)]
        if ends[0] != ends[1]:
            raise InputError(
                f"{model.path}: translates other channels or sizes than {first.path}; use runs of one task"
            )
        own, others = (m.description for m in (model, first))
        pairs = zip((*own.source_channels, *own.channels), (*others.source_channels, *others.channels), strict=True)
        if found := differences(own, others, pairs):
            raise InputError(f"{model.path}: was trained on other data than {first.path}: {'; '.join(found)}")
    return EnsembleTranslator(members, options)


def _names(model: TranslationModel) -> list[tuple[str, str]]:
    channels = (*model.description.source_channels, *model.description.channels)
    return [(channel.name, channel.units) for channel in channels]
