"""A method's name stands in its own folder, in configs, tests and documents alone: code elsewhere knows no method."""

import re
from pathlib import Path

import pytest

from hagan3d.config.methods import method_names

ROOT = Path(__file__).parents[1]
WORDS = ("registration", "restore", "unit")
"""Names that are words of prose too: of these only sections, imports and quoted names count."""
EXEMPT = {
    ("benchmarks/ablation.py", "hagan"): "varies the settings of HA-GAN",
    ("benchmarks/faults.py", "hagan"): "trains a conditional run",
    ("benchmarks/faults.py", "wgan_gp"): "makes its networks small",
    ("benchmarks/gpu.py", "hagan"): "makes the default config small with --tiny",
    ("benchmarks/speed.py", "hagan"): "compares HA-GAN with its published implementation",
    ("benchmarks/winograd.py", "hagan"): "says whose sub-volumes it draws",
    ("examples/augmentation_study.py", "hagan"): "makes the default config conditional",
    ("examples/feature_regression.py", "hagan"): "makes the default config small with --quick",
    ("examples/study.py", "hagan"): "makes the default config small with --quick",
    ("hagan3d/evaluation/exploration/results.py", "unit"): "the physical unit of an attribute, a key of its report",
    ("hagan3d/explore.py", "unit"): "the same key",
}


def files():
    """Return the source files of the package, of benchmarks and examples, and of the operators."""
    paths = [path for folder in ("hagan3d", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    return sorted([*paths, *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())])


def pattern(name):
    """Return what counts as a method's name in a line."""
    if name not in WORDS:
        return re.compile(rf"\b{name}\b")
    section = rf"(?<![\w.]){name}\.[a-z_]"  # registration.spacing, but neither x.unit nor "a unit."
    return re.compile(rf"{section}|methods[./]{name}\b|[\"'`]{name}[\"'`]|--(method )?{name}\b")


@pytest.mark.parametrize("name", method_names())
def test_no_method_is_named_outside_its_folder(name):
    found = []
    for path in files():
        place = path.relative_to(ROOT)
        if place.is_relative_to(f"hagan3d/methods/{name}") or (place.as_posix(), name) in EXEMPT:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            f"{place}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern(name).search(line)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_named"),
    [
        ('if config.name == "unit":', True),
        ("unit.blocks: must be at least 1", True),
        ("--registration.spacing 2 2 2", True),
        ("from hagan3d.methods.restore.networks import RestoreNetworks", True),
        ("train with --method unit", True),
        ("of zero mean and unit deviation", False),
        ("caption(measure.unit)", False),
        ("Close the files and restore the terminal.", False),
    ],
)
def test_words_of_prose_are_told_from_names(line, is_named):
    assert any(pattern(name).search(line) for name in WORDS) == is_named
