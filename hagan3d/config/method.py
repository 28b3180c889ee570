"""Base classes of the settings of methods; each method's own are in ``hagan3d/methods/<name>/config.py``."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from hagan3d.config.bounds import Section, bounded
from hagan3d.config.data import (
    DataConfig,
    PairDataConfig,
    PatchDataConfig,
    VolumeDataConfig,
    is_slice,
    shortest_side,
)
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError

LAST_SIDE = 4  # voxels that a discriminator needs after its last strided convolution


@dataclass(frozen=True)
class MethodConfig(Section):
    """Settings of one method, and what the rest of the program must know of it before torch is imported."""

    name: ClassVar[str] = ""
    """Name of the method: that of its folder, and of its section in a config."""
    data_config: ClassVar[type[DataConfig]] = DataConfig
    """Class of the section ``data``: what the method reads of the data."""
    translates: ClassVar[bool] = False
    """Whether it maps source volumes to target volumes, rather than latents to volumes."""
    takes_slices: ClassVar[bool] = True
    """Whether it works on slices, `data.size` [1, H, W], as on volumes."""
    width_setting: ClassVar[str] = "width"
    """The setting that makes its networks narrower."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        package, _, module = cls.__module__.rpartition(".")
        if module == "config" and package.startswith("hagan3d.methods."):
            cls.name = package.rpartition(".")[2]
            cls.PREFIX = f"{cls.name}."

    def check(self, data: Any, train: TrainConfig) -> None:  # noqa: B027 - many methods work with any settings
        """Raise InputError if the method cannot work with these settings of data and training."""

    def group(self, batch_size: int) -> int:
        """Volumes of a batch that must stay in one micro-batch, since a loss or a layer compares them."""
        return 1

    @property
    def loss_period(self) -> int:
        """Steps after which the sequence of loss terms of a phase repeats; lazy penalties do not count."""
        return 1


@dataclass(frozen=True)
class GenerationConfig(MethodConfig):
    """Settings that every method that generates volumes from latents has."""

    data_config: ClassVar[type[DataConfig]] = VolumeDataConfig

    latent_dim: int = bounded(1024, at_least=1)
    """Dimension of the latent vector z."""

    conditional = False

    @property
    def encodes(self) -> bool:
        """Whether the method trains an encoder."""
        return False

    def encoded_voxels(self, voxels: int) -> int:
        """Return the voxels of whole volumes that a step reads for the encoder, per volume of ``voxels`` voxels."""
        return 0


