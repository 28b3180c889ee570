"""Settings of an evaluation, with their units and defaults; apart from those of training only to keep files short."""

from dataclasses import dataclass

from hagan3d.errors import InputError


@dataclass(frozen=True)
class FeatureTrainConfig:
    """How the feature extractor of a store is trained."""

    steps: int = 1500
    """Steps."""
    batch_size: int = 16
    """Volumes per step."""
    lr: float = 2e-3
    """Adam's highest learning rate."""
    mask: float = 0.4
    """Fraction of each volume that is hidden."""
    seed: int = 0
    """Of weights, order and masks."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"features {name}: want at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < 1 or not 0 <= self.mask < 1 or self.seed < 0:
            raise InputError(f"want 0 < lr < 1, 0 <= mask < 1 and seed >= 0, got {self.lr}, {self.mask}, {self.seed}")
