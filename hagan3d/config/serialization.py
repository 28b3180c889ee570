"""Configs as plain values, for YAML files and checkpoints, and back."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hagan3d.config.methods import config_class
from hagan3d.config.run import Config
from hagan3d.errors import InputError

Section = TypeVar("Section")
SECTIONS = ("data", "train", "log")


def to_dict(config: Config) -> dict[str, Any]:
    """Turn a config into plain values: the name of the method, its section under that name, and all others."""
    sections = {name: section_to_dict(getattr(config, name)) for name in SECTIONS}
    return {"method": config.name, config.name: section_to_dict(config.method), **sections}


def section_to_dict(section: Any) -> dict[str, Any]:
    """Turn a section into plain values."""
    return {f.name: _plain(getattr(section, f.name)) for f in fields(section)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return section_to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(values: Mapping[str, Any]) -> Config:
    """Invert `to_dict`; missing settings get their defaults.

    Raises:
        InputError: If the method or a setting is unknown (its name is given), or a value is invalid.
    """
    if not isinstance(values, Mapping) or "method" not in values:
        raise InputError("the config names no method; want `method: NAME` and a section of that name")
    kind = config_class(values["method"])
    unknown = sorted(str(key) for key in set(values) - {"method", kind.name, *SECTIONS})
    if unknown:
        raise InputError(f"unknown section {unknown[0]!r} of method {kind.name}")
    types = {**get_type_hints(Config), "data": kind.data_config}
    sections = {name: section_from_dict(values[name], types[name]) for name in SECTIONS if name in values}
    return Config(method=section_from_dict(values.get(kind.name, {}), kind), **sections)


def section_from_dict(values: Any, kind: type[Section]) -> Section:
    """Invert `section_to_dict`.

    Raises:
        InputError: If a key is unknown or a value is invalid.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{kind.__name__}: must be settings by name, got {values!r}")
    types = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(values) - set(known))
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r} in {kind.__name__}; known: {', '.join(sorted(known))}")
    converted = {}
    for key, value in values.items():
        if is_dataclass(types[key]):
            converted[key] = section_from_dict(value, types[key])  # type: ignore[arg-type]
            continue
        converted[key] = tuple(value) if isinstance(value, list) else value
        if not has_type(converted[key], types[key]):
            raise InputError(f"{getattr(kind, 'PREFIX', '')}{key} {value!r}: must be {_type_name(types[key])}")
    return kind(**converted)


def has_type(value: Any, hint: Any) -> bool:
    """Return whether a plain value has the type of a setting; a list is no tuple."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (Union, UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(hints) == len(value) and all(has_type(item, one) for item, one in zip(value, hints, strict=True))
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(key, arguments[0]) and has_type(item, arguments[1]) for key, item in value.items()
        )
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _type_name(hint: Any) -> str:
    """Describe the type of a setting in plain words."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in get_args(hint))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(hint, f"{len(get_args(hint))} numbers" if get_origin(hint) is tuple else str(hint))


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, as ``train.lr_g``, with both values."""
    flat_one, flat_other = flat(to_dict(one)), flat(to_dict(other))
    return {
        key: (flat_one.get(key), flat_other.get(key))
        for key in {**flat_one, **flat_other}
        if flat_one.get(key) != flat_other.get(key)
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to keys such as ``train.lr_g``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result
