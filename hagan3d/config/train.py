"""Settings of training that every method reads: steps, optimizers, precision, memory."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import MAX_SEED, Section, bounded
from hagan3d.errors import InputError


@dataclass(frozen=True)
class TrainConfig(Section):
    """Optimization of one run."""

    PREFIX: ClassVar[str] = "train."

    steps: int = bounded(80_000, at_least=1)
    """Number of training steps; a step runs every phase of the method that is due once."""
    batch_size: int = bounded(4, at_least=1)
    """Volumes per step, over all ranks."""
    accumulate: int = bounded(1, at_least=1)
    """Number of micro-batches whose gradients are accumulated: divides the memory of activations, not the result."""
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED)
    """Seed of weights, latents, sub-volumes and the order of volumes."""
    lr_g: float = bounded(1e-4, above=0, below=1)
    """Learning rate of the generators (Adam)."""
    lr_d: float = bounded(4e-4, above=0, below=1)
    """Learning rate of the discriminators (Adam)."""
    lr_decay: tuple[float, float] | None = None
    """Linear decay of all learning rates: where it starts and where they reach 0, as fractions of train.steps, such as
    [0.66, 1], or as two steps. May be changed on resume. Default: constant rates."""
    betas: tuple[float, float] = bounded((0.0, 0.999), at_least=0, below=1)
    """Adam's beta_1 and beta_2."""
    optimizer: Literal["adam", "apex"] = "adam"
    """adam: torch.optim.Adam, fused. apex: FusedAdam of NVIDIA apex, if installed."""
    optimizer_state: Literal["fp32", "lean", "bf16", "8bit", "offload"] = "fp32"
    """Storage of Adam's moments. fp32: 8 bytes per weight. The others keep the first moment only if betas[0] is above
    0, which changes nothing, and have no fused kernel. lean: 4 bytes. bf16, 8bit: 2 and 1, rounded stochastically.
    offload: 0 on the device, moved from and to host memory."""
    muon: tuple[str, ...] = ()
    """Networks whose convolutions and linear layers learn by Muon: updates are made orthogonal. It has one moment, and
    the learning rates of Adam, which goes on with biases and norms. Default: none."""
    ema: float = bounded(0.999, at_least=0, below=1)
    """Decay per update of the exponential moving average of generator weights used at inference; 0: off."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Precision of activations (autocast); weights stay fp32. auto: bf16 on devices with bf16 arithmetic, else fp32."""
    tf32: bool = True
    """Whether GPUs with TF32 use it for float32 convolutions and matrix products: faster, 10 bits of mantissa."""
    recompute_norms: bool = True
    """Whether norms and activations are recomputed in the backward pass: one tensor per layer is stored, not two."""
    share_spectral: bool = True
    """Whether weights with spectral norm are normalized once per update, not in every forward pass: saves memory."""
    checkpointing: bool = False
    """Whether activations of the largest networks are recomputed in the backward pass (gradient checkpointing)."""
    compile: bool = False
    """Whether torch.compile compiles the networks, except those that a gradient penalty differentiates twice; the first
    step then takes minutes."""
    kernels: str = "auto"
    """Forms of convolutions that compute the same. fixed: by rules of shapes. measured: timed before the first step,
    within the planned memory, and kept in kernels.json of the run. auto: measured on a GPU, fixed on a CPU and with
    train.compile. Or the path of the kernels.json of another run, for the forms of that run."""
    loss_groups: bool = True
    """Whether groups of loss terms are differentiated one after the other: the same gradients, less memory."""
    weights: str | None = None
    """Run, or checkpoint, whose weights training starts from: whatever fits by name and shape."""
    freeze: tuple[str, ...] = ()
    """Networks, or parts of them such as g.common, that do not learn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto: the GPU if torch sees one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise InputError(f"train.accumulate: must divide batch_size {self.batch_size}, got {self.accumulate}")
        if self.optimizer != "adam" and self.optimizer_state != "fp32":
            raise InputError(f"train.optimizer_state {self.optimizer_state}: works with train.optimizer adam only")
        if self.optimizer != "adam" and self.muon:
            raise InputError(f"train.optimizer {self.optimizer}: works without train.muon only; use --train.muon=[]")
        if self.compile and self.kernels not in ("auto", "fixed"):
            raise InputError(f"train.kernels {self.kernels}: works without train.compile only; use fixed")
        self._check_decay()

    @property
    def micro_batch(self) -> int:
        """Volumes per micro-batch, over all ranks."""
        return self.batch_size // self.accumulate

    def decay_steps(self) -> tuple[float, float] | None:
        """Return the steps between which learning rates decay, or None if they are constant."""
        if self.lr_decay is None:
            return None
        first, last = self.lr_decay
        scale = self.steps if last <= 1 else 1
        return first * scale, last * scale

    def _check_decay(self) -> None:
        decay = self.decay_steps()
        if decay is None:
            return
        if not 0 <= decay[0] < decay[1] < math.inf:
            raise InputError(
                "train.lr_decay: must be two fractions of train.steps, or two steps, in ascending order, "
                f"got {list(self.lr_decay or ())}"
            )
        if decay[1] < self.steps:
            raise InputError(
                f"train.lr_decay: rates would be 0 from step {decay[1]:g} to {self.steps}, the last one; use fractions "
                "of train.steps, such as [0.66, 1]"
            )
