"""Bounds of settings: stated once next to the default, checked when a section is made, shown by ``--help``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from hagan3d.errors import InputError

MAX_SEED = 2**63 - 1  # torch takes integers of 64 bits
MOST_TRUNCATION = 10  # factor on the distance of z from its mean


@dataclass(frozen=True)
class Bounds:
    """The values that a numeric setting may take; of several numbers, each."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None

    def contains(self, value: float) -> bool:
        """Return whether ``value`` is finite and within the bounds."""
        return (
            (isinstance(value, int) or math.isfinite(value))  # a long int has no float
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
        )

    def __str__(self) -> str:
        limits = (
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        )
        words = [
            f"{word} {limit if isinstance(limit, int) else f'{limit:g}'}" for word, limit in limits if limit is not None
        ]
        multiple = [] if self.multiple_of is None else [f"a multiple of {self.multiple_of}"]
        return ", ".join([*multiple, *words])


def bounded(
    default: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
) -> Any:
    """Return a dataclass field with a default and bounds; a value of None is not checked."""
    bounds = Bounds(at_least, at_most, above, below, multiple_of)
    return field(default=default, metadata={"bounds": bounds})


class Section:
    """Base class of a section of settings: a frozen dataclass whose numbers are checked against their bounds."""

    PREFIX: ClassVar[str] = ""
    """What an error message puts before the name of a setting, such as ``train.``."""

    def __post_init__(self) -> None:
        for name, bounds in bounds_of(type(self)).items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple | list) else () if value is None else (value,)
            if not all(bounds.contains(number) for number in numbers):
                shown = list(value) if isinstance(value, tuple) else value
                raise InputError(f"{self.PREFIX}{name}: must be {bounds}, got {shown}")


def bounds_of(section: Any) -> Mapping[str, Bounds]:
    """Return the bounds of a dataclass's settings by name."""
    return {f.name: f.metadata["bounds"] for f in fields(section) if "bounds" in f.metadata}
