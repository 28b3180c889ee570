"""Settings of WGAN-GP, and of DCGAN with the same networks."""

from dataclasses import dataclass
from typing import Literal

from hagan3d.config.bounds import bounded
from hagan3d.config.method import GenerationConfig


@dataclass(frozen=True)
class WGANGPConfig(GenerationConfig):
    """WGAN-GP: whole volumes from one generator, scored by one critic."""

    width: int = bounded(32, at_least=8, multiple_of=8)
    """Channels of the generator and the critic at full resolution; they double with each halving, up to 8 times."""
    objective: Literal["wgan-gp", "bce"] = "wgan-gp"
    """Adversarial loss (wgan-gp: as published). bce: non-saturating, without a gradient penalty, as DCGAN."""
    latent: Literal["normal", "uniform"] = "normal"
    """Distribution of the entries of z. normal: standard normal. uniform: between -1 and 1, as DCGAN."""
    critic_steps: int = bounded(5, at_least=1)
    """Updates of the critic per update of the generator; a step has one update of the critic."""
    gp_weight: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty of wgan-gp."""
