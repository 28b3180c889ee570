"""Settings of image-to-image translation: generators, critics, and what each method adds."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hagan3d.errors import InputError

Numbers = tuple[float, float, float]


@dataclass(frozen=True)
class CascadeConfig:
    """UP-GAN: stages that learn one after the other, each guided by the uncertainty of the one before."""

    stages: int = 3
    """Generators in a row, each with a critic of its own."""
    stage_steps: int = 1000
    """Steps in which one stage learns. What `train.steps` leaves after the last one tunes all stages together."""
    guide: Literal["mean", "paper", "channels", "none"] = "mean"
    """What a stage hands on. mean: prediction x sigma / mean sigma, and ln sigma. paper: / sum of sigma. channels:
    prediction, alpha and beta. none: the prediction alone, and no likelihood anywhere: a plain cascade. Where stages
    learn on windows, the mean and sum are those of the window, and in inference those of the volume."""
    parts: Numbers = (0.2, 0.2, 0.6)
    """Fractions of a stage's steps with the first, second and third weights."""
    l1_weights: Numbers = (1.0, 0.5, 0.1)
    """Weight of the mean absolute error in each part; tuning has the third."""
    nll_weights: Numbers = (1e-4, 1e-3, 1e-2)
    """Weight of the generalized-Gaussian likelihood in each part; tuning has the third."""
    tuning_rate: float = 0.1
    """Learning rates of the tuning, as a fraction of those before."""
    initial_error: float = 0.1
    """Mean absolute error that the untrained uncertainty stands for, in units of the [-1, 1] range."""

    def __post_init__(self) -> None:
        for name in ("stages", "stage_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"translation.cascade.{name}: want at least 1, got {getattr(self, name)}")
        if min(self.parts) < 0 or not math.isclose(sum(self.parts), 1.0, abs_tol=1e-6):
            raise InputError(f"translation.cascade.parts: want three fractions that add up to 1, got {self.parts}")
        for name in ("l1_weights", "nll_weights"):
            if min(getattr(self, name)) < 0:
                raise InputError(f"translation.cascade.{name}: want numbers from 0 up, got {getattr(self, name)}")
        for name in ("tuning_rate", "initial_error"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"translation.cascade.{name}: want a number above 0, up to 1")

    @property
    def tuning_from(self) -> int:
        """First step of the tuning."""
        return self.stages * self.stage_steps


@dataclass(frozen=True)
class MedganConfig:
    """MedGAN: U-Nets in a row, and differences of features."""

    blocks: int = 6
    """U-Nets in a row."""
    critic_every: int = 3
    """Updates of the generator per update of its critic."""
    perceptual_weight: float = 20.0
    """Weight of the mean absolute difference of volumes and of the critic's features."""
    style_weight: float = 1e-4
    """Weight of the difference of Gram matrices of the extractor's features."""
    content_weight: float = 1e-4
    """Weight of the mean squared difference of the extractor's features."""
    extractor_decay: float = 0.99
    """Decay per update of the average of the critic that is the extractor."""

    def __post_init__(self) -> None:
        for name in ("blocks", "critic_every"):
            if getattr(self, name) < 1:
                raise InputError(f"translation.medgan.{name}: want at least 1, got {getattr(self, name)}")
        for name in ("perceptual_weight", "style_weight", "content_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"translation.medgan.{name}: want a number from 0 up, got {getattr(self, name)}")
        if not 0 <= self.extractor_decay < 1:
            raise InputError(f"translation.medgan.extractor_decay: want 0 to below 1, got {self.extractor_decay}")


@dataclass(frozen=True)
class CycleConfig:
    """CycleGAN: a generator for each direction, so that unpaired volumes can go there and back."""

    blocks: int = 9
    """Residual blocks of a generator."""
    cycle_weight: float = 10.0
    """Weight of the mean absolute error of volumes that went there and back."""
    identity_weight: float = 5.0
    """Weight of the mean absolute change of volumes that are of the wanted domain already."""
    pool: int = 50
    """Generated volumes per domain that critics see again, kept in the machine's memory and in checkpoints."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise InputError(f"translation.cycle.blocks: want at least 1, got {self.blocks}")
        for name in ("cycle_weight", "identity_weight", "pool"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"translation.cycle.{name}: want a number from 0 up, got {getattr(self, name)}")


@dataclass(frozen=True)
class UnitConfig:
    """UNIT: two domains that share a latent space."""

    blocks: int = 3
    """Residual blocks of each encoder and decoder, besides the shared ones."""
    attention: bool = False
    """Whether encoders end with self-attention."""
    spectral_norm: bool = False
    """Whether critics have spectral norm."""
    charbonnier: bool = False
    """Whether errors are sqrt(error^2 + 1e-6) in place of absolute ones."""
    reconstruction_weight: float = 100.0
    """Weight of the error of volumes that were encoded and decoded."""
    kl_weight: float = 0.1
    """Weight of the mean square of their latents."""
    cycle_weight: float = 100.0
    """Weight of the error of volumes that went to the other domain and back."""
    cycle_kl_weight: float = 0.1
    """Weight of the mean square of the latents on the way back."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise InputError(f"translation.unit.blocks: want at least 1, got {self.blocks}")
        for name in ("reconstruction_weight", "kl_weight", "cycle_weight", "cycle_kl_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"translation.unit.{name}: want a number from 0 up, got {getattr(self, name)}")


@dataclass(frozen=True)
class RestoreConfig:
    """Restoration: what a generator is made of, and what is compared."""

    generator: Literal["plain", "skips", "unet"] = "plain"
    """plain: convolutions at full resolution. skips: the same, with skips across the middle. unet: strided U-Net."""
    depth: int = 8
    """Convolutions of `plain` and `skips`."""
    critic_steps: int = 1
    """Updates of the critic per update of the generator; a step has one update of the critic."""
    l2_weight: float = 1.0
    """Weight of the mean squared error."""
    nmse_weight: float = 0.0
    """Weight of the squared error over the squared intensity of a volume."""
    frequency_weight: float = 0.0
    """Weight of the mean squared difference of magnitudes of spectra."""
    perceptual_weight: float = 0.0
    """Weight of the mean squared difference of features of the extractor."""
    slice_tv_weight: float = 0.0
    """Weight of how much neighbouring slices along D differ, for thin slices made of thick ones."""
    slice_tv: Literal["l2", "l1", "match"] = "l2"
    """Their mean squared difference, their mean absolute one, or its error against that of the target."""
    extractor_decay: float = 0.99
    """Decay per update of the average of the critic that is the extractor."""

    def __post_init__(self) -> None:
        if self.depth < 2 or (self.generator == "skips" and self.depth % 2):
            raise InputError(f"translation.restore.depth: want at least 2, an even number with skips, got {self.depth}")
        if self.critic_steps < 1:
            raise InputError(f"translation.restore.critic_steps: want at least 1, got {self.critic_steps}")
        for name in ("l2_weight", "nmse_weight", "frequency_weight", "perceptual_weight", "slice_tv_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"translation.restore.{name}: want a number from 0 up, got {getattr(self, name)}")
        if not 0 <= self.extractor_decay < 1:
            raise InputError(f"translation.restore.extractor_decay: want 0 to below 1, got {self.extractor_decay}")


@dataclass(frozen=True)
class SeganConfig:
    """SegAN: volumes to label maps, by a critic that compares features of what the labels cut out."""

    labels: int = 3
    """Labels of a map, the background (0) among them. It must be the store's."""
    dice_weight: float = 1.0
    """Weight of 1 - Dice, the mean over labels but the background."""
    clip: float = 0.05
    """Largest weight of the critic; larger ones are cut off after each of its updates."""

    def __post_init__(self) -> None:
        if not 2 <= self.labels <= 256:
            raise InputError(f"translation.segan.labels: want 2 to 256, got {self.labels}")
        if not 0 <= self.dice_weight < math.inf:
            raise InputError(f"translation.segan.dice_weight: want a number from 0 up, got {self.dice_weight}")
        if not 0 < self.clip < math.inf:
            raise InputError(f"translation.segan.clip: want a number above 0, got {self.clip}")


@dataclass(frozen=True)
class RegistrationConfig:
    """Registration: sources are a moving volume and the fixed one beside it (source_channels 2)."""

    transform: Literal["rigid", "affine"] = "rigid"
    """rigid: 6 numbers, turns and shifts. affine: 12, stretches and shears too."""
    spacing: Numbers = (1.0, 1.0, 1.0)
    """Millimetres per voxel along D, H, W. It must be that of all volumes of the store."""
    numbers_weight: float = 1.0
    """Weight of the mean squared error of the numbers, in degrees, millimetres and per cent."""

    def __post_init__(self) -> None:
        if min(self.spacing) <= 0:
            raise InputError(f"translation.registration.spacing: want numbers above 0 mm, got {list(self.spacing)}")
        if not 0 <= self.numbers_weight < math.inf:
            raise InputError(f"translation.registration.numbers_weight: want 0 or more, got {self.numbers_weight}")


@dataclass(frozen=True)
class TranslationConfig:
    """Generators and critics of image-to-image translation, and the weights of their losses."""

    source_channels: int = 1
    """Volumes that one translation starts from, such as T1 and T2 together. It must be the store's."""
    target_channels: int = 1
    """Volumes that come out together. It must be the store's."""
    width: int = 16
    """Channels of the generators at full resolution; they double with each halving, up to 8 times."""
    levels: int | None = None
    """Halvings in the generators. Default: until the shortest side is 4 voxels, 5 at most."""
    norm: Literal["instance", "rms"] = "instance"
    """Norm in the generators. instance: over the whole volume, as published. rms: within a voxel, so that a window is
    translated as in its volume."""
    residual: bool = False
    """Whether the source is added to what the generator makes: for reconstruction and denoising, channels alike."""
    dropout: bool = True
    """Whether the generator of pix2pix drops half of its innermost features while it learns, as published."""
    critic_width: int = 32
    """Channels of the first layer of a critic; they double with each halving, up to 8 times."""
    critic_layers: int = 3
    """Halvings in a critic before it judges patch by patch."""
    l1_weight: float = 100.0
    """Weight of the mean absolute error (pix2pix)."""
    adversarial_weight: float = 1.0
    """Weight of what the critic says of the generated volume."""
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    """UP-GAN."""
    medgan: MedganConfig = field(default_factory=MedganConfig)
    """MedGAN."""
    cycle: CycleConfig = field(default_factory=CycleConfig)
    """CycleGAN."""
    restore: RestoreConfig = field(default_factory=RestoreConfig)
    """DAGAN, RED-WGAN, WGAN-VGG and their like."""
    unit: UnitConfig = field(default_factory=UnitConfig)
    """UNIT."""
    segan: SeganConfig = field(default_factory=SeganConfig)
    """SegAN."""
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)
    """Adversarial registration."""

    def __post_init__(self) -> None:
        for name in ("source_channels", "target_channels", "critic_width", "critic_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"translation.{name}: want at least 1, got {getattr(self, name)}")
        if self.width < 4:
            raise InputError(f"translation.width: want at least 4, got {self.width}")
        if self.levels is not None and not 1 <= self.levels <= 5:
            raise InputError(f"translation.levels: want 1 to 5, got {self.levels}")
        for name in ("l1_weight", "adversarial_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"translation.{name}: want a number from 0 up, got {getattr(self, name)}")
