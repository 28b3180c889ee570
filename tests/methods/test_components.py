"""The table of the components of methods is what the code says, and says what the code does."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from hagan3d.config.methods import method_names
from hagan3d.run_settings import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def components():
    spec = importlib.util.spec_from_file_location("components", ROOT / "benchmarks" / "components.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_page_agrees_with_the_code(components):
    page = components.PAGE.read_text(encoding="utf-8")
    assert page == components.page(), "run `python benchmarks/components.py --write`"
    assert all(f"| {method} |" in page for method in method_names())


def test_a_term_has_the_weight_of_the_settings(components):
    config = load_config("dagan_32")
    method = dataclasses.replace(config.method, frequency_weight=0.25, nmse_weight=0.0, l2_weight=4.0)
    terms = components.terms(dataclasses.replace(config, method=method))
    assert terms == ["gan 1", "l2 4", "frequency 0.25", "perceptual 10% of the gradient"]
