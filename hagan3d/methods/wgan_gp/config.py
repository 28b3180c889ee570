"""Settings of WGAN-GP."""

from dataclasses import dataclass

from hagan3d.config.bounds import bounded
from hagan3d.config.method import GenerationConfig


@dataclass(frozen=True)
class WGANGPConfig(GenerationConfig):
    """WGAN-GP: whole volumes from one generator, scored by one critic."""

    width: int = bounded(32, at_least=8, multiple_of=8)
    """Channels of the generator and the critic at full resolution; they double with each halving, up to 8 times."""
    critic_steps: int = bounded(5, at_least=1)
    """Updates of the critic per update of the generator; a step has one update of the critic."""
    gp_weight: float = bounded(10.0, at_least=0)
    """Weight of the gradient penalty."""
