"""Settings of HA-GAN. The defaults are the published ones at 128^3 and 256^3, except for ``norm``."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.data import LOW_SIDE, SubvolumeDataConfig, low_factor
from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.config.method import GenerationConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError


@dataclass(frozen=True)
class HAGANConfig(GenerationConfig):
    """HA-GAN: networks G, D^H, D^L, E^H, E^G and their losses."""

    data_config: ClassVar[type[SubvolumeDataConfig]] = SubvolumeDataConfig
    width_setting: ClassVar[str] = "channels"
    takes_slices: ClassVar[bool] = False

    channels: int = bounded(512, at_least=64, multiple_of=64)
    """Channels of the widest feature map of G^A; the rest of G, E^H and E^G scales with it (512: as published)."""
    d_channels: int = bounded(512, at_least=64, multiple_of=64)
    """Channels of the widest feature map of D^H; D^L scales with it (512: as published)."""
    features: int | None = bounded(None, at_least=8, multiple_of=8)
    """Channels of A, the feature map that G^L and G^H share. Default: 1/8 of `channels`, as published."""
    norm: Literal["rms", "group"] = "rms"
    """Norm in G^H. rms: over the channels of a voxel, so that a sub-volume equals its window of the volume exactly.
    group: GroupNorm, as published."""
    encoder_norm: Literal["group", "none"] = "group"
    """Norm in E^H and E^G. group: GroupNorm, as published, which takes away much of the brightness and contrast of a
    volume. none: latents keep them; convolutions are initialised for ReLU."""
    high_convs: int = bounded(0, at_least=0, at_most=4)
    """Number of extra 3^3 convolutions after each upsampling of G^H (0: as published)."""
    output_skip: bool = False
    """Whether G^H adds a residual to the interpolated output of G^L, as StyleGAN2's output skips; published: no."""
    init: Literal["default", "centred"] = "default"
    """Initialization of G's convolutions. default: PyTorch's, as published. centred: kernels start with zero mean over
    input channels and zero bias, so that the positive mean of ReLU outputs, the same for every z, does not hide the
    differences between latents."""
    spectral_norm: bool = True
    """Whether D^H and D^L have spectral norm, as published; without it, set `r1_weight`."""
    d_low_convs: int = bounded(0, at_least=0, at_most=4)
    """Number of 3^3 convolutions of D^L before its first halving (0: as published). At 32^3, where D^L sees 8^3 voxels
    and has a single halving, they are most of its capacity."""
    minibatch_std: int = bounded(0, at_least=0)
    """Group size of the minibatch standard deviation layer of D^L, against mode collapse (0: no such layer, as
    published). Small batches have smaller groups: the largest divisor of train.batch_size up to this."""
    prior: Literal["normal", "encoded"] = "normal"
    """Distribution of latents. normal: standard normal, as published. encoded: a Gaussian fitted to the encoder's
    latents of real volumes during training, for `autoencode`."""
    conditional: bool = False
    """Whether G is conditioned on the class and D has an auxiliary classifier (ACGAN). The store must have classes."""
    categories: int = bounded(0, at_least=0)
    """Values of a categorical code in z, which D predicts from generated volumes so that G shows it (InfoGAN): found
    without labels. 0: no such code, as published."""
    continuous_codes: int = bounded(0, at_least=0)
    """Number of continuous codes in z, uniform between -1 and 1, which D predicts, too (InfoGAN)."""
    fc_rank: int = bounded(0, at_least=0)
    """Rank of G's fully connected layer, which has two thirds of its weights (0: full, as published)."""
    upsample: Literal["folded", "plain"] = "folded"
    """Nearest-neighbour upsampling followed by a convolution: folded into one transposed convolution, or plain."""

    objective: Literal["bce", "minimax", "hinge", "lsgan", "wgan-gp", "relativistic"] = "bce"
    """Adversarial loss (bce: non-saturating, as published). relativistic: logits of real volumes against those of
    generated ones, by pairs; for use with R1 and R2."""
    logits: Literal["mean", "each"] = "mean"
    """mean: the loss is on the mean logit of D^H and D^L, as published. each: on the logit of each."""
    low_resolution_branch: bool = True
    """Whether D^L discriminates low-resolution volumes in addition to D^H; published: yes."""
    r1_weight: float = bounded(0.0, at_least=0)
    """Weight of the R1 penalty, the squared gradient norm of D on real volumes; 0: off."""
    r1_every: int = bounded(8, at_least=1)
    """Steps between two R1 penalties, whose weight is multiplied by it (lazy regularization)."""
    r2_weight: float = bounded(0.0, at_least=0)
    """Weight of the R2 penalty, the squared gradient norm of D on generated volumes; 0: off."""
    r2_every: int = bounded(8, at_least=1)
    """Steps between two R2 penalties, whose weight is multiplied by it."""
    gp_weight: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty of wgan-gp."""
    class_weight: float = bounded(0.1, at_least=0)
    """Weight of the auxiliary classification term of G, if conditional."""
    class_fakes: bool = False
    """Whether D's auxiliary classifier learns on generated volumes, too (ACGAN); published: on real ones alone."""
    info_weight: float = bounded(1.0, above=0)
    """Weight of the mutual information of z's codes and the generated volume, in D and G (1: as InfoGAN)."""
    fresh_fakes: bool = True
    """Whether G's update generates new volumes, as published. false: it reuses those of D's update, which saves one
    forward pass of G per step; its activations are stored while D is updated."""
    label_noise: float = bounded(0.3, at_least=0)
    """Standard deviation of Gaussian noise on the channels of labels as D sees them, -1 to 1 without it: real label
    maps are one-hot and generated ones are not, which D could tell from the values alone. 0: no noise."""
    diffaug: DiffAugConfig = field(default_factory=DiffAugConfig)
    """Differentiable augmentation of real and generated volumes."""

    encoder: bool = True
    """Whether E^H and E^G are trained."""
    encoder_every: int = bounded(1, at_least=1)
    """Steps between two updates of E^H and E^G."""
    lr_e: float = bounded(1e-4, above=0, below=1)
    """Learning rate of E^H and E^G (Adam)."""
    autoencode: float = bounded(0.0, at_least=0)
    """Weight of the autoencoder loss: G and E^G learn together to reconstruct real volumes from encoded latents, which
    are regularized towards the prior. L1, and L1 of sorted intensities, in the steps of the encoders. Counters mode
    collapse. 0: off, as published; E^G then learns by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minibatch_std == 1:
            raise InputError("hagan.minibatch_std: must be 0 or a group of at least 2 volumes, got 1")
        if self.autoencode and not self.encoder:
            raise InputError(
                f"hagan.autoencode {self.autoencode:g}: needs the encoders; use --hagan.encoder true or "
                "--hagan.autoencode 0"
            )
        if self.prior == "encoded" and not self.autoencode:
            raise InputError(
                "hagan.prior encoded: is fitted to the latents of an autoencoder; set hagan.autoencode, or use normal"
            )

        self._check_codes()

    def _check_codes(self) -> None:
        """Raise InputError if z has no place for its codes."""
        codes = self.categories + self.continuous_codes
        if self.categories == 1:
            raise InputError("hagan.categories: must be 0 or at least 2, got 1")
        if codes > self.latent_dim:
            raise InputError(
                f"hagan.categories, hagan.continuous_codes: {codes} of {self.latent_dim} latent dimensions"
            )
        if codes and (self.autoencode or self.prior == "encoded"):
            raise InputError(
                "hagan.categories, hagan.continuous_codes: codes are not normal, but hagan.autoencode makes all "
                "latents so; use --hagan.autoencode 0 --hagan.prior normal, or no codes"
            )

    def check(self, data: Any, train: TrainConfig) -> None:
        """Raise InputError if pairs of latents cannot be compared, or A cannot have its size."""
        longest = max(data.size) // low_factor(data.size)
        if longest > LOW_SIDE:
            raise InputError(
                f"data.size {list(data.size)}: the low-resolution volume would have a side of {longest} voxels, and "
                f"{LOW_SIDE} is the most; use sides that are nearer to each other"
            )
        if self.autoencode and train.batch_size % 2:
            raise InputError(
                f"train.batch_size {train.batch_size}: hagan.autoencode compares pairs of latents; use an even "
                "train.batch_size, or --hagan.autoencode 0 --hagan.prior normal"
            )

    def std_group(self, batch_size: int) -> int:
        """Group size of the minibatch standard deviation layer of D^L; 0 without one."""
        largest = min(self.minibatch_std, batch_size) if self.low_resolution_branch else 0
        return next((size for size in range(largest, 0, -1) if batch_size % size == 0 and self._has_pairs(size)), 0)

    def group(self, batch_size: int) -> int:
        """Volumes that must stay in one micro-batch, since D^L or the latent regularization compares them."""
        return self.std_group(batch_size) or (2 if self.autoencode else 1)

    def _has_pairs(self, size: int) -> bool:
        """Whether groups of ``size`` volumes hold whole pairs, where latents are compared by pairs."""
        return not self.autoencode or size % 2 == 0

    @property
    def loss_period(self) -> int:
        """Steps from one update of G with the autoencoder loss to the next."""
        return self.encoder_every if self.autoencode else 1

    @property
    def encodes(self) -> bool:
        """Whether E^H and E^G are trained."""
        return self.encoder

    def encoded_voxels(self, voxels: int) -> int:
        """Return the voxels that a step reads for the update of E^G, per volume."""
        return voxels // self.encoder_every if self.encoder else 0
