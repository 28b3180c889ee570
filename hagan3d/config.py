"""Settings of a training run, with units and defaults; those of `prepare` and `evaluate` lie beside their code."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hagan3d.errors import InputError

Size = tuple[int, int, int]

LOW_SIDE = 64  # voxels: the low-resolution anchor has at most so many along any axis
RECIPES = ("hagan",)
SIZE_STEP = 32  # voxels: every side is a multiple of it


def check_size(size: Size) -> None:
    """Raise InputError unless every side is a multiple of 32 from 32 up."""
    if len(size) != 3 or any(side < SIZE_STEP or side % SIZE_STEP for side in size):
        raise InputError(
            f"size {list(size)}: every side D, H, W must be a multiple of {SIZE_STEP}, from {SIZE_STEP} up"
        )


def low_factor(size: Size) -> int:
    """Voxels of the volume per voxel of the low-resolution anchor and of A: 4 up to 256, 8 at 512, 16 at 1024."""
    return max(4, 2 ** math.ceil(math.log2(max(size) / LOW_SIDE)))


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of real volumes before they are cut (MONAI transforms, seeded per step and volume)."""

    flip_axes: tuple[Literal["D", "H", "W"], ...] = ()
    """Axes mirrored with probability 1/2. W is left-right for axial slabs; mirror only what nature mirrors."""
    rotate_deg: float = 0.0
    """Largest rotation about each axis, degrees."""
    scale: float = 0.0
    """Largest relative zoom: 0.1 scales by 0.9 to 1.1."""
    shift: float = 0.0
    """Largest shift along each axis, as a fraction of that side."""
    brightness: float = 0.0
    """Largest shift of intensity, in units of the [-1, 1] range."""
    contrast: float = 0.0
    """Largest relative change of contrast: 0.1 scales by 0.9 to 1.1."""
    noise: float = 0.0
    """Largest standard deviation of added Gaussian noise, in units of the [-1, 1] range."""

    def __post_init__(self) -> None:
        for name in ("rotate_deg", "scale", "shift", "brightness", "contrast", "noise"):
            if getattr(self, name) < 0:
                raise InputError(f"data.augment.{name}: want a number from 0 up, got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether any change is asked for."""
        return self != AugmentConfig()


@dataclass(frozen=True)
class DataConfig:
    """The real volumes of a run."""

    store: str | None = None
    """HDF5 store made by `hagan3d prepare`, or a folder of its shards. Without one, phantoms are made."""
    size: Size = (32, 32, 32)
    """Voxels per axis D, H, W; each a multiple of 32. It must be the store's."""
    subvolume_depth: int | None = None
    """Slices shown to D^H and E^H, a multiple of the low-resolution factor (4 up to 256). Default: 1/8 of D."""
    windows: Literal["even", "uniform", "fixed", "published"] = "even"
    """Where sub-volumes are cut. even: every slice about equally often. For comparison: uniform, at any start that
    A allows; fixed, in the middle; published, one start for the batch, generated ones up to A's stride off."""
    split: str = "train"
    """The part of the store to train on; "all" takes every volume."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of real volumes."""
    phantoms: int = 96
    """Volumes made when there is no store."""

    def __post_init__(self) -> None:
        check_size(self.size)
        depth, factor = self.subvolume_depth, low_factor(self.size)
        if depth is not None and not (0 < depth <= self.size[0] and depth % factor == 0):
            raise InputError(
                f"data.subvolume_depth: want a multiple of {factor} (the low-resolution factor at {list(self.size)}) "
                f"from {factor} to {self.size[0]}, got {depth}"
            )
        if self.phantoms < 2:
            raise InputError(f"data.phantoms: want at least 2, got {self.phantoms}")

    @property
    def factor(self) -> int:
        """Low-resolution factor."""
        return low_factor(self.size)

    @property
    def depth(self) -> int:
        """Slices per sub-volume: as set, else 1/8 of D rounded up to the low-resolution factor."""
        return self.subvolume_depth or self.factor * math.ceil(self.size[0] / 8 / self.factor)


@dataclass(frozen=True)
class ModelConfig:
    """The networks. The defaults are the published ones at 128^3 and 256^3, except for `norm`."""

    latent_dim: int = 1024
    """Numbers in z."""
    channels: int = 512
    """Widest feature map of G^A; the rest of G, E^H and E^G scales with it (512: as published)."""
    d_channels: int = 512
    """Widest feature map of D^H; D^L scales with it (512: as published)."""
    features: int | None = None
    """Channels of A, the map that both heads share. Default: 1/8 of `channels`, as published."""
    norm: Literal["rms", "group"] = "rms"
    """Normalisation in G^H. rms: a sub-volume equals its window of the volume exactly. group: as published."""
    high_convs: int = 0
    """Extra 3^3 convolutions after each upsampling of G^H (0: as published)."""
    init: Literal["default", "centred"] = "default"
    """Start of G's convolutions. default: PyTorch's, as published. centred: blind to what all z have in common."""
    spectral_norm: bool = True
    """Spectral norm in D^H and D^L, as published; without it, set train.r1_weight."""
    minibatch_std: int = 0
    """Volumes per group whose spread D^L sees, against generated volumes that are all alike (0: none, as published)."""
    conditional: bool = False
    """Whether G is told the class of the volume to make and D names it. The store must have classes."""
    fc_rank: int = 0
    """Rank of G's first layer, which holds two thirds of its weights (0: not factorised, as published)."""
    upsample: Literal["folded", "plain"] = "folded"
    """How nearest-neighbour upsampling and convolution are computed: in one go, or one after the other."""

    def __post_init__(self) -> None:
        for name in ("channels", "d_channels"):
            if getattr(self, name) < 64 or getattr(self, name) % 64:
                raise InputError(f"model.{name}: want a multiple of 64 from 64 up, got {getattr(self, name)}")
        if self.features is not None and (self.features < 8 or self.features % 8):
            raise InputError(f"model.features: want a multiple of 8 from 8 up, got {self.features}")
        for name, least in (("latent_dim", 1), ("fc_rank", 0)):
            if getattr(self, name) < least:
                raise InputError(f"model.{name}: want at least {least}, got {getattr(self, name)}")
        if self.minibatch_std < 0 or self.minibatch_std == 1:
            raise InputError(f"model.minibatch_std: want 0 or a group of at least 2 volumes, got {self.minibatch_std}")
        if not 0 <= self.high_convs <= 4:
            raise InputError(f"model.high_convs: want 0 to 4, got {self.high_convs}")


@dataclass(frozen=True)
class DiffAugConfig:
    """Differentiable changes of real and generated volumes alike, for small data sets (Zhao 2020, Karras 2020)."""

    translate: float = 0.0
    """Largest shift along H and W, as a fraction of the side."""
    brightness: float = 0.0
    """Largest shift of intensity, in units of the [-1, 1] range."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    probability: float = 1.0
    """How often each change is made; where it starts if adaptive."""
    adaptive: bool = False
    """Steer the probability so that D is right by `target` more often than wrong on real volumes."""
    target: float = 0.6
    """Wanted mean sign of D's logit on real volumes, 0 to 1."""
    ramp: int = 50_000
    """Real volumes over which an adaptive probability can go from 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("translate", "brightness", "contrast", "probability", "target"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"train.diffaug.{name}: want 0 to 1, got {getattr(self, name)}")
        if self.ramp < 1:
            raise InputError(f"train.diffaug.ramp: want at least 1, got {self.ramp}")

    @property
    def active(self) -> bool:
        """Whether any change is asked for."""
        return self.translate > 0 or self.brightness > 0 or self.contrast > 0


@dataclass(frozen=True)
class TrainConfig:
    """One run of training."""

    steps: int = 80_000
    """Steps of the run; every step updates D, G, E^H and E^G once."""
    batch_size: int = 4
    """Volumes per step, over all processes."""
    accumulate: int = 1
    """Parts in which a process works through its volumes: divides the memory of activations, not the result."""
    seed: int = 0
    """Of weights, latents, windows and the order of volumes."""
    objective: Literal["bce", "hinge", "lsgan", "wgan-gp"] = "bce"
    """Game between D and G (bce: non-saturating, as published)."""
    logits: Literal["mean", "each"] = "mean"
    """mean: D^H and D^L judge a pair by the mean of their logits, as published. each: each plays a game of its own."""
    lr_g: float = 1e-4
    """Adam's learning rate of G."""
    lr_d: float = 4e-4
    """Adam's learning rate of D^H and D^L."""
    lr_e: float = 1e-4
    """Adam's learning rate of E^H and E^G."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's decay rates."""
    optimizer: Literal["adam", "apex"] = "adam"
    """adam: torch's, fused where it runs. apex: FusedAdam of NVIDIA apex, where installed."""
    optimizer_state: Literal["fp32", "lean", "bf16", "offload"] = "fp32"
    """Adam's moments. fp32: 8 bytes per weight. The others keep the first only where betas[0] is above 0, which changes
    nothing, and have no fused kernel. lean: 4 bytes. bf16: 2, rounded. offload: 0, moved from and to the machine."""
    r1_weight: float = 0.0
    """Weight of R1, the squared gradient of D on real volumes; 0: none."""
    r1_every: int = 8
    """Steps between two R1 terms, each weighted up accordingly (lazy regularisation)."""
    gp_weight: float = 10.0
    """Weight of the gradient penalty of wgan-gp."""
    class_weight: float = 0.1
    """Weight of the class term in G's loss, where conditional."""
    ema: float = 0.999
    """Decay per step of the average of G's weights that `generate` uses; 0: none."""
    encoder: bool = True
    """Whether E^H and E^G are trained too."""
    anchor: bool = True
    """Whether D^L judges the low-resolution volume of G^L too; without it, for comparison, D^H judges alone."""
    diffaug: DiffAugConfig = field(default_factory=DiffAugConfig)
    """Differentiable augmentation of real and generated volumes alike."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of activations; weights stay fp32."""
    recompute_norms: bool = True
    """Compute norms and ReLUs of G and E again in the backward pass: one tensor per layer is kept, not two."""
    share_spectral: bool = True
    """Divide the weights of D by their spectral norms once per update of D, not in every pass: saves memory with R1."""
    checkpointing: bool = False
    """Compute all activations of G^H and D^H again in the backward pass instead of keeping them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where torch sees one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "r1_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}: want at least 1, got {getattr(self, name)}")
        for name in ("lr_g", "lr_d", "lr_e"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"train.{name}: want a rate between 0 and 1, got {getattr(self, name)}")
        for name in ("r1_weight", "gp_weight", "class_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"train.{name}: want a number from 0 up, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise InputError(f"train.accumulate: want a divisor of batch_size {self.batch_size}, got {self.accumulate}")
        if not 0 <= self.ema < 1:
            raise InputError(f"train.ema: want 0 to below 1, got {self.ema}")
        if self.optimizer != "adam" and self.optimizer_state != "fp32":
            raise InputError(f"train.optimizer_state {self.optimizer_state}: works with train.optimizer adam only")
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise InputError(f"train.betas: want two numbers from 0 to below 1, got {list(self.betas)}")
        if self.seed < 0:
            raise InputError(f"train.seed: want a number from 0 up, got {self.seed}")


@dataclass(frozen=True)
class LogConfig:
    """What a run leaves behind, and how often."""

    every: int = 10
    """Steps between two rows of metrics.jsonl and TensorBoard."""
    preview_every: int = 500
    """Steps between two pictures of real, generated and reconstructed volumes; 0: none."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints; the first comes within the first minute."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints, besides the minutes; 0: by minutes only."""
    keep_last: int = 3
    """Newest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints at multiples of so many steps are kept for good; 0: none."""

    def __post_init__(self) -> None:
        for name, least in (
            ("every", 1),
            ("preview_every", 0),
            ("checkpoint_steps", 0),
            ("keep_last", 1),
            ("keep_every", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"log.{name}: want at least {least}, got {getattr(self, name)}")
        if not self.checkpoint_minutes > 0:
            raise InputError(f"log.checkpoint_minutes: want more than 0, got {self.checkpoint_minutes}")


@dataclass(frozen=True)
class Config:
    """One training run, whole."""

    recipe: Literal["hagan"] = "hagan"
    """Training method."""
    data: DataConfig = field(default_factory=DataConfig)
    """The real volumes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The networks."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps, losses, optimizers."""
    log: LogConfig = field(default_factory=LogConfig)
    """Logs, previews and checkpoints."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r}: known are {', '.join(RECIPES)}")
        group, part = self.model.minibatch_std, self.train.batch_size // self.train.accumulate
        if group and part % group:
            raise InputError(
                f"model.minibatch_std {group}: want a divisor of train.batch_size / train.accumulate = {part}, "
                "or 0 for none"
            )