@dataclass(frozen=True)
class TranslationConfig(MethodConfig):
    """Settings that every image-to-image translation method has."""

    data_config: ClassVar[type[DataConfig]] = PairDataConfig
    translates: ClassVar[bool] = True
    degradations: ClassVar[tuple[str, ...] | None] = None
    """Values of data.degrade.kind that the method trains on; None: all but misalign."""

    source_channels: int = bounded(1, at_least=1)
    """Channels of a source volume. It must equal the store's."""
    target_channels: int = bounded(1, at_least=1)
    """Channels of a target volume. It must equal the store's."""
    width: int = bounded(16, at_least=4)
    """Channels of the generator at full resolution; they double with each downsampling, up to 8 times."""
    critic_width: int = bounded(32, at_least=1)
    """Channels of the first layer of the discriminator; they double with each downsampling, up to 8 times."""
    adversarial_weight: float = bounded(1.0, at_least=0)
    """Weight of the adversarial term of the generator; with 0, discriminators that no other term needs do not learn."""
    masked_losses: bool = False
    """Whether voxel-wise losses (L1, L2, NMSE, Dice, reconstruction) are averaged over the mask of each pair instead of
    over all voxels. A likelihood always is; adversarial and feature losses see whole volumes."""

    residual = False
    target_labels = 0

    @property
    def target_outputs(self) -> int:
        """Channels of a target that networks see: the image channels, and one per label of a label map."""
        return self.target_channels + self.target_labels

    @property
    def is_global(self) -> bool:
        """Whether a voxel depends on all voxels that the generator sees, as by norms over space.

        A window is then translated otherwise than the volume that it is part of.
        """
        return getattr(self, "norm", "rms") == "instance"

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the method cannot work with these settings of data and training."""
        kind = data.degrade.kind
        if kind == "misalign" if self.degradations is None else kind not in self.degradations:
            expected = "any kind but misalign" if self.degradations is None else " or ".join(self.degradations)
            raise InputError(f"data.degrade.kind {kind}: method {self.name} trains on {expected}")
        if self.residual and self.source_channels < self.target_channels:
            raise InputError(
                f"{self.name}.residual: adds a source channel to each target channel, but there are "
                f"{self.source_channels} and {self.target_channels}; leave it out"
            )
        if self.masked_losses and not data.paired:
            raise InputError(
                f"{self.name}.masked_losses: masks belong to pairs; set data.paired, or leave the setting out"
            )


@dataclass(frozen=True)
class LabelledTargetConfig(TranslationConfig):
    """Translation to images together with their label map."""

    target_labels: int = bounded(0, at_least=0, at_most=256)
    """Number of labels of the target's label map, the background included; 0: targets have no label map. It must equal
    the store's."""
    label_weight: float = bounded(10.0, above=0)
    """Weight of the loss of the label map: Dice loss, the mean over foreground labels, plus cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_labels == 1:
            raise InputError(f"{self.name}.target_labels: must be 0 or at least 2, the background included, got 1")


@dataclass(frozen=True)
class FeatureLossConfig(TranslationConfig):
    """Translation with losses that compare feature maps of an extractor."""

    extractor: Literal["discriminator", "self", "medicalnet", "vgg19"] = "discriminator"
    """Network whose feature maps style, content and perceptual losses compare. discriminator: moving average of the
    discriminator in training. self: trained on the store (`hagan3d evaluate --store STORE --train-features`).
    medicalnet: ResNet-10 or -50 of MedicalNet. vgg19: VGG-19 of ImageNet, as published, for slices."""
    extractor_weights: str | None = None
    """File of the published weights of medicalnet (resnet_10.pth, resnet_50.pth) or vgg19 (in torchvision's layout)."""
    extractor_decay: float = bounded(0.99, at_least=0, below=1)
    """Decay per update of the moving average of `extractor discriminator`."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the method cannot work with these settings of data and training."""
        super().check(data, train)
        setting, has_file = f"{self.name}.extractor {self.extractor}", self.extractor in ("medicalnet", "vgg19")
        if has_file != (self.extractor_weights is not None):
            raise InputError(
                f"{setting}: needs the file of its weights as {self.name}.extractor_weights"
                if has_file
                else f"{setting}: has no file of published weights; leave out {self.name}.extractor_weights"
            )
        if self.extractor == "vgg19" and not is_slice(data.train_size):
            raise InputError(f"{setting}: sees slices; use self or medicalnet for volumes, or train on data.slices")
        if self.extractor in ("self", "medicalnet") and is_slice(data.train_size):
            raise InputError(f"{setting}: sees volumes; use vgg19 or discriminator for slices")


@dataclass(frozen=True)
class UNetMethodConfig(TranslationConfig):
    """Translation by U-Nets."""

    levels: int | None = bounded(None, at_least=1, at_most=8)
    """Number of downsamplings of the generator. Default: until the shortest side is 4 voxels, at most 5. A strided
    U-Net halves every even side down to 1 (8 levels at 256 voxels, as published); UP-GAN's and SegAN's at most 5."""
    most_levels: ClassVar[int] = 8
    """Most downsamplings that its generator can have."""

    norm: Literal["instance", "rms"] = "instance"
    """Norm of the generator. instance: statistics over the volume, as published. rms: over the channels of a voxel, so
    that a window is translated as within its volume."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the method cannot work with these settings of data and training."""
        super().check(data, train)
        if self.levels and self.levels > self.most_levels:
            raise InputError(f"{self.name}.levels {self.levels}: must be at most {self.most_levels}")
        if isinstance(data, PatchDataConfig) and data.window != "whole" and data.depth % 2 ** (self.levels or 0):
            raise InputError(
                f"data.subvolume_depth {data.depth}: must be divisible by {2 ** (self.levels or 0)} for "
                f"{self.name}.levels {self.levels}"
            )


@dataclass(frozen=True)
class PatchDiscriminatorConfig(TranslationConfig):
    """Translation with a patch discriminator."""

    critic_layers: int = bounded(3, at_least=1)
    """Number of strided convolutions of the discriminator; 1, 3 and 4 give receptive fields of 16, 70, 142 voxels."""

    def check(self, data: PairDataConfig, train: TrainConfig) -> None:
        """Raise InputError if the method cannot work with these settings of data and training."""
        super().check(data, train)
        side = min(shortest_side(size) for size in (data.train_size, data.source_train_size))
        if side >> self.critic_layers < LAST_SIDE:
            raise InputError(
                f"{self.name}.critic_layers {self.critic_layers}: leaves {side >> self.critic_layers} voxels of "
                f"{side}, but {LAST_SIDE} are needed; use fewer layers, or larger volumes or windows"
            )
