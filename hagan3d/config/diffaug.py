"""Settings of differentiable augmentation."""

from dataclasses import dataclass
from typing import ClassVar

from hagan3d.config.bounds import Section, bounded


@dataclass(frozen=True)
class DiffAugConfig(Section):
    """Differentiable augmentation of real and generated volumes, for small data sets (Zhao 2020, Karras 2020)."""

    PREFIX: ClassVar[str] = "diffaug."

    translate: float = bounded(0.0, at_least=0, at_most=1)
    """Largest translation along H and W, as a fraction of the side."""
    brightness: float = bounded(0.0, at_least=0, at_most=1)
    """Largest intensity shift, in units of the [-1, 1] range. D becomes invariant to smaller ones, so that G need not
    match absolute intensities: keep 0 where they have a meaning, as HU do."""
    contrast: float = bounded(0.0, at_least=0, at_most=1)
    """Largest relative change of contrast; the same caution applies."""
    probability: float = bounded(1.0, at_least=0, at_most=1)
    """Probability of each transform; the initial one if adaptive."""
    adaptive: bool = False
    """Whether the probability is adapted so that the mean sign of D's logits on real volumes stays at `target`; with
    the objectives relativistic and wgan-gp, of their differences to those on generated ones."""
    target: float = bounded(0.6, at_least=0, at_most=1)
    """Target mean sign of D's logits on real volumes."""
    ramp: int = bounded(50_000, at_least=1)
    """Number of real volumes over which an adaptive probability can go from 0 to 1."""

    @property
    def active(self) -> bool:
        """Whether any transform is on."""
        return self.translate > 0 or self.brightness > 0 or self.contrast > 0
