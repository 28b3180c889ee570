"""Code blocks of the README and of the documentation, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = "<!-- run -->"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`((?:hagan3d|python -m hagan3d\.\w+|python benchmarks/\w+\.py) [^`]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool
    """Whether it is marked as runnable."""

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command, continued lines joined and comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return the README, CONTRIBUTING and all pages of the documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        yield Block(page, before.count("\n") + 1, found[1], found[2], before.rstrip("\n").endswith(RUN))


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command with options that stands between backticks in the text and is whole."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in _SPAN.finditer(text):
        if "--" in found[1] and "..." not in found[1]:
            yield shlex.split(found[1])


def arguments_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the name and the arguments of the hagan3d command in a command line; None for another command.

    The command may come from a virtual environment, or be started as a module, by torchrun or srun too.
    """
    if words[0] in ("hagan3d", ".venv/bin/hagan3d") and words[1:]:
        return words[1], _before_pipe(words[2:])
    for number, word in enumerate(words):
        rest = words[number + 1 :]
        if word == "-m" and rest and rest[0].startswith("hagan3d."):
            return rest[0].removeprefix("hagan3d."), _before_pipe(rest[1:])
    return None


def _before_pipe(words: list[str]) -> list[str]:
    """Return the arguments before a redirection, a pipe or a second command."""
    ends = [number for number, word in enumerate(words) if word in (">", "|", "&&", ";")]
    return words[: ends[0]] if ends else words


def described(section: str) -> set[str]:
    """Return the names in the first column of the tables of one section of the page on files."""
    text = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    part = next(part for part in re.split(r"^#+ ", text, flags=re.MULTILINE) if part.startswith(f"{section}\n"))
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
