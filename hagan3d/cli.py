"""What every command does alike: its parser, and one clear line with status 2 for bad input."""

import difflib
import errno
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse

from hagan3d.config.bounds import MAX_SEED
from hagan3d.config_file import check_config_file
from hagan3d.errors import InputError, is_out_of_memory

FLAGS = ("debug", "dry_run", "force", "full", "reconstruct")  # options that take no value
TRUNCATION = "Factor on the distance of z from its mean (truncation); below 1: more typical, less varied."
MEMORY = "Limit of the memory of tensors and file buffers, e.g. 2GB: sets the slices generated at a time."
Format = Literal["nii.gz", "nii", "h5"]
_KINDS = {
    "int": "a whole number (int)",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "several numbers with blanks between them",
    "NoneType": "null",
}
_HANDLES = "raise the limit on open files (`ulimit -n 4096`) and run the same command again"
_ACCESS = "give access to it, or choose another place"
LESS_MEMORY = (
    "use --memory (generate, encode, translate), a smaller --batch_size (evaluate), fewer --workers (prepare), or "
    "--device cpu"
)
_LOST = "the disk or the way to it failed; see that it is back, and run the same command again"
REMEDIES = {
    errno.EDQUOT: "free some of your share of the disk and run the same command again",
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: _ACCESS,
    errno.EIO: _LOST,
    errno.ESTALE: _LOST,
}
"""What to do about an error of the system, by its number."""
MOST_SEEDS = 10**6  # of one command
Item = TypeVar("Item")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|[-+]?\.(nan|inf)$", re.IGNORECASE)

# a setting names values, never a class to import
jsonargparse.set_parsing_settings(
    docstring_parse_attribute_docstrings=True, subclasses_disabled=[is_dataclass], import_path_allowlist=["hagan3d"]
)


def parser(command: str, description: str, examples: Sequence[str] = ()) -> "Parser":
    """Return the parser of `hagan3d COMMAND`, with `--debug` and worked examples under its help."""
    lines = ["examples:", *(f"  {line}" for line in examples)] if examples else []
    made = Parser(
        prog=f"hagan3d {command}",
        description=description,
        epilog="\n".join(lines),
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,  # options that others are looked up by would be missed
    )
    made.add_argument("--debug", action="store_true", help="Show where an error came from.")
    return made


def add_run_options(parser: jsonargparse.ArgumentParser, several: bool = False) -> None:
    """Add the options of every command that works with a trained model, or with ``several`` of one task."""
    what = "Folder of a run (its newest checkpoint), or a checkpoint file."
    if several:
        parser.add_argument("run", type=str, nargs="+", help=f"{what} Several of one task: their mean.")
    else:
        parser.add_argument("run", type=str, help=what)
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Moving average, or raw weights.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Device to compute on.")


def add_ensemble_options(parser: jsonargparse.ArgumentParser) -> None:
    """Add the options of an ensemble of translations."""
    parser.add_argument("--samples", type=int, default=0, help="Passes with dropout; 0: one without. Their mean.")
    parser.add_argument(
        "--augment",
        type=str,
        nargs="*",
        default=[],
        help="flips, shifts or both: also translate mirrored or shifted sources, and take the mean.",
    )


def progress(title: str, total: int) -> Callable[[Iterable[Item]], Iterator[Item]]:
    """Return a wrapper of an iteration that shows a progress bar on stderr."""

    def shown(items: Iterable[Item]) -> Iterator[Item]:
        from rich.console import Console
        from rich.progress import track

        return iter(track(items, title, total=total, console=Console(stderr=True)))

    return shown


def volumes(count: int) -> str:
    """Return "1 volume", "2 volumes" and so on."""
    return f"{count} volume" if count == 1 else f"{count} volumes"


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Help that keeps the line breaks of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)


