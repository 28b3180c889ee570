"""Settings of an evaluation and of an exploration, with units, bounds and defaults."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import MAX_SEED, MOST_TRUNCATION, Section, bounded
from hagan3d.data.preprocess.metadata import LEAST_HELD_OUT
from hagan3d.errors import InputError

WALKS = 4  # default number of walks
CHUNK = 64  # volumes per file of features; a multiple of the batch size


@dataclass(frozen=True)
class FeatureTrainConfig(Section):
    """Training of the feature extractor of a store."""

    PREFIX: ClassVar[str] = "feature_training."

    steps: int = bounded(1500, at_least=1)
    """Number of training steps."""
    batch_size: int = bounded(16, at_least=1)
    """Volumes per step."""
    lr: float = bounded(2e-3, above=0, below=1)
    """Maximum learning rate of Adam (one-cycle schedule)."""
    mask: float = bounded(0.4, at_least=0, below=1)
    """Fraction of each volume that is masked."""
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED)
    """Seed of weights, sampling and masks."""


@dataclass(frozen=True)
class EvaluateConfig(Section):
    """Settings of an evaluation. Two runs are comparable where these, the store and the protocol agree."""

    num: int = bounded(200, at_least=5)
    """Number of volumes to generate."""
    seed: int = bounded(0, at_least=0, at_most=MAX_SEED)
    """Seed of the first generated volume, of the order of real volumes and of resampling."""
    truncation: float = bounded(1.0, above=0, at_most=MOST_TRUNCATION)
    """Truncation: factor on the distance of z from its mean."""
    features: str | None = None
    """Feature extractors, comma-separated: self, encoder, random. Default: self, and encoder if the run has one."""
    channel: str | None = None
    """Image channel to evaluate alone. Default: every image channel, and the label maps if the model has them."""
    medicalnet: str | None = None
    """File of MedicalNet weights (resnet_10.pth, resnet_50.pth), as an additional extractor."""
    train_limit: int = bounded(300, at_least=5)
    """Maximum number of training volumes."""
    least: int = bounded(LEAST_HELD_OUT, at_least=LEAST_HELD_OUT)
    """Minimum number of held-out volumes (validation and test), and of those to train on; 5 or more."""
    neighbours: int = bounded(3, at_least=1)
    """k nearest neighbours of precision and recall."""
    kid_subsets: int = bounded(100, at_least=1)
    """Number of subsets of KID as torch-fidelity computes it."""
    bootstrap: int = bounded(100, at_least=2)
    """Bootstrap resamplings per standard error."""
    pairs: int = bounded(30, at_least=0)
    """Pairs of volumes per set for MS-SSIM."""
    reconstructions: int = bounded(50, at_least=0)
    """Maximum number of held-out volumes to encode and reconstruct."""
    shown: int = bounded(6, at_least=1)
    """Volumes per set in the pictures of the report."""
    batch_size: int = bounded(8, at_least=2, at_most=CHUNK)
    """Volumes per batch of feature extraction: 2, 4, 8, 16, 32 or 64."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % 2 or CHUNK % self.batch_size:
            raise InputError(f"batch_size: must be 2, 4, 8, 16, 32 or 64, got {self.batch_size}")
        if self.neighbours >= self.least:
            raise InputError(f"neighbours: must be below least {self.least}, got {self.neighbours}")
        for name in ("num", "train_limit"):
            if self.neighbours >= getattr(self, name):
                raise InputError(f"neighbours: must be below {name} {getattr(self, name)}, got {self.neighbours}")


@dataclass(frozen=True)
class ExploreConfig(Section):
    """Settings of the exploration of a latent space."""

    PREFIX: ClassVar[str] = "--"

    source: Literal["encoded", "generated"] = "encoded"
    """Latents to learn the direction from: encoded real volumes, or samples of the prior with measured volumes."""
    num: int = bounded(1000, at_least=50)
    """Number of volumes to generate for source generated."""
    limit: int = bounded(1000, at_least=20)
    """Maximum number of real volumes."""
    steps: int = bounded(7, at_least=2)
    """Number of latents per walk."""
    span: float = bounded(2.0, above=0, at_most=6)
    """Standard deviations of the attribute that a walk covers on each side of the median."""
    starts: int | None = bounded(None, at_least=0)
    """Walks that start at encoded held-out volumes. Default: 4, but 0 for source generated."""
    seeds: int | None = bounded(None, at_least=0)
    """Walks that start at seeds 0, 1, ... Default: 0, but 4 for source generated and without real volumes."""
    table: str | None = None
    """CSV file with ids and numeric columns, for the attribute."""
    label_maps: str | None = None
    """Folder with a label map for each volume; a U-Net trained on them measures generated volumes."""
    measure: str | None = None
    """Measure, such as lung_volume_ml or label_1_ml. Default: the attribute, if it can be measured."""
    skip_missing: bool = False
    """Whether to skip volumes without a value of the attribute."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoded_starts + self.seed_starts < 1:
            raise InputError("--starts 0 --seeds 0: at least one walk is needed; raise one of them")

    @property
    def encoded_starts(self) -> int:
        """Number of walks that start at encoded volumes."""
        return (WALKS if self.source == "encoded" else 0) if self.starts is None else self.starts

    @property
    def seed_starts(self) -> int:
        """Number of walks that start at seeds."""
        return (WALKS if self.source == "generated" else 0) if self.seeds is None else self.seeds
