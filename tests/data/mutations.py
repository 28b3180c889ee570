"""Seeded mutations of bytes, texts and nested values."""

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator

EXTREME_NUMBERS = (0, 1, -1, 2, 127, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
EXTREME_FLOATS = (0.0, -0.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, 1e308, float("inf"), float("-inf"), float("nan"))
EXTREME_WORDS = (
    "",
    "0",
    "-1",
    "3",
    "1e309",
    "nan",
    "inf",
    "-inf",
    "99999999999999999999",
    "2147483648",
    "0.0000001",
    "1,5",
    "true",
    "null",
    "../../x",
    "/",
    "/dev/zero",
    "%d",
    "\x00",
    "\x1b[2J",
    "\u00e4\u4e16",
    "a" * 5000,
    "[" * 300,
    "!!python/object/apply:os.system [true]",
    "&a [*a, *a]",
)
EXTREME_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    2**40,
    1.5,
    1e308,
    float("nan"),
    "",
    "x",
    [],
    [1],
    {},
    {"a": 1},
)
WORD = re.compile(rb"[^\s,:=\\()\[\]{}\"']+")


def mutate_bytes(data: bytes, random: Random, header: int) -> bytes:
    """Apply one to three mutations, half of them within the first ``header`` bytes."""
    for _ in range(int(random.integers(1, 4))):
        if not data:
            return data
        limit = min(len(data), header) if random.random() < 0.5 else len(data)
        data = BYTE_MUTATIONS[int(random.integers(len(BYTE_MUTATIONS)))](data, random, int(random.integers(limit)))
    return data


def mutate_text(data: bytes, random: Random) -> bytes:
    """Replace, swap, repeat or remove words or lines, one to three times."""
    for _ in range(int(random.integers(1, 4))):
        data = TEXT_MUTATIONS[int(random.integers(len(TEXT_MUTATIONS)))](data, random)
    return data


def replace_value(tree: Any, random: Random) -> Any:
    """Return a copy of nested dicts and lists in which one value is an extreme one, or one key is missing or new."""
    is_leaf = not isinstance(tree, dict | list | tuple) or not len(tree)
    if is_leaf or random.random() < 0.1:
        return EXTREME_VALUES[int(random.integers(len(EXTREME_VALUES)))]
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = keys[int(random.integers(len(keys)))]
    copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
    change = random.random()
    if change < 0.1:
        del copy[key]
    elif change < 0.2 and isinstance(copy, dict):
        copy["unknown"] = copy[key]
    elif change < 0.2:
        copy.append(copy[key])
    else:
        copy[key] = replace_value(copy[key], random)
    return tuple(copy) if isinstance(tree, tuple) else copy


def _flip(data: bytes, random: Random, place: int) -> bytes:
    """Flip a bit."""
    return data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :]


def _byte(data: bytes, random: Random, place: int) -> bytes:
    """Replace a byte."""
    return data[:place] + bytes([int(random.integers(256))]) + data[place + 1 :]


def _cut(data: bytes, random: Random, place: int) -> bytes:
    """Drop everything from a place on."""
    return data[:place]


def _double(data: bytes, random: Random, place: int) -> bytes:
    """Repeat a block."""
    end = place + int(random.integers(1, 600))
    return data[:end] + data[place:end] + data[end:]


def _drop(data: bytes, random: Random, place: int) -> bytes:
    """Drop a block."""
    return data[:place] + data[place + int(random.integers(1, 600)) :]


def _blank(data: bytes, random: Random, place: int) -> bytes:
    """Overwrite a block with zeros or ones."""
    end = min(len(data), place + int(random.integers(1, 600)))
    return data[:place] + (b"\0", b"\xff")[int(random.integers(2))] * (end - place) + data[end:]


def _swap(data: bytes, random: Random, place: int) -> bytes:
    """Swap two blocks of equal size."""
    size = int(random.choice((1, 2, 4, 8, 64)))
    other = int(random.integers(len(data)))
    first, second = sorted((place, other))
    if second + size > len(data) or first + size > second:
        return data
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def _number(data: bytes, random: Random, place: int) -> bytes:
    """Overwrite an aligned field with an extreme number."""
    size = int(random.choice((1, 2, 4, 8)))
    place -= place % size
    order = "<>"[int(random.integers(2))]
    if size >= 4 and random.random() < 0.3:
        value = np.float64(EXTREME_FLOATS[int(random.integers(len(EXTREME_FLOATS)))])
        with np.errstate(over="ignore"):
            field = value.astype(f"{order}f{size}").tobytes()
    else:
        number = EXTREME_NUMBERS[int(random.integers(len(EXTREME_NUMBERS)))] % 2 ** (8 * size)
        field = struct.pack(f"{order}Q", number)
        field = field[:size] if order == "<" else field[-size:]
    return data[:place] + field + data[place + size :]


def _field(data: bytes, random: Random, place: int) -> bytes:
    """Overwrite a block with a word, without a change of size."""
    word = EXTREME_WORDS[int(random.integers(len(EXTREME_WORDS)))].encode()[:64]
    return data[:place] + word + data[place + len(word) :]


def _word(data: bytes, random: Random) -> bytes:
    words = list(WORD.finditer(data))
    if not words:
        return data
    chosen = words[int(random.integers(len(words)))]
    word = EXTREME_WORDS[int(random.integers(len(EXTREME_WORDS)))].encode()
    return data[: chosen.start()] + word + data[chosen.end() :]


def _other_word(data: bytes, random: Random) -> bytes:
    words = list(WORD.finditer(data))
    if not words:
        return data
    chosen, other = (words[int(random.integers(len(words)))] for _ in range(2))
    return data[: chosen.start()] + other[0] + data[chosen.end() :]


def _line(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    place, other = (int(random.integers(len(lines))) for _ in range(2))
    change = int(random.integers(3))
    if change == 0:
        lines[place], lines[other] = lines[other], lines[place]
    elif change == 1:
        lines.insert(place, lines[other])
    else:
        del lines[place]
    return b"\n".join(lines)


BYTE_MUTATIONS: tuple[Callable[[bytes, Random, int], bytes], ...] = (
    _flip,
    _flip,
    _byte,
    _cut,
    _double,
    _drop,
    _blank,
    _swap,
    _number,
    _number,
    _number,
    _field,
)
TEXT_MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (_word, _word, _word, _other_word, _line)
