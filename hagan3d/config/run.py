"""Settings of one training run, whole."""

from dataclasses import dataclass, field
from typing import Literal

from hagan3d.config.data import DataConfig
from hagan3d.config.model import ModelConfig
from hagan3d.config.train import TrainConfig
from hagan3d.errors import InputError

RECIPES = ("hagan",)


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
