"""Docstrings, comments, help and error texts use the field's words: docs/glossary.md lists them."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = re.compile(
    r"\b(ma[dk]e again|(?<!there )(?:is|are) (?-i:none)\b(?= *[,.;:]|$)|has no say|what is left|taken for real|spoil\w*"
    r"|judges?|judged|beside|asked for|whom|shall|the like|told apart|said|wanted|recipes?)\b",
    re.IGNORECASE,
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and texts: comments and strings of Python, comments of C++."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for number, line in enumerate(source.splitlines(), 1):
            if "//" in line:
                yield number, line.split("//", 1)[1]
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line


def private_words(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return [f"{name}:{line}: {match[0].lower()!r}" for line, text in texts(path) for match in WORDS.finditer(text)]


def test_texts_use_the_words_of_the_field():
    suffixes = (".py", ".h", ".cpp", ".cu")
    files = [p for folder in ("hagan3d", "csrc") for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    assert files
    assert not [line for path in sorted(files) for line in private_words(path)]


@pytest.mark.parametrize(("name", "text"), [("a.py", '"""One.\n\nPut beside it.\n"""\n'), ("a.cu", "\n\n// beside\n")])
def test_a_private_word_is_reported_with_its_line(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert private_words(tmp_path / name) == [f"{name}:3: 'beside'"]