class Parser(jsonargparse.ArgumentParser):
    """A parser that takes `--size 64 64 64`, `--skip-bad` and `--class-column Sex` as people write them."""

    explain_unknown: Callable[[str], str | None] | None = None
    """Explains an unknown setting by its name, or returns None."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **keywords: Any
    ) -> Any:
        """Parse a command line; a parser's error is raised as one readable line."""
        words = [_with_underscores(word) for word in (sys.argv[1:] if args is None else args)]
        config = option_value("--config", words)
        if config is not None:
            check_config_file(Path(config))
        try:
            words = join_numbers(self._with_lists(self._with_flags_set(words)), self._of_several_words())
            return super().parse_args(words, *others, **keywords)
        except jsonargparse.ArgumentError as error:
            key = unknown_setting(str(error))
            explanation = self.explain_unknown(key) if key and self.explain_unknown else None
            known = list(self.get_defaults(skip_validation=True).keys())
            message = explanation or self._missing(str(error)) or parser_message(str(error), known)
            raise InputError(f"{config}: {message}" if config and not self._reads(config) else message) from error

    def _with_lists(self, words: list[str]) -> list[str]:
        """Turn the words after each setting of several words, such as names, into a list."""
        several = {
            option
            for action in self._actions
            if str(getattr(action, "_typehint", "")).startswith(("tuple[str,", "tuple[typing.Literal"))
            for option in action.option_strings
        }
        done: list[str] = []
        names: list[str] | None = None
        for word in [*words, "--"]:
            if names is not None and not word.startswith("--"):
                names.append(word)
                continue
            if names is not None:
                is_list = len(names) == 1 and names[0].startswith("[")
                done += names if is_list else [json.dumps(names)]
            names = [] if word in several else None
            done.append(word)
        return done[:-1]

    def _of_several_words(self) -> set[str]:
        """Return the options that take several texts, such as folders, whose names may be numbers."""
        texts = [action for action in self._actions if action.nargs not in (None, 0) and action.type in (None, str)]
        return {option for action in texts for option in action.option_strings}

    def _missing(self, text: str) -> str | None:
        """Name the missing arguments of a parser's message as one writes them, or return None."""
        found = re.search(r"the following arguments are required: ([\w, ]+)$", text)
        if not found:
            return None
        options = {action.dest: action.option_strings for action in self._actions}
        names = [" ".join([*options[name][-1:], name.upper()]) for name in found[1].split(", ")]
        verb = "is" if len(names) == 1 else "are"
        return f"{' and '.join(names)} {verb} missing; `{self.prog} --help` tells what belongs there"

    def _reads(self, config: str) -> bool:
        """Return whether the config file itself is valid; if not, an error is attributed to it."""
        try:
            super().parse_path(config, defaults=False)
        except jsonargparse.ArgumentError:
            return False
        return True

    def _with_flags_set(self, words: list[str]) -> list[str]:
        """Insert `true` after each boolean setting without a value."""
        defaults = self.get_defaults(skip_validation=True)
        done: list[str] = []
        for word, following in zip(words, [*words, "--"][1:], strict=True):
            done.append(word)
            is_setting = word.startswith("--") and isinstance(defaults.get(word[2:]), bool) and word[2:] not in FLAGS
            if is_setting and following.lower() not in ("true", "false"):
                done.append("true")
        return done


def option_value(option: str, words: Sequence[str]) -> str | None:
    """Return the word after an option, or after its equals sign."""
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def option_name(word: str) -> str:
    """Return the name of an option as `option_value` knows it, without a value after an equals sign."""
    return _with_underscores(word).partition("=")[0]


def _with_underscores(word: str) -> str:
    """Write the hyphens in the name of an option as underscores."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def path_word(path: Path | str) -> str:
    """Return a path as a word of a shell, for command lines that are printed."""
    return shlex.quote(str(path))


def run(command: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run one command on its arguments and return its exit status.

    Returns:
        0 on success, 2 for an error that the user can fix (one line on stderr), 1 if interrupted. Every other error is
        a bug and raises.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Idle OpenMP threads sleep instead of spinning: on a shared machine, or next to a thread that reads ahead, spinning
    # takes cores from those that work. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command(arguments)
        sys.stdout.flush()  # here, where an error is caught
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError, MemoryError, RuntimeError, ImportError) as error:
        message = explain(error)
        if message is None:
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        sys.stderr.write(f"error: {message}\n")  # one write: several ranks may print at once
        return 2
    except KeyboardInterrupt as stopped:
        print(stopped if isinstance(stopped, Stopped) else "stopped", file=sys.stderr)
        return 1
    return 0


class Stopped(KeyboardInterrupt):
    """A command was stopped by a signal, and has saved what it did; with a line that says so."""


def join_numbers(arguments: list[str], texts: Collection[str] = ()) -> list[str]:
    """Turn `--size 64 64 64` into `--size [64,64,64]`: several numbers after an option that is not of ``texts``."""
    joined: list[str] = []
    numbers: list[str] = []
    for word in [*arguments, "--"]:
        if _NUMBER.match(word):
            numbers.append(word)
            continue
        option = joined[-1] if joined else ""
        is_list = len(numbers) > 1 and option.startswith("--") and "=" not in option and option not in texts
        joined += [f"[{','.join(numbers)}]"] if is_list else numbers
        numbers = []
        joined.append(word)
    return joined[:-1]


def parse_bytes(option: str, text: str) -> int:
    """Parse an amount of memory such as 2GB, 500MB (powers of 1000) or 1.5GiB (powers of 1024).

    Raises:
        InputError: If the text is not an amount of memory.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([kmgt])(i?)b", text.lower())
    amount = float(found[1]) * (1024 if found[3] else 1000) ** (" kmgt".index(found[2])) if found else 0
    if not amount:
        raise InputError(f"{option} {text}: expected an amount of memory such as 2GB, 500MB or 1.5GiB")
    return int(amount)


