"""Files as input: all are read before the first is used, so that every bad one is named and nothing is half done."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hagan3d.errors import InputError

Source = TypeVar("Source")
Made = TypeVar("Made")


def all_readable(sources: Sequence[Source], read: Callable[[Source], Made]) -> Iterator[Made]:
    """Read every source to find the bad ones, then give what ``read`` makes of each, one at a time.

    Raises:
        InputError: If some cannot be read: a line for each.
    """
    bad: list[str] = []
    for source in sources:
        try:
            read(source)
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError("\n".join(bad))
    return (read(source) for source in sources)
