"""Settings of training: steps, losses, optimizers."""

import math
from dataclasses import dataclass, field
from typing import Literal

from hagan3d.errors import InputError


@dataclass(frozen=True)
class DiffAugConfig:
    """Differentiable changes of real and generated volumes alike, for small data sets (Zhao 2020, Karras 2020)."""

    translate: float = 0.0
    """Largest shift along H and W, as a fraction of the side."""
    brightness: float = 0.0
    """Largest shift of intensity, in units of the [-1, 1] range. D becomes blind to smaller ones, and G free to make
    them as it likes: leave it at 0 where intensities mean something, as HU do."""
    contrast: float = 0.0
    """Largest relative change of contrast; the same holds."""
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
    """Steps of the run; every step updates D and G once, and E^H and E^G as `encoder_every` says."""
    batch_size: int = 4
    """Volumes per step, over all processes."""
    accumulate: int = 1
    """Parts in which a process works through its volumes: divides the memory of activations, not the result."""
    seed: int = 0
    """Of weights, latents, windows and the order of volumes."""
    objective: Literal["bce", "hinge", "lsgan", "wgan-gp", "feature-l1"] = "bce"
    """Game between D and G (bce: non-saturating, as published). feature-l1: that of recipe segan, and of no other."""
    logits: Literal["mean", "each"] = "mean"
    """mean: D^H and D^L judge a pair by the mean of their logits, as published. each: each plays a game of its own."""
    lr_g: float = 1e-4
    """Adam's learning rate of G."""
    lr_d: float = 4e-4
    """Adam's learning rate of D^H and D^L."""
    lr_e: float = 1e-4
    """Adam's learning rate of E^H and E^G."""
    lr_decay: tuple[float, float] | None = None
    """Where all learning rates begin to fall, linearly, and where they reach 0: two shares of train.steps, such as
    [0.66, 1], or two steps. May be given to a run as it goes on. Default: they stay."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's decay rates."""
    optimizer: Literal["adam", "apex"] = "adam"
    """adam: torch's, fused where it runs. apex: FusedAdam of NVIDIA apex, where installed."""
    optimizer_state: Literal["fp32", "lean", "bf16", "8bit", "offload"] = "fp32"
    """Adam's moments. fp32: 8 bytes per weight. The others keep the first only where betas[0] is above 0, which changes
    nothing, and have no fused kernel. lean: 4 bytes. bf16, 8bit: 2 and 1, rounded. offload: 0, moved from and to the
    machine."""
    r1_weight: float = 0.0
    """Weight of R1, the squared gradient of D on real volumes; 0: none."""
    r1_every: int = 8
    """Steps between two R1 terms, each weighted up accordingly (lazy regularisation)."""
    gp_weight: float = 10.0
    """Weight of the gradient penalty of wgan-gp."""
    class_weight: float = 0.1
    """Weight of the class term in G's loss, where conditional."""
    fresh_fakes: bool = True
    """Generate anew for G's update, as published. false: G is judged by what D has just been shown, which saves one
    pass of G in a step; its activations are kept while D is updated."""
    ema: float = 0.999
    """Decay per step of the average of G's weights that `generate` uses; 0: none."""
    encoder: bool = True
    """Whether E^H and E^G are trained too."""
    encoder_every: int = 1
    """Steps from one update of E^H and E^G to the next."""
    autoencode: float = 0.0
    """Weight of a loss that has G, not the encoders alone, make real volumes again from their latents, which are held
    to be spread like z: against generated volumes that are all alike. L1, and L1 of sorted intensities, whole and by
    blocks. In the steps of the encoders; 0: none, as published."""
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
    """Compute all activations of G^H and D^H, or of the levels of a translating network, again in the backward pass
    instead of keeping them."""
    compile: bool = False
    """Have torch.compile make kernels for the networks, but for those whose gradient a penalty differentiates again;
    the first step then takes minutes."""
    loss_groups: bool = True
    """Derive the groups of a loss one after the other, where a recipe has them: the same gradients, and less memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU where torch sees one."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "r1_every", "encoder_every"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}: want at least 1, got {getattr(self, name)}")
        for name in ("lr_g", "lr_d", "lr_e"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"train.{name}: want a rate between 0 and 1, got {getattr(self, name)}")
        for name in ("r1_weight", "gp_weight", "class_weight", "autoencode"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"train.{name}: want a number from 0 up, got {getattr(self, name)}")
        if self.autoencode and not self.encoder:
            raise InputError(
                f"train.autoencode {self.autoencode:g}: works on the latents of the encoders; give train.encoder true, "
                "or train.autoencode 0"
            )
        if self.batch_size % self.accumulate:
            raise InputError(f"train.accumulate: want a divisor of batch_size {self.batch_size}, got {self.accumulate}")
        if not 0 <= self.ema < 1:
            raise InputError(f"train.ema: want 0 to below 1, got {self.ema}")
        if self.optimizer != "adam" and self.optimizer_state != "fp32":
            raise InputError(f"train.optimizer_state {self.optimizer_state}: works with train.optimizer adam only")
        self._check_decay()
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise InputError(f"train.betas: want two numbers from 0 to below 1, got {list(self.betas)}")
        if self.seed < 0:
            raise InputError(f"train.seed: want a number from 0 up, got {self.seed}")

    def decay_steps(self) -> tuple[float, float] | None:
        """Return the steps between which learning rates fall, or None where they stay."""
        if self.lr_decay is None:
            return None
        first, last = self.lr_decay
        scale = self.steps if last <= 1 else 1
        return first * scale, last * scale

    def _check_decay(self) -> None:
        fall = self.decay_steps()
        if fall is None:
            return
        if not 0 <= fall[0] < fall[1] < math.inf:
            raise InputError(
                "train.lr_decay: want two shares of train.steps, or two steps, the first one first, "
                f"got {list(self.lr_decay or ())}"
            )
        if fall[1] < self.steps:
            raise InputError(
                f"train.lr_decay: rates would be 0 from step {fall[1]:g} to {self.steps}, the last one; give shares of "
                "train.steps, such as [0.66, 1]"
            )
