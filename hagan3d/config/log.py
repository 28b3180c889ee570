"""Settings of logs, previews and checkpoints."""

from dataclasses import dataclass
from typing import ClassVar

from hagan3d.config.bounds import Section, bounded


@dataclass(frozen=True)
class LogConfig(Section):
    """What a run writes, and how often."""

    PREFIX: ClassVar[str] = "log."

    every: int = bounded(10, at_least=1)
    """Steps between two rows of metrics.jsonl and TensorBoard."""
    preview_every: int = bounded(500, at_least=0)
    """Steps between two preview pictures; 0: off."""
    checkpoint_minutes: float = bounded(10.0, above=0)
    """Minutes between two checkpoints; the first is written within the first minute."""
    checkpoint_steps: int = bounded(0, at_least=0)
    """Steps between two checkpoints, in addition to the minutes; 0: by minutes only."""
    keep_last: int = bounded(3, at_least=1)
    """Number of newest checkpoints that are kept."""
    keep_every: int = bounded(0, at_least=0)
    """At multiples of this step a checkpoint is written and kept for good; 0: off."""
