"""Settings of a run from a YAML file and the command line: a parser that knows the sections of one method."""

import importlib.resources
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import yaml

from hagan3d import cli
from hagan3d.config import Config, LogConfig, TrainConfig
from hagan3d.config.bounds import bounds_of
from hagan3d.config.methods import config_class, method_names, summary
from hagan3d.config.serialization import SECTIONS, from_dict, to_dict
from hagan3d.config_file import check_config_file
from hagan3d.errors import InputError

DEFAULT_CONFIG = "hagan_32"  # of a run that names neither a config nor a method


def parse_run(
    command: str,
    description: str,
    examples: Sequence[str],
    argv: Sequence[str],
    add_options: Callable[[cli.Parser], None],
) -> tuple[Config, Any]:
    """Parse the command line of a command that works on the settings of a run.

    Args:
        command: Name of the command.
        description: What it does, for ``--help``.
        examples: Command lines, for ``--help``.
        argv: Its arguments.
        add_options: Adds the command's own options to the parser.

    Returns:
        The settings, and all parsed options.

    Raises:
        InputError: If a setting is unknown or invalid.
    """
    argv = [_resolved(word, before) for before, word in zip(["", *argv], argv, strict=False)]
    method = method_of(argv)
    is_help = any(word in ("-h", "--help") for word in argv)
    if method is None and not is_help:
        print(f"no --config and no --method: using {DEFAULT_CONFIG}", file=sys.stderr)
        argv = [f"--config={config_path(DEFAULT_CONFIG)}", *argv]
        method = method_of(argv)
    parser = cli.parser(command, description + _method_help(method), examples)
    parser.add_argument("--config", action="config", help="YAML file of settings, or the name of a shipped one.")
    parser.add_argument("--method", type=str, help="Method: its section of settings is read.")
    add_options(parser)
    if method is not None:
        _add_sections(parser, method)
    parser.explain_unknown = lambda key: _readers(method, key)
    prints = [word for word in argv if cli.option_name(word) == "--print_config"]
    options = parser.instantiate(parser.parse_args([word for word in argv if word not in prints]))
    assert method is not None  # --help has ended the program
    config = Config(options[method], *(options[name] for name in SECTIONS))
    if prints:
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config, options


def method_of(argv: Sequence[str]) -> str | None:
    """Return the method that a command line or its config file names.

    Raises:
        InputError: If both name different ones, or there is no such method.
    """
    given, path = cli.option_value("--method", argv), cli.option_value("--config", argv)
    if path is not None:
        check_config_file(Path(path))
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if "method" not in values and given is None:
            raise InputError(f"{path}: names no method; add a line `method: NAME` ({', '.join(method_names())})")
        named = values.get("method", given)
        if given is not None and named != given:
            raise InputError(f"--method {given}: but {path} has settings of method {named}; use one of them")
        given = named
    if given is not None:
        config_class(given)
    return given


def config_path(name: str) -> Path:
    """Return the path of a config: a file, or one that comes with hagan3d by its name."""
    if not Path(name).exists():
        shipped = Path(str(importlib.resources.files("hagan3d.configs"))) / f"{name.removesuffix('.yaml')}.yaml"
        if shipped.is_file():
            return shipped
    return Path(name)


def load_config(name: str | Path, **sections: dict[str, Any]) -> Config:
    """Load a config file, or one that comes with hagan3d by its name, with changes to its sections.

    Args:
        name: Path of a YAML file, or name of a shipped config such as ``hagan_64``.
        sections: Settings to change, by section: ``data={"store": "a.h5"}``; those of the method by its name.

    Raises:
        InputError: If there is no such file, or a setting is unknown or invalid.
    """
    path = config_path(str(name))
    check_config_file(path)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, changes in sections.items():
        if not isinstance(changes, dict):
            raise InputError(f"{section} {changes!r}: must be a section of settings, such as data={{'store': 'a.h5'}}")
        values[section] = _merged(values.get(section) or {}, plain(changes))
    try:
        return from_dict(values)
    except InputError as error:
        if sections:  # the file may be right
            raise
        raise InputError(f"{path}: {error}") from error


def plain(value: Any) -> Any:
    """Return a setting as a file would have it: paths as text, NumPy's numbers and arrays as Python's."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings."""
    nested = {
        key: _merged(values.get(key) or {}, change) if isinstance(change, dict) else change
        for key, change in changes.items()
    }
    return {**values, **nested}


def _resolved(word: str, before: str) -> str:
    """Replace the name of a shipped config by its path."""
    if before == "--config":
        return str(config_path(word))
    return f"--config={config_path(word.removeprefix('--config='))}" if word.startswith("--config=") else word


def _method_help(method: str | None) -> str:
    """Return what ``--help`` says of methods: of the chosen one, or a list of all."""
    if method is not None:
        return f" Settings below are those of method {method}: {summary(method)}"
    lines = "; ".join(f"{name}: {summary(name)}" for name in method_names())
    return f" Methods (`--method NAME --help` lists the settings of one): {lines}"


def _add_sections(parser: cli.Parser, method: str) -> None:
    """Add the sections that a method reads, with the bounds of each setting in its help."""
    kind = config_class(method)
    for name, section in {method: kind, "data": kind.data_config, "train": TrainConfig, "log": LogConfig}.items():
        _add_section(parser, name, section)
    parser.set_defaults({"method": method})


def _add_section(parser: cli.Parser, name: str, section: Any) -> None:
    """Add a section and, one by one, those nested in it, whose settings ``--help`` then shows too."""
    types = get_type_hints(section)
    nested = [key for key in section.__dataclass_fields__ if is_dataclass(types[key])]
    parser.add_class_arguments(section, name, skip=set(nested))
    bounds = bounds_of(section)
    for action in parser._actions:
        key, _, setting = str(action.dest).rpartition(".")
        if key == name and setting in bounds:
            action.help = f"{action.help} [{bounds[setting]}]"
    for key in nested:
        _add_section(parser, f"{name}.{key}", types[key])


def _readers(method: str | None, key: str) -> str | None:
    """Explain a setting that this method does not read, but others do."""
    section, _, setting = key.partition(".")
    if section in method_names() and section != method:
        return f"{key}: is a setting of method {section}, but the method of this run is {method}"
    field = setting.partition(".")[0]
    able = [name for name in method_names() if field in config_class(name).data_config.__dataclass_fields__]
    if section == "data" and able and method not in able:
        return f"{key}: method {method} does not read it; methods that do: {', '.join(able)}"
    return None
