"""Settings of simulated sources: how a volume is spoilt so that it and what it was make a pair."""

from dataclasses import dataclass
from typing import Literal

from hagan3d.errors import InputError

Degradation = Literal["none", "undersample", "motion", "noise", "gibbs", "low-dose", "thick-slices", "misalign"]


@dataclass(frozen=True)
class DegradeConfig:
    """A simulated source: the volume as a worse acquisition would have it. Lines of k-space run across axis H."""

    kind: Degradation = "none"
    """none: sources are those of the store. undersample: k-space lines left out. motion: k-space gathered while the
    head moves. noise: Rician. gibbs: k-space cut off. low-dose: CT with fewer photons. thick-slices: averaged along D.
    misalign: turned and shifted, with the volume it was beside it, for registration.
    """
    fixed: bool = False
    """Spoil a volume the same way each time it is seen in training, as in evaluation, as if acquired once."""
    mask: Literal["cartesian", "gaussian"] = "cartesian"
    """Lines that undersample keeps: planes of one phase encoding H, or points of two, D and H, dense at the centre."""
    acceleration: float = 4.0
    """Lines there are per line that undersample keeps."""
    centre: float = 0.08
    """Fraction of lines, at the centre of k-space, that undersample always keeps."""
    moves: int = 3
    """Times that the head moves while k-space is gathered; it rests while the centre is."""
    rotate_deg: float = 6.0
    """Largest rotation about each axis, degrees, in motion."""
    shift: float = 0.06
    """Largest shift along each axis, as a fraction of its side, in motion."""
    noise: float = 0.1
    """Standard deviation of Rician noise per channel, in units of the [-1, 1] range."""
    gibbs: float = 0.5
    """How much of k-space gibbs cuts off, from its corners on: 0 nothing, 1 all."""
    dose: float = 0.25
    """Fraction of the full dose in low-dose."""
    noise_hu: float = 15.0
    """Standard deviation of noise at full dose, in file units (HU), in low-dose."""
    thickness: int = 4
    """Slices that one thick slice is the mean of."""
    misalign_deg: float = 25.0
    """Largest turn about each axis, degrees, in misalign."""
    misalign_mm: float = 5.0
    """Largest shift along each axis, millimetres, in misalign."""
    misalign_percent: float = 0.0
    """Largest stretch along each axis, per cent, in misalign."""
    misalign_shear_deg: float = 0.0
    """Largest shear between two axes, degrees, in misalign."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("acceleration", 1, 64),
            ("centre", 0, 1),
            ("moves", 1, 64),
            ("rotate_deg", 0, 180),
            ("shift", 0, 1),
            ("noise", 0, 2),
            ("gibbs", 0, 1),
            ("dose", 1e-3, 1),
            ("noise_hu", 0, 1e4),
            ("thickness", 1, 64),
            ("misalign_deg", 0, 90),
            ("misalign_mm", 0, 1e3),
            ("misalign_percent", 0, 50),
            ("misalign_shear_deg", 0, 45),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"data.degrade.{name}: want {low:g} to {high:g}, got {getattr(self, name)}")
        if self.kind == "undersample" and self.centre * self.acceleration > 1:
            raise InputError(
                f"data.degrade: a centre of {self.centre:g} of all lines is more than acceleration "
                f"{self.acceleration:g} leaves; lower one of them"
            )

    @property
    def active(self) -> bool:
        """Whether sources are simulated."""
        return self.kind != "none"