def explain(error: BaseException) -> str | None:
    """Return one line for an error that the user can fix, None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    text = str(error)
    if is_out_of_memory(error):
        first = text.splitlines()[0] if text else "the machine has too little memory"
        return f"out of memory ({first}): {LESS_MEMORY}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full{_where(error)}: free some space and run the same command again"
    if isinstance(error, OSError) and error.errno is not None:
        remedy = REMEDIES.get(error.errno)
        return f"{os.strerror(error.errno)}{_where(error)}" + (f": {remedy}" if remedy else "")
    return None


def parse_seeds(text: str) -> list[int]:
    """Parse seeds such as ``0-99,200``.

    Raises:
        InputError: If the text has another form.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text, re.ASCII):
        raise InputError(f"--seeds {text}: expected numbers and ranges such as 0-99,200")
    if max(map(int, re.findall(r"\d+", text))) > MAX_SEED:
        raise InputError(f"--seeds {text}: must be at most {MAX_SEED}")
    ends = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in text.split(","))]
    if sum(max(0, last - first + 1) for first, last in ends) > MOST_SEEDS:
        raise InputError(f"--seeds {text}: are more than {MOST_SEEDS}; generate them by several commands")
    seeds = [seed for first, last in ends for seed in range(first, last + 1)]
    if any(last < first for first, last in ends) or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text}: ranges must ascend, and no seed may occur twice")
    return seeds


def _where(error: OSError) -> str:
    return f": {os.fsdecode(error.filename)}" if error.filename else ""


def parser_message(text: str, known: Sequence[str]) -> str:
    """Turn the message of a parser into one readable line.

    Args:
        text: The message.
        known: Names of all settings, for suggestions.
    """
    text = re.sub(r"\s+", " ", text).strip()
    if found := re.fullmatch(r'Parser key "(.+?)": Problem with given class_path \'\S+\': (.*)', text):
        return f"{found[1]}: {parser_message(found[2], known)}"
    if found := re.fullmatch(
        r'Parser key "(.+?)": Not a valid subclass of \w+. Got value: (.*?) Subclass types .*', text
    ):
        return f"{found[1]} {found[2]}: must be settings by name, such as {{intensity: window}}"
    if found := re.fullmatch(r'Parser key "(.+?)": Expected a (.+)\. Got value: (.*)', text):
        return f"{found[1]} {found[3]}: must be {_kind(found[2])}"
    if found := re.fullmatch(r'Parser key "(.+?)": .*Subtypes: \[(.*?)\] Errors:.* Given value: (.*)', text):
        kinds = [_kind(kind) for kind in re.findall(r"<class '\w+'>|typing\.Literal\[.*?\]|tuple\[.*?\]", found[2])]
        return f"{found[1]} {found[3]}: must be {' or '.join(kinds) or 'another value'}"
    if found := re.search(r"unrecognized arguments: --(\S+)|[Oo]ption '(\S+)'", text):
        name = found[1] or found[2]
        if found[1] in known:
            return f"--{found[1]}: no option; write its value alone"
        own = {key: key for key in known if "." not in key}  # of the command itself, before those of its sections
        names = {key.rpartition(".")[2]: key for key in known} | {key: key for key in known}
        near = difflib.get_close_matches(name, own, 1) or difflib.get_close_matches(name, names, 1)
        return f"{text}; did you mean {'--' if found[1] else ''}{names[near[0]]}?" if near else text
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        return f"{text}; a value stands after its option (--OPTION {found[1]}): `--help` tells which there are"
    return re.sub(r'Parser key "(.+?)":', r"\1:", text)


def unknown_setting(message: str) -> str | None:
    """Return the name of the setting that a parser's message calls unknown."""
    match = re.search(
        r"unrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)'|[Kk]ey '([\w.]+)' is not expected", message
    )
    return next((name for name in match.groups() if name), None) if match else None


def _kind(name: str) -> str:
    """Describe a Python type in plain words."""
    if name.startswith("typing.Literal["):
        return "one of " + ", ".join(re.findall(r"'(.*?)'", name))
    word = name.partition("[")[0].removeprefix("<class '").removesuffix("'>")
    return _KINDS.get(word, word)
