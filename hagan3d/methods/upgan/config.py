"""Settings of UP-GAN."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import WindowDataConfig
from hagan3d.config.method import PatchDiscriminatorConfig, UNetMethodConfig
from hagan3d.errors import InputError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class UPGANConfig(UNetMethodConfig, PatchDiscriminatorConfig):
    """UP-GAN: a cascade of generators trained one after the other, each guided by the uncertainty of the one before."""

    data_config: ClassVar[type[WindowDataConfig]] = WindowDataConfig
    most_levels: ClassVar[int] = 5

    objective: Literal["bce", "minimax", "hinge", "lsgan"] = "bce"
    """Adversarial loss (lsgan: as published)."""
    residual: bool = False
    """Whether the generator predicts a residual that is added to the source: of several source channels, the first to
    the first target channel, the second to the second, and so on."""
    stages: int = bounded(3, at_least=1)
    """Number of stages, each a generator with its own discriminator."""
    stage_steps: int = bounded(1000, at_least=1)
    """Training steps of each stage. The rest of `train.steps` fine-tunes all stages jointly."""
    guide: Literal["mean", "paper", "channels", "none"] = "mean"
    """Input of the next stage. mean: prediction x sigma / mean sigma, and ln sigma. paper: prediction x sigma / sum of
    sigma, as published; it is near 0 in volumes of many voxels. channels: prediction, alpha and beta. none: the
    prediction, without uncertainty and GGD likelihood (plain cascade). With windows, the mean is of the window in
    training and of the volume at inference, and so is the sum, for as many voxels as a window has."""
    parts: Triple = (0.2, 0.2, 0.6)
    """Fractions of a stage's steps with the first, second and third pair of weights."""
    l1_weights: Triple = bounded((1.0, 0.5, 0.1), at_least=0)
    """Weights of the L1 loss in each part; fine-tuning uses the third."""
    nll_weights: Triple = bounded((1e-4, 1e-3, 1e-2), at_least=0)
    """Weights of the generalized Gaussian negative log-likelihood in each part; fine-tuning uses the third."""
    tuning_rate: float = bounded(0.1, above=0, at_most=1)
    """Learning rates of the joint fine-tuning, as a fraction of those of the stages."""
    initial_error: float = bounded(0.1, above=0, at_most=1)
    """Initial scale alpha of the predicted error distribution, in units of the [-1, 1] range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.parts) < 0 or not math.isclose(sum(self.parts), 1.0, abs_tol=1e-6):
            raise InputError(f"upgan.parts: must be three fractions that add up to 1, got {list(self.parts)}")

    @property
    def tuning_from(self) -> int:
        """First step of the joint fine-tuning."""
        return self.stages * self.stage_steps
