"""The table of methods: it is what the code says, and it says what the code does."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import yaml

from hagan3d.config import RECIPES
from hagan3d.config.serialization import from_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def components():
    spec = importlib.util.spec_from_file_location("components", ROOT / "benchmarks" / "components.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says_now(components):
    page = components.PAGE.read_text(encoding="utf-8")
    assert page == components.page(), "run `python benchmarks/components.py --write`"
    assert all(f"| {recipe} |" in page for recipe in RECIPES if recipe != "hagan")


def test_a_weight_is_found_at_the_term_it_multiplies(components):
    config = from_dict(yaml.safe_load((ROOT / "configs" / "dagan_32.yaml").read_text(encoding="utf-8")))
    restore = dataclasses.replace(config.translation.restore, frequency_weight=0.25, nmse_weight=0.0, l2_weight=4.0)
    changed = dataclasses.replace(config, translation=dataclasses.replace(config.translation, restore=restore))
    assert components.terms(changed) == ["gan 1", "l2 4", "frequency 0.25", "perceptual 0.0025"]
