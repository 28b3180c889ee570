"""Settings of one training run, whole."""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from hagan3d.config.data import DataConfig
from hagan3d.config.model import ModelConfig
from hagan3d.config.train import TrainConfig
from hagan3d.config.translation import TranslationConfig
from hagan3d.errors import InputError

RECIPES = ("hagan", "upgan", "pix2pix", "medgan", "cyclegan", "restore", "unit", "segan", "registration")
_IN_WINDOWS = ("upgan", "pix2pix", "medgan", "restore")  # recipes whose pairs may be cut
_OF_HAGAN = (
    "anchor",
    "autoencode",
    "class_weight",
    "diffaug",
    "encoder",
    "encoder_every",
    "logits",
    "r1_every",
    "r1_weight",
    "share_spectral",
)
_SECTIONS = {
    "upgan": "cascade",
    "medgan": "medgan",
    "cyclegan": "cycle",
    "restore": "restore",
    "unit": "unit",
    "segan": "segan",
    "registration": "registration",
}  # of `translation`, that one recipe alone reads


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

    recipe: Literal["hagan", "upgan", "pix2pix", "medgan", "cyclegan", "restore", "unit", "segan", "registration"] = (
        "hagan"
    )
    """Training method. hagan generates volumes; the others translate volumes of pairs."""
    data: DataConfig = field(default_factory=DataConfig)
    """The real volumes."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The networks of hagan."""
    translation: TranslationConfig = field(default_factory=TranslationConfig)
    """The networks and losses of the other recipes."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps, losses, optimizers."""
    log: LogConfig = field(default_factory=LogConfig)
    """Logs, previews and checkpoints."""

    @property
    def group(self) -> int:
        """Volumes of a batch that must stay together, since they are compared with each other."""
        return math.lcm(self.model.minibatch_std or 1, 2 if self.train.autoencode else 1)

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r}: known are {', '.join(RECIPES)}")
        part = self.train.batch_size // self.train.accumulate
        if part % self.group:
            raise InputError(
                f"train.batch_size / train.accumulate = {part}: want a multiple of {self.group}, the volumes that "
                f"model.minibatch_std {self.model.minibatch_std} and train.autoencode {self.train.autoencode:g} compare"
            )
        if (self.train.objective == "feature-l1") != (self.recipe == "segan"):
            raise InputError(f"train.objective {self.train.objective}: segan, and no other recipe, wants feature-l1")
        if self.model.prior == "encoded" and not self.train.autoencode:
            raise InputError(
                "model.prior encoded: is for a G that makes real volumes again; set train.autoencode, or take normal"
            )
        if self.translates:
            self._check_translation()
        else:
            why = "recipe hagan does not translate"
            _want_default(self, "translation", why=why)
            _want_default(self.data, "window", "degrade", "paired", "fraction", why=why, section="data.")

    def _check_translation(self) -> None:
        _want_default(self, "model", why=f"the networks of recipe {self.recipe} are set in `translation`")
        _want_default(self.train, *_OF_HAGAN, why=f"recipe {self.recipe} has none", section="train.")
        _want_default(self.data, "windows", why="windows of pairs are cut evenly", section="data.")
        if self.data.window == "whole":
            _want_default(self.data, "subvolume_depth", why="whole volumes are translated", section="data.")
        else:
            self._check_windows()
        others = [section for recipe, section in _SECTIONS.items() if recipe != self.recipe]
        _want_default(self.translation, *others, why=f"recipe {self.recipe} has none", section="translation.")
        self._check_registration()
        if self.recipe in ("cyclegan", "unit", "segan", "registration") and self.translation.residual:
            raise InputError(f"translation.residual: recipe {self.recipe} has none; leave it out")
        sources, targets = self.translation.source_channels, self.translation.target_channels
        if self.translation.residual and sources != targets:
            raise InputError(
                f"translation.residual: adds source to target, but they have {sources} and {targets} channels"
            )
        side, halvings = min(self.data.seen_size), self.translation.critic_layers
        if side >> halvings < 4:
            raise InputError(
                f"translation.critic_layers {halvings}: makes {side >> halvings} voxels of {side}, and 4 must be left; "
                "take fewer, or larger volumes or windows"
            )

    def _check_windows(self) -> None:
        """Raise InputError unless the networks can learn on windows of pairs."""
        data, depth = self.data, self.data.depth
        if self.recipe not in _IN_WINDOWS or not data.paired:
            what = f"recipe {self.recipe}" if data.paired else "data.paired false"
            raise InputError(
                f"data.window {data.window}: {what} sees whole volumes; only pairs of {', '.join(_IN_WINDOWS)} are cut"
            )
        halved = 2 ** (self.translation.levels or 0)
        if (depth % 32 and depth not in (8, 16)) or depth % halved:
            raise InputError(
                f"data.subvolume_depth: windows of pairs have 8, 16 or a multiple of 32 slices, divisible by {halved} "
                f"(translation.levels); got {depth}"
            )

    @property
    def seen_sources(self) -> int:
        """Volumes that the networks of a translation start from: its sources, and what an anchor makes of them."""
        model = self.translation
        return model.source_channels + (model.target_channels if self.data.window == "hierarchical" else 0)

    def _check_registration(self) -> None:
        """Raise InputError unless sources have what registration, and it alone, looks at."""
        if (self.data.degrade.kind == "misalign") != (self.recipe == "registration"):
            raise InputError(
                f"data.degrade.kind {self.data.degrade.kind}: recipe registration, and no other, wants misalign"
            )
        if self.recipe == "registration" and self.translation.source_channels != 2:
            raise InputError("translation.source_channels: want 2 for registration, the moving and the fixed volume")
        if self.recipe in ("segan", "registration") and not self.data.paired:
            raise InputError(f"data.paired: recipe {self.recipe} wants pairs; leave it true")

    @property
    def translates(self) -> bool:
        """Whether the recipe turns source volumes into target volumes, rather than latents into volumes."""
        return self.recipe != "hagan"


def _want_default(values: Any, *names: str, why: str, section: str = "") -> None:
    """Raise InputError if a setting that a recipe does not read was set."""
    for known in fields(values):
        standard = known.default if known.default_factory is MISSING else known.default_factory()
        if known.name in names and getattr(values, known.name) != standard:
            raise InputError(f"{section}{known.name}: {why}; leave it out")
