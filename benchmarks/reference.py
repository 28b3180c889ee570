"""Reference of commands and settings, read off the argument parsers and the config classes.

`--write` puts the pages where the documentation has them; a test compares them with the parsers.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin
from unittest import mock

from hagan3d import cli
from hagan3d.__main__ import COMMANDS
from hagan3d.config.methods import method_names, summary

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
NOTE = "Written by `python benchmarks/reference.py --write`; a test compares it with the parsers.\n"
SHARED = {
    "data": "The volumes that a run trains on. The first table is read by every method.",
    "train": "Steps, optimizers, precision and memory.",
    "log": "Logs, previews and checkpoints.",
}
HIDDEN = ("help", "debug", "print_config")  # options of every command
Row = tuple[str, str, str, str]  # name, type, default, description


class _ParserBuiltError(Exception):
    """Ends a command as soon as it has built its parser."""


def main() -> int:
    """Print the pages, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"Write the pages to {FOLDER.relative_to(ROOT)}/.")
    writes = parser.parse_args().write
    for name, text in pages().items():
        if writes:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / name).write_text(text, encoding="utf-8")
        else:
            print(text)
    return 0


def pages() -> dict[str, str]:
    """Return each page as Markdown, by the name of its file."""
    return {"commands.md": commands_page(), "settings.md": settings_page()}


def commands_page() -> str:
    """Return the page of all commands with their options."""
    importing = command_parser("checkpoint", "import")
    sections = [command_section(name, command_parser(name)) for name in COMMANDS]
    return (
        f"# Commands\n\n{NOTE}\n`hagan3d COMMAND` is `python -m hagan3d.COMMAND`. Hyphens and underscores in names of "
        "options are the same. A command ends with status 0, or 2 after one line on what is wrong with its input, or 1 "
        "if it was interrupted.\n\n"
        + "\n".join([*sections, command_section("checkpoint", importing, "python -m hagan3d.checkpoint import")])
    )


def settings_page() -> str:
    """Return the page of all settings of a run, by section."""
    by_method = {name: list(setting_rows(command_parser("train", "--method", name))) for name in method_names()}
    text = (
        f"# Settings\n\n{NOTE}\nSettings of a run, in a YAML file (`data:` and below it `size: [64, 64, 64]`) or on "
        "the command line (`--data.size 64 64 64`), which wins. `hagan3d train --method METHOD --help` prints them, "
        "`--print_config` writes a whole config. Brackets hold the values that are allowed.\n\n"
    )
    for section, what in SHARED.items():
        text += f"## {section}\n\n{what}\n\n"
        for readers, rows in shared_rows(by_method, section).items():
            methods = "" if len(readers) == len(by_method) else f"Read by {', '.join(readers)}:\n\n"
            text += f"{methods}{table(rows)}\n"
    for name, rows in by_method.items():
        text += f"## {name}\n\n{summary(name)}\n\n{table([row for row in rows if section_of(row) == name])}\n"
    return text


def command_parser(command: str, *arguments: str) -> cli.Parser:
    """Return the parser that a command builds for its arguments."""
    found: list[cli.Parser] = []

    def stop(parser: cli.Parser, *_: Any, **__: Any) -> NoReturn:
        found.append(parser)
        raise _ParserBuiltError

    module = "hagan3d.checkpoint.__main__" if command == "checkpoint" else f"hagan3d.{command}"
    with mock.patch.object(cli.Parser, "parse_args", stop):
        try:
            importlib.import_module(module).main(list(arguments) or ["--help"])
        except _ParserBuiltError:
            return found[0]
    raise AssertionError(f"{command}: parses nothing")


def command_section(name: str, parser: cli.Parser, title: str | None = None) -> str:
    """Return the section of one command: what it does, its options, examples."""
    description = re.sub(r"\s+", " ", str(parser.description)).split(" Methods (`--method")[0]
    examples = str(parser.epilog or "").removeprefix("examples:\n").replace("  hagan3d", "hagan3d")
    examples = re.sub(r"^  ", "", examples, flags=re.MULTILINE)
    shown = f"```bash\n{examples}\n```\n" if examples else ""
    return f"## {title or f'hagan3d {name}'}\n\n{description}\n\n{table(list(rows_of(parser)))}\n{shown}"


def setting_rows(parser: cli.Parser) -> Iterator[Row]:
    """Yield the rows of the settings that a parser reads, without the options of its command."""
    return (row for row in rows_of(parser) if "." in row[0])


def rows_of(parser: cli.Parser) -> Iterator[Row]:
    """Yield name, type, default and description of each option."""
    positionals = [action for action in parser._actions if not action.option_strings]
    for action in [*positionals, *(action for action in parser._actions if action.option_strings)]:
        if action.dest.rpartition(".")[2] in HIDDEN or type(action).__name__ == "_ActionConfigLoad":
            continue
        name = action.dest if not action.option_strings else action.option_strings[0]
        yield name, type_of(action), default_of(action), re.sub(r"\s+", " ", str(action.help))


def type_of(action: Any) -> str:
    """Return the type of the values of an option, in words."""
    hint = getattr(action, "_typehint", None) or action.type
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return ", ".join(f"`{value}`" for value in action.choices)
    text = hint_text(hint) if hint is not None else "text"
    if isinstance(action.nargs, int):
        return f"{action.nargs} x {text}"
    return f"{text} ..." if action.nargs in ("*", "+") else text


def hint_text(hint: Any) -> str:
    """Describe a type hint."""
    kinds, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in kinds)
    if origin in (Union, UnionType):
        return " or ".join(hint_text(kind) for kind in kinds if kind is not NoneType)
    if origin is tuple:
        return f"{hint_text(kinds[0])} ..." if kinds[-1] is Ellipsis else f"{len(kinds)} x {hint_text(kinds[0])}"
    if origin is list:
        return f"{hint_text(kinds[0])} ..."
    if origin is dict:
        return "settings by name"
    names = {"int": "whole number", "float": "number", "bool": "`true`, `false`", "str": "text"}
    return names.get(getattr(hint, "__name__", str(hint)), "text")


def default_of(action: Any) -> str:
    """Return the default of an option as it is written on a command line."""
    value = action.default
    if action.required or not action.option_strings and action.nargs != "*":
        return "required"
    if value is None or value in ((), [], "", {}) or action.nargs == 0:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    values = value if isinstance(value, list | tuple) else [value]
    return f"`{' '.join(f'{one:g}' if isinstance(one, float) else str(one) for one in values)}`"


def section_of(row: Row) -> str:
    """Return the section of a setting."""
    return row[0].removeprefix("--").partition(".")[0]


def shared_rows(by_method: dict[str, list[Row]], section: str) -> dict[tuple[str, ...], list[Row]]:
    """Return the settings of a section that methods share, by the methods that read them; the most read first."""
    readers: dict[Row, tuple[str, ...]] = {}
    for name, rows in by_method.items():
        for row in rows:
            if section_of(row) == section:
                readers[row] = (*readers.get(row, ()), name)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row, names in readers.items():
        groups.setdefault(names, []).append(row)
    return dict(sorted(groups.items(), key=lambda group: -len(group[0])))


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| name | value | default | what |", "|---|---|---|---|"]
    for name, kind, default, what in rows:
        cells = (f"`{name}`", kind, default, escaped(what))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Write what Markdown would read as markup, such as `*` and `<`, as text; code between backticks stays."""
    parts = text.split("`")
    plain = [re.sub(r"([*_<\[\]])", r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(plain)


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
