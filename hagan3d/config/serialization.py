"""Configs as plain values, for YAML files and checkpoints, and back."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from hagan3d.config import Config
from hagan3d.errors import InputError

Section = TypeVar("Section")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config, or a section of one, into plain values, fit for YAML and checkpoints."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: Mapping[str, Any], kind: type[Section] = Config) -> Section:  # type: ignore[assignment]
    """Invert `to_dict`.

    Raises:
        InputError: If a key is unknown (its name is given) or a value cannot work.
    """
    types = get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r} in {kind.__name__}; known: {', '.join(sorted(types))}")
    made = {}
    for key, value in values.items():
        if is_dataclass(types[key]):
            made[key] = from_dict(value, types[key])
        else:
            made[key] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as `train.lr_g`, with both values."""
    flat_one, flat_other = flat(to_dict(one)), flat(to_dict(other))
    return {key: (value, flat_other[key]) for key, value in flat_one.items() if value != flat_other[key]}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write the nested settings of `to_dict` side by side, as `train.lr_g`."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        made |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return made
