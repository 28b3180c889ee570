"""Files of settings in YAML, and the ones that come with hagan3d."""

import difflib
import importlib.resources
from collections.abc import Iterator
from pathlib import Path

import yaml

from hagan3d.errors import InputError


def check_config_file(path: Path) -> None:
    """Raise InputError unless a file holds settings in YAML, each once."""
    if (path / "config.yaml").is_file():
        raise InputError(f"{path}: is the folder of a run; its config is {path / 'config.yaml'}")
    if not path.is_file():
        shipped = importlib.resources.files("hagan3d.configs")
        names = [Path(str(file)).stem for file in shipped.iterdir() if file.name.endswith(".yaml")]
        near = difflib.get_close_matches(path.stem, names, 1)
        meant = f"did you mean {near[0]}? Those" if near else "those"
        raise InputError(f"{path}: no such config; {meant} that come with hagan3d: {', '.join(sorted(names))}")
    try:
        text = path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
    except (UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is not text"
        raise InputError(f"{path}{where}: not valid YAML: {what}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds no settings; expected lines such as `train:` and below it `  steps: 1000`")
    for key, first, second in _repeated_keys(yaml.compose(text, yaml.SafeLoader), set()):
        raise InputError(f"{path}, lines {first} and {second}: {key} is set twice; join the two or leave one out")


def _repeated_keys(node: yaml.Node | None, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Yield each key that a mapping in a YAML document has twice, with both lines: YAML takes the last."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):  # an alias may lead back
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if key.value in lines:
                yield key.value, lines[key.value], line
            lines[key.value] = line
        yield from _repeated_keys(value, seen)
