"""Every shipped config is valid: loaded from its file, parsed by the command line, and its networks can be built."""

from pathlib import Path

import pytest
import torch
import yaml

from hagan3d.config import Config
from hagan3d.config.methods import method_names
from hagan3d.config.serialization import to_dict
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.run_settings import config_path, load_config, parse_run

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """Return the path of a shipped config."""
    return request.param


def parsed(*words: str) -> Config:
    return parse_run("train", "", (), words, lambda parser: None)[0]


@pytest.mark.slow
def test_the_command_line_and_the_library_read_the_same(path):
    config = load_config(path)
    assert config == load_config(path.stem) == parsed("--config", str(path)) == parsed("--config", path.stem)
    assert config_path(path.stem).samefile(path)


def test_every_setting_of_the_file_is_in_the_config(path):
    def assert_contains(values, given):
        for key, value in given.items():
            if isinstance(value, dict):
                assert_contains(values[key], value)
            else:
                assert values[key] == value, key

    assert_contains(to_dict(load_config(path)), yaml.safe_load(path.read_text(encoding="utf-8")))


def test_its_networks_and_phases_can_be_built(path):
    config = load_config(path)
    with torch.device("meta"):
        networks = make_networks(config, 3 if config.conditional else 0)
    assert {name for phase in make_method(config).training_phases() for name in phase.updates} <= set(networks.names())
    assert all(parameter.is_meta for parameter in networks.parameters())


@pytest.mark.parametrize(
    ("name", "network", "millions"),
    [
        ("pix2pix_256_slices", "g", 54.41),  # the U-Net of Isola et al. 2017, without batch norm's second bias
        ("pix2pix_256_slices", "d", 2.76),
        ("medgan_256_slices", "g", 6 * 54.41),
        ("cyclegan_256_slices", "g_target", 11.38),  # the ResNet of 9 blocks of Zhu et al. 2017
        ("cyclegan_256_slices", "d_target", 2.76),
    ],
)
def test_published_networks_have_the_published_number_of_weights(name, network, millions):
    with torch.device("meta"):
        networks = make_networks(load_config(name))
    found = sum(parameter.numel() for parameter in networks[network].parameters()) / 1e6
    assert found == pytest.approx(millions, rel=2e-3)


def test_every_method_has_a_config():
    assert {load_config(path).name for path in CONFIGS} == set(method_names())


def test_the_low_resolution_factor_grows_with_the_side():
    factors = {path.stem: load_config(path).data.factor for path in CONFIGS}
    assert factors["hagan_256"] == 4 and factors["hagan_512"] == 8


def test_all_settings_are_printed(capsys, tmp_path):
    with pytest.raises(SystemExit) as done:
        parsed("--config", "hagan_32", "--print_config")
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "subvolume_depth" in shown and "checkpoint_minutes" in shown
    (tmp_path / "mine.yaml").write_text(shown)
    expected = parsed("--config", "hagan_32")
    assert load_config(tmp_path / "mine.yaml") == expected == parsed("--config", str(tmp_path / "mine.yaml"))
