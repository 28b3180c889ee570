"""Bounds of settings: which values they contain, and the error outside of them."""

import math
from dataclasses import dataclass, fields

import pytest

from hagan3d.config import LogConfig, TrainConfig
from hagan3d.config.bounds import Bounds, Section, bounded, bounds_of
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.errors import InputError
from hagan3d.evaluation.settings import EvaluateConfig, FeatureTrainConfig


@dataclass(frozen=True)
class ExampleConfig(Section):
    """A section with a setting of every kind."""

    PREFIX = "example."

    least: int = bounded(1, at_least=1)
    most: float = bounded(0.0, at_most=1)
    above: float = bounded(1.0, above=0)
    below: float = bounded(0.0, below=1)
    multiple: int = bounded(64, at_least=64, multiple_of=64)
    optional: int | None = bounded(None, at_least=8)
    pair: tuple[float, float] = bounded((0.0, 0.999), at_least=0, below=1)
    free: float = -1.0


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (Bounds(at_least=1), (1, 1.5, 1e9), (0.999, 0, -5), "at least 1"),
        (Bounds(at_most=1), (1, 0, -1e9), (1.001, 2), "at most 1"),
        (Bounds(above=0), (1e-9, 5), (0, -1e-9), "above 0"),
        (Bounds(below=1), (0.999, -5), (1, 1.5), "below 1"),
        (Bounds(multiple_of=8), (0, 8, -16), (4, 9), "a multiple of 8"),
        (Bounds(at_least=0, below=1), (0, 0.5), (-0.1, 1), "at least 0, below 1"),
        (Bounds(64, multiple_of=64), (64, 128), (0, 32, 96), "a multiple of 64, at least 64"),
        (Bounds(above=0, at_most=1), (0.1, 1), (0, 1.1), "above 0, at most 1"),
        (Bounds(at_most=2**63 - 1), (0, 2**63 - 1), (2**63, 10**400), "at most 9223372036854775807"),
        (Bounds(), (0, -1e9), (), ""),
    ],
)
def test_bounds_contain_what_their_text_says(bounds, inside, outside, text):
    assert all(bounds.contains(value) for value in inside)
    assert not any(bounds.contains(value) for value in outside)
    assert not any(bounds.contains(value) for value in (math.nan, math.inf, -math.inf))
    assert str(bounds) == text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("least", 0, "example.least: must be at least 1, got 0"),
        ("least", math.nan, "example.least: must be at least 1, got nan"),
        ("most", 1.5, "example.most: must be at most 1, got 1.5"),
        ("above", 0.0, "example.above: must be above 0, got 0.0"),
        ("below", 1.0, "example.below: must be below 1, got 1.0"),
        ("below", -math.inf, "example.below: must be below 1, got -inf"),
        ("multiple", 96, "example.multiple: must be a multiple of 64, at least 64, got 96"),
        ("optional", 4, "example.optional: must be at least 8, got 4"),
        ("pair", (0.5, 1.0), r"example.pair: must be at least 0, below 1, got \[0.5, 1.0\]"),
        ("pair", (math.nan, 0.5), r"example.pair: must be at least 0, below 1, got \[nan, 0.5\]"),
    ],
)
def test_a_value_outside_of_its_bounds_is_refused(name, value, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        ExampleConfig(**{name: value})


def test_values_within_bounds_none_and_settings_without_bounds_are_accepted():
    assert ExampleConfig() == ExampleConfig(optional=None)
    assert ExampleConfig(optional=8, pair=(0.0, 0.5), multiple=128, free=-1e9).optional == 8
    assert math.isnan(ExampleConfig(free=math.nan).free)


def test_bounds_are_found_by_name_and_the_default_is_that_of_the_field():
    assert bounds_of(ExampleConfig).keys() == {f.name for f in fields(ExampleConfig)} - {"free"}
    assert bounds_of(ExampleConfig)["pair"] == Bounds(at_least=0, below=1)
    assert [f.default for f in fields(ExampleConfig) if f.name == "pair"] == [(0.0, 0.999)]


@pytest.mark.parametrize("name", method_names())
def test_nan_is_refused_by_every_bounded_setting_of_a_method(name):
    for section in (config_class(name), config_class(name).data_config, TrainConfig, LogConfig):
        for setting in bounds_of(section):
            with pytest.raises(InputError, match=f"{section.PREFIX}{setting}: must be "):
                section(**{setting: math.nan})


@pytest.mark.parametrize("section", [TrainConfig, PrepareConfig, EvaluateConfig, FeatureTrainConfig])
def test_seeds_are_integers_of_64_bits(section):
    assert section(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(InputError, match=f"{section.PREFIX}seed: must be at least 0, at most {2**63 - 1}, got {2**63}"):
        section(seed=2**63)
