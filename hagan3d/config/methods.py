"""The methods by name: every folder of ``hagan3d/methods`` is one, so that no list of names is kept anywhere."""

import difflib
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from hagan3d.config.method import MethodConfig
from hagan3d.errors import InputError

FOLDER = Path(__file__).parents[1] / "methods"
Base = TypeVar("Base")


@cache
def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.ispkg))


def method_module(name: str, part: str) -> ModuleType:
    """Import ``config``, ``networks`` or ``losses`` of a method.

    Raises:
        InputError: If there is no such method; the message names those there are.
    """
    if name not in method_names():
        near = difflib.get_close_matches(str(name), method_names(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"method {name!r}: unknown; {hint}known methods: {', '.join(method_names())}")
    return importlib.import_module(f"hagan3d.methods.{name}.{part}")


def defined_class(module: ModuleType, base: type[Base]) -> type[Base]:
    """Return the one subclass of ``base`` that a module defines."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"{module.__name__}: must define one {base.__name__}, defines {len(classes)}"
    return classes[0]


def config_class(name: str) -> type[MethodConfig]:
    """Return the class of a method's settings.

    Raises:
        InputError: If there is no such method.
    """
    return defined_class(method_module(name, "config"), MethodConfig)


def summary(name: str) -> str:
    """Return the one-line description of a method."""
    return next(iter((importlib.import_module(f"hagan3d.methods.{name}").__doc__ or "").strip().splitlines()), "")
