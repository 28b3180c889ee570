"""Settings of an evaluation, with their units and defaults."""

from dataclasses import dataclass
from typing import Literal

from hagan3d.errors import InputError

WALKS = 4  # unless asked for more or fewer


@dataclass(frozen=True)
class FeatureTrainConfig:
    """How the feature extractor of a store is trained."""

    steps: int = 1500
    """Steps."""
    batch_size: int = 16
    """Volumes per step."""
    lr: float = 2e-3
    """Adam's highest learning rate."""
    mask: float = 0.4
    """Fraction of each volume that is hidden."""
    seed: int = 0
    """Of weights, order and masks."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"features {name}: want at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < 1 or not 0 <= self.mask < 1 or self.seed < 0:
            raise InputError(f"want 0 < lr < 1, 0 <= mask < 1 and seed >= 0, got {self.lr}, {self.mask}, {self.seed}")


@dataclass(frozen=True)
class EvaluateConfig:
    """How a run is measured. Numbers of two runs can be compared where these, the store and the protocol agree."""

    num: int = 200
    """Volumes to generate."""
    seed: int = 0
    """Seed of the first one; and of the order of real volumes and of resampling."""
    truncation: float = 1.0
    """Factor on the distance of z from its mean."""
    features: str | None = None
    """Extractors, by comma: self, encoder, random. Default: self, and the run's encoder if it has one."""
    medicalnet: str | None = None
    """File of MedicalNet weights (resnet_10.pth, resnet_50.pth), to measure in their features too."""
    train_limit: int = 300
    """Training volumes used, at most."""
    least: int = 5
    """Held-out volumes (validation and test) needed."""
    neighbours: int = 3
    """k of precision and recall."""
    kid_subsets: int = 100
    """Subsets of KID in the manner of torch-fidelity."""
    bootstrap: int = 100
    """Resamplings behind each error that has no formula."""
    pairs: int = 30
    """Pairs of volumes per set that MS-SSIM is measured on."""
    reconstructions: int = 50
    """Held-out volumes encoded and made again, at most."""
    shown: int = 6
    """Volumes of each kind in pictures."""
    batch_size: int = 8
    """Volumes held at once."""

    def __post_init__(self) -> None:
        for name, least in (
            ("num", 5),
            ("seed", 0),
            ("train_limit", 5),
            ("neighbours", 1),
            ("least", 5),
            ("kid_subsets", 1),
            ("bootstrap", 2),
            ("pairs", 0),
            ("reconstructions", 0),
            ("shown", 1),
            ("batch_size", 2),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name}: want at least {least}, got {getattr(self, name)}")
        if self.batch_size % 2 or 64 % self.batch_size:
            raise InputError(f"batch_size: want 2, 4, 8, 16, 32 or 64, got {self.batch_size}")
        if self.neighbours >= self.least:
            raise InputError(f"neighbours: want fewer than least {self.least}, got {self.neighbours}")
        if not 0 < self.truncation <= 10:
            raise InputError(f"truncation: want above 0, at most 10, got {self.truncation}")


@dataclass(frozen=True)
class ExploreConfig:
    """How a latent space is explored."""

    source: Literal["encoded", "generated"] = "encoded"
    """Latents a direction is learned from: real volumes encoded, or the prior, whose volumes are measured."""
    num: int = 1000
    """Volumes generated for that, with source generated."""
    limit: int = 1000
    """Real volumes used, at most."""
    steps: int = 7
    """Stops of a walk."""
    span: float = 2.0
    """Standard deviations that a walk goes to either side."""
    starts: int | None = None
    """Walks that begin at held-out volumes, encoded. Default: 4, but 0 where the source is generated."""
    seeds: int | None = None
    """Walks that begin at seeds 0, 1, ... Default: 0, but 4 where the source is generated or there is none."""
    table: str | None = None
    """CSV with ids and numeric columns, for the attribute."""
    label_maps: str | None = None
    """Folder with a label map for each volume; a U-Net trained on them measures what is generated."""
    measure: str | None = None
    """What is measured, such as lung_volume_ml or label_1_ml. Default: the attribute, if it can be."""
    skip_missing: bool = False
    """Leave volumes without a value of the attribute out."""

    def __post_init__(self) -> None:
        for name, least in (("num", 50), ("limit", 20), ("steps", 2), ("starts", 0), ("seeds", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name}: want at least {least}, got {value}")
        if not 0 < self.span <= 6:
            raise InputError(f"--span: want above 0, at most 6 standard deviations, got {self.span}")
        if self.encoded_starts + self.seed_starts < 1:
            raise InputError("--starts 0 --seeds 0: want at least one walk")

    @property
    def encoded_starts(self) -> int:
        """Walks that begin at encoded volumes."""
        return (WALKS if self.source == "encoded" else 0) if self.starts is None else self.starts

    @property
    def seed_starts(self) -> int:
        """Walks that begin at seeds."""
        return (WALKS if self.source == "generated" else 0) if self.seeds is None else self.seeds
