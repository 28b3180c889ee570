"""Settings of simulated acquisitions: a degraded volume is the source, the volume itself the target."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hagan3d.config.bounds import Section, bounded
from hagan3d.errors import InputError

Degradation = Literal["none", "copy", "undersample", "motion", "noise", "gibbs", "low-dose", "thick-slices", "misalign"]


@dataclass(frozen=True)
class DegradeConfig(Section):
    """Simulated acquisition of the source. k-space lines (phase encoding) run across axis H."""

    PREFIX: ClassVar[str] = "data.degrade."

    kind: Degradation = "none"
    """none: sources are those of the store. copy: the volume itself, all its channels, for networks that see its grey
    level alone. undersample: undersampled k-space. motion: rigid motion during k-space acquisition. noise: Rician
    noise. gibbs: truncated k-space. low-dose: CT with fewer photons. thick-slices: slices averaged along D. misalign:
    random rigid or affine transform, with the volume itself as fixed image (registration)."""
    fixed: bool = False
    """Whether a volume is degraded the same way each time it is seen, as if acquired once."""
    mask: Literal["cartesian", "gaussian"] = "cartesian"
    """Sampling mask of undersample: planes of one phase-encoding direction H, or points of two, D and H, denser at the
    centre."""
    acceleration: float = bounded(4.0, at_least=1, at_most=64)
    """Acceleration factor R of undersample."""
    centre: float = bounded(0.08, at_least=0, at_most=1)
    """Fraction of lines at the centre of k-space that undersample always keeps."""
    moves: int = bounded(3, at_least=1, at_most=64)
    """Number of movements during the acquisition in motion; none while the centre of k-space is acquired."""
    rotate_deg: float = bounded(6.0, at_least=0, at_most=180)
    """Largest rotation about each axis in motion, degrees."""
    shift: float = bounded(0.06, at_least=0, at_most=1)
    """Largest translation along each axis in motion, as a fraction of its side."""
    noise: float = bounded(0.1, at_least=0, at_most=2)
    """Standard deviation of Rician noise per channel, in units of the [-1, 1] range."""
    gibbs: float = bounded(0.5, at_least=0, at_most=1)
    """Fraction of k-space that gibbs cuts off, from its corners on."""
    dose: float = bounded(0.25, at_least=1e-3, at_most=1)
    """Fraction of the full dose in low-dose."""
    noise_hu: float = bounded(15.0, at_least=0, at_most=1e4)
    """Standard deviation of the noise at full dose in low-dose, file units (HU)."""
    thickness: int = bounded(4, at_least=1, at_most=64)
    """Number of slices averaged into one in thick-slices."""
    misalign_deg: float = bounded(25.0, at_least=0, at_most=90)
    """Largest rotation about each axis in misalign, degrees."""
    misalign_mm: float = bounded(5.0, at_least=0, at_most=1e3)
    """Largest translation along each axis in misalign, mm."""
    misalign_percent: float = bounded(0.0, at_least=0, at_most=50)
    """Largest scaling along each axis in misalign, per cent."""
    misalign_shear_deg: float = bounded(0.0, at_least=0, at_most=45)
    """Largest shear between two axes in misalign, degrees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "undersample" and self.centre * self.acceleration > 1:
            raise InputError(
                f"data.degrade: a centre of {self.centre:g} of all lines is more than acceleration "
                f"{self.acceleration:g} keeps; lower one of them"
            )

    @property
    def active(self) -> bool:
        """Whether sources are made of the volumes of a store."""
        return self.kind != "none"

    @property
    def changes(self) -> bool:
        """Whether such a source differs from its volume: all but copies."""
        return self.kind not in ("none", "copy")
