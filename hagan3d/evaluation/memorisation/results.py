"""Results of the memorisation audit, as written to metrics.json."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from hagan3d.evaluation.metrics.estimate import Estimate


@dataclass(frozen=True)
class Thresholds:
    """Above which evidence a measure is flagged; set on seeds 0 to 7 of benchmarks/audit.py."""

    clear_z: float = 3.0
    """Standard errors from the expected value, and from the swapped test."""
    twin_margin: float = 0.9
    """Factor on the lowest twin ratio of real volumes; below that, a volume is closer than any two subjects are."""
    twin_share: float = 0.02
    """Share of the generated volumes below that limit."""
    twin_sources: int = 3
    """Different training volumes that these are closest to; fewer may be one chance resemblance, repeated."""
    twin_half: float = 0.5
    """Factor on the lowest twin ratio of real volumes; one generated volume below that is enough."""
    nearer_share: float = 0.55
    """Probability that the nearest real volume is a training volume."""
    auc_above: float = 0.1
    """Excess of the AUC of a discriminator over 0.5 and over that of an untrained one."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Twins:
    """Twin ratios of generated volumes: distance to the nearest training volume over that to another subject."""

    limit: float
    lowest_real: float
    """Lowest twin ratio of real volumes."""
    lowest: float
    share: float
    """Share of the generated volumes below the limit."""
    count: int
    sources: int
    """Different training volumes that these are closest to."""


@dataclass(frozen=True)
class Nearer:
    """Probability that the nearest real volume is a training volume."""

    share: float
    expected: float
    """Mean where subjects are assigned to training and held-out at random (permutation test)."""
    deviation: float
    z: float


@dataclass(frozen=True)
class Authenticity:
    """AuthPct (Alaa et al., ICML 2022), in percent."""

    generated: Estimate
    floor: Estimate
    """Of held-out volumes."""
    swapped_generated: Estimate
    """With training and held-out volumes swapped."""
    swapped_floor: Estimate
    z: float
    """Standard errors above the floor; negative: less authentic."""
    excess_z: float
    """Standard errors above the swapped test."""


@dataclass(frozen=True)
class DataCopying:
    """C_T (Meehan et al., AISTATS 2020); negative: closer to training volumes than held-out volumes are."""

    value: float
    z: float
    swapped: float
    """With training and held-out volumes swapped."""
    swapped_z: float
    excess_z: float
    """Difference to the swapped test in standard errors."""


@dataclass(frozen=True)
class MedianDistances:
    """Median distances to the nearest volume of a set."""

    generated_train: float
    generated_held: float
    held_train: float


@dataclass(frozen=True)
class SpaceAudit:
    """All tests in one space: voxels or features."""

    independent: float
    """Effective number of independent generated volumes."""
    distances: MedianDistances
    twins: Twins
    nearer: Nearer
    authenticity: Authenticity
    data_copying: DataCopying
    extractor: str | None = None
    """Of the features; None for voxels."""

    @property
    def flags(self) -> dict[str, bool]:
        """Whether each test is beyond its thresholds, by name of the test."""
        t, twins, near = THRESHOLDS, self.twins, self.nearer

        def clear(row: Authenticity | DataCopying) -> bool:
            return row.z <= -t.clear_z and row.excess_z <= -t.clear_z

        many = twins.share >= t.twin_share and twins.sources >= t.twin_sources
        return {
            "twins": many or twins.lowest < t.twin_half * twins.lowest_real,
            "nearer": near.share >= t.nearer_share and near.z >= t.clear_z,
            "AuthPct": clear(self.authenticity),
            "C_T": clear(self.data_copying),
        }

    @property
    def flagged(self) -> list[str]:
        """Names of the tests that show memorisation."""
        return [name for name, is_beyond in self.flags.items() if is_beyond]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        values = asdict(self) | {"flagged": self.flagged}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Membership:
    """Membership inference by the logits of a discriminator."""

    score: str
    """d_h, d_l or sum."""
    auc: float
    """Of classifying training against held-out volumes."""
    true_positives: float
    """True positive rate at 1 % false positives."""
    control_auc: float
    """Mean AUC between random parts of the training volumes."""
    control_deviation: float
    control_true_positives: float
    z: float
    """Deviations of the control by which the AUC exceeds it."""
    untrained_auc: float = math.nan
    """AUC of a discriminator with fresh weights."""

    @property
    def flagged(self) -> bool:
        """Whether the discriminator separates training from held-out volumes beyond both controls."""
        above = self.auc - max(0.5, self.untrained_auc)
        return bool(self.z >= THRESHOLDS.clear_z and above >= THRESHOLDS.auc_above)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        return asdict(self) | {"flagged": self.flagged}


@dataclass(frozen=True)
class ClosestPair:
    """A generated volume and its nearest training volume, in voxel space."""

    generated: int
    """Index in the generated set."""
    train: int
    """Index in the training set."""
    ratio: float
    """Twin ratio."""
    distance: float
    held_out: float
    """Distance to the nearest held-out volume."""
    mirrored: bool
    """Whether the training volume is closer mirrored along W."""


@dataclass(frozen=True)
class Audit:
    """Results of the memorisation audit."""

    volumes: dict[str, int]
    """Number of volumes of each set."""
    spaces: dict[str, SpaceAudit]
    membership: list[Membership] | None
    """None where the checkpoint has no discriminators."""
    pairs: list[ClosestPair]
    trained_on: int
    """Training volumes of the store, of which `volumes` may be fewer (--train-limit)."""

    @property
    def generated_by(self) -> list[str]:
        """Tests that flag the generated volumes, as ``test (space)``."""
        return [f"{test} ({name})" for name, space in self.spaces.items() for test in space.flagged]

    @property
    def discriminators_by(self) -> list[str] | None:
        """Discriminators that are flagged; None where the checkpoint has none."""
        return None if self.membership is None else [row.score for row in self.membership if row.flagged]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for metrics.json."""
        by, discriminators = self.generated_by, self.discriminators_by
        return {
            "thresholds": asdict(THRESHOLDS),
            "volumes": self.volumes,
            "trained_on": self.trained_on,
            "spaces": {name: space.to_dict() for name, space in self.spaces.items()},
            "membership": self.membership and [row.to_dict() for row in self.membership],
            "pairs": [asdict(pair) for pair in self.pairs],
            "verdict": {
                "flagged": bool(by or discriminators),
                "generated_by": by,
                "discriminators_by": discriminators,
            },
        }
