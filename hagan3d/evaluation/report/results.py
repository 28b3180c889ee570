"""Results of an evaluation, as written to metrics.json."""

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import Summary, VolumeSet
from hagan3d.evaluation.memorisation.results import Audit
from hagan3d.evaluation.metrics.classes import ClassScores
from hagan3d.evaluation.metrics.compare import FeatureComparison
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.fidelity import Fidelity
from hagan3d.evaluation.metrics.voxels import Coverage, PairSimilarity, Seams, Variety
from hagan3d.evaluation.settings import EvaluateConfig

PAIRS = (("generated", "held-out"), ("generated", "train"), ("train", "held-out"))
"""Compared sets: evaluated and reference set. The last is the real-vs-real floor."""


def pair_name(evaluated: str, reference: str) -> str:
    """Return the key of a comparison in metrics.json."""
    return f"{evaluated} vs {reference}"


COLUMNS = tuple(pair_name(*pair) for pair in PAIRS)
GENERATED, FLOOR = pair_name("generated", "held-out"), pair_name("train", "held-out")


@dataclass(frozen=True)
class Origin:
    """What was evaluated, and by which version of the protocol."""

    protocol: int
    key: str
    """Hash of everything that the results depend on."""
    versions: dict[str, str]
    run: dict[str, Any]
    """Checkpoint, step, and what the generated volumes depend on."""
    store: dict[str, str]
    """Name and fingerprint."""
    settings: EvaluateConfig
    volumes: dict[str, int]
    """Number of volumes of each set."""
    subjects: dict[str, int]
    """Number of subjects of each set: independent volumes."""
    extractors: tuple[Extractor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        names = ("name", "dim", "sha256", "rescale", "note")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["settings"] = asdict(self.settings)
        values["extractors"] = [{name: getattr(one, name) for name in names} for one in self.extractors]
        return values


@dataclass(frozen=True)
class Diversity:
    """MS-SSIM between volumes of one set."""

    generated: PairSimilarity | None
    real: PairSimilarity | None


@dataclass(frozen=True)
class Reconstruction:
    """Mean errors of held-out volumes that were encoded and reconstructed."""

    volumes: int
    mae: float
    """Mean absolute error in units of the [-1, 1] range."""
    psnr_db: float
    ms_ssim: float
    mae_of_mean: float | None
    """Mean absolute error of the mean training volume, as a baseline; None for volumes too large to average."""


@dataclass(frozen=True)
class GeometryCheck:
    """One check of the geometry or the range of generated volumes."""

    check: str
    ok: bool
    found: str
    """The value, in words."""


@dataclass(frozen=True)
class Evaluation:
    """All results of an evaluated run."""

    origin: Origin
    features: dict[str, dict[str, FeatureComparison]]
    """By extractor and by comparison (`COLUMNS`)."""
    classes: ClassScores | None
    voxels: dict[str, dict[str, Estimate]]
    """Distances of voxel statistics, by comparison and by metric."""
    texture: dict[str, dict[str, Estimate]]
    """Of sharpness and texture, by comparison and by metric."""
    variety: dict[str, list[Variety]]
    """Of generated and of held-out volumes, relative to training volumes."""
    diversity: Diversity
    seams: Seams | None
    coverage: Coverage
    """Of held-out volumes by generated ones."""
    coverage_floor: float
    """Share of covered slices of held-out volumes by training volumes."""
    reconstruction: Reconstruction | None
    geometry: tuple[GeometryCheck, ...]
    fidelity: Fidelity | str
    """The main comparison by torch-fidelity, or why it cannot run."""
    warnings: tuple[str, ...]
    audit: Audit | None = None
    """Of memorisation, if requested."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        features = {
            name: {column: one.to_dict() for column, one in columns.items()} for name, columns in self.features.items()
        }
        extractor = self.origin.extractors[0].name
        fidelity = (
            {"missing": self.fidelity}
            if isinstance(self.fidelity, str)
            else {"extractor": extractor, **asdict(self.fidelity)}
        )
        values: dict[str, Any] = {
            **self.origin.to_dict(),
            "features": features,
            "classes": self.classes and self.classes.to_dict(),
            "voxels": _plain(self.voxels),
            "texture": _plain(self.texture),
            "variety": {name: [asdict(row) for row in rows] for name, rows in self.variety.items()},
            "diversity": {name: one and one.to_dict() for name, one in vars(self.diversity).items()},
            "seams": self.seams and self.seams.to_dict(),
            "coverage": {**self.coverage.to_dict(), "floor": self.coverage_floor},
            "reconstruction": self.reconstruction and _without_none(asdict(self.reconstruction)),
            "geometry": [asdict(row) for row in self.geometry],
            "fidelity": fidelity,
            "warnings": list(self.warnings),
        }
        return values if self.audit is None else values | {"audit": self.audit.to_dict()}


def _plain(columns: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {column: {key: value.to_dict() for key, value in values.items()} for column, values in columns.items()}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class EvaluatedRun:
    """Results of an image channel of a run and what the pictures of the report need."""

    results: Evaluation
    summaries: dict[str, Summary]
    sets: dict[str, VolumeSet]
    channel: int = 0
    """Index of the image channel."""

    def images(self, name: str, indices: Iterable[int]) -> list[np.ndarray]:
        """Read the image channel ``[D, H, W]`` of some volumes of a set."""
        return [x[self.channel] for x in self.sets[name].volumes(indices)]
