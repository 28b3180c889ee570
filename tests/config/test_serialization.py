"""Configs as plain values and back: nothing is lost, and an invalid value is refused in one line."""

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
import yaml

from hagan3d.config import DegradeConfig, LogConfig, TrainConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.config.serialization import differences, from_dict, to_dict
from hagan3d.errors import InputError
from tests.helpers import make_config


def default_config(name):
    """Config of a method with its defaults; of registration with pairs to register, which has no default."""
    if name == "registration":
        return make_config(name, source_channels=2, degrade=DegradeConfig(kind="misalign"))
    return make_config(name)


def refusal(values):
    """The error of a config."""
    with pytest.raises(InputError) as error:
        from_dict(values)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", method_names())
def test_the_default_config_of_every_method_survives_a_yaml_file(name):
    config = default_config(name)
    values = to_dict(config)
    assert list(values) == ["method", name, "data", "train", "log"]
    assert from_dict(yaml.safe_load(yaml.safe_dump(values, sort_keys=False))) == config


def test_other_than_default_values_survive_too():
    config = make_config(
        "upgan",
        stages=2,
        critic_layers=2,
        parts=(0.5, 0.25, 0.25),
        window="hierarchical",
        subvolume_depth=16,
        size=(64, 32, 32),
        lr_decay=(0.5, 1.0),
        data={"store": "a.h5"},
    )
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert from_dict(to_dict(config)) != default_config("upgan")


@pytest.mark.parametrize("name", method_names())
def test_missing_sections_and_settings_have_their_defaults(name):
    least = {"method": name}
    if name == "registration":
        least |= {"registration": {"source_channels": 2}, "data": {"degrade": {"kind": "misalign"}}}
    assert from_dict(least) == default_config(name)
    assert from_dict({**least, "train": {"steps": 7}}).train == TrainConfig(steps=7)


@pytest.mark.parametrize("name", method_names())
def test_a_value_of_a_wrong_type_is_refused_in_one_line(name):
    kinds = {name: config_class(name), "data": config_class(name).data_config, "train": TrainConfig, "log": LogConfig}
    for section, kind in kinds.items():
        types = get_type_hints(kind)
        for setting in (f.name for f in fields(kind)):
            message = refusal({**to_dict(default_config(name)), section: {setting: [[1]]}})
            expected = types[setting].__name__ if is_dataclass(types[setting]) else f"{section}.{setting} [[1]]"
            assert message.startswith(f"{expected}: must be ")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("latent_dim", "many", "hagan.latent_dim 'many': must be a whole number"),
        ("latent_dim", 1.5, "hagan.latent_dim 1.5: must be a whole number"),
        ("latent_dim", True, "hagan.latent_dim True: must be a whole number"),
        ("latent_dim", None, "hagan.latent_dim None: must be a whole number"),
        ("features", "x", "hagan.features 'x': must be a whole number or null"),
        ("r1_weight", "1", "hagan.r1_weight '1': must be a number"),
        ("encoder", 1, "hagan.encoder 1: must be true or false"),
        ("norm", "batch", "hagan.norm 'batch': must be one of rms, group"),
        ("diffaug", 0.5, "DiffAugConfig: must be settings by name, got 0.5"),
        ("latent_dim", 0, "hagan.latent_dim: must be at least 1, got 0"),
    ],
)
def test_the_error_names_the_setting_its_value_and_the_type(setting, value, message):
    assert refusal({"method": "hagan", "hagan": {setting: value}}) == message


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    config = from_dict({"method": "hagan", "hagan": {"r1_weight": 1}, "train": {"betas": [0, 0.9]}})
    assert config == make_config("hagan", r1_weight=1.0, betas=(0.0, 0.9))
    assert refusal({"method": "hagan", "data": {"size": [32, 32]}}).endswith("must be 3 numbers")
    assert refusal({"method": "hagan", "data": {"size": [32, 32, 32.5]}}).startswith(
        "data.size [32, 32, 32.5]: must be"
    )


def test_an_unknown_setting_is_named_with_those_of_its_section():
    message = refusal({"method": "hagan", "train": {"step": 3}})
    assert message.startswith("unknown setting 'step' in TrainConfig; known: accumulate, ") and ", steps" in message
    assert "unknown setting 'flip' in AugmentConfig" in refusal({"method": "hagan", "data": {"augment": {"flip": 1}}})
    assert refusal({"method": "hagan", "model": {}}) == "unknown section 'model' of method hagan"
    assert refusal({"method": "hagan", "upgan": {}}) == "unknown section 'upgan' of method hagan"
    assert "subvolume_depth" in refusal({"method": "pix2pix", "data": {"subvolume_depth": 8}})


def test_an_unknown_method_names_the_known_ones():
    message = refusal({"method": "hagann"})
    assert message == f"method 'hagann': unknown; did you mean hagan? known methods: {', '.join(method_names())}"
    assert all(name in refusal({"method": "qqq"}) for name in method_names()) and "mean" not in refusal(
        {"method": "qqq"}
    )
    for values in ({}, {"data": {}}, [1], None):
        assert "names no method" in refusal(values)


def test_differences_are_named_by_section_and_setting():
    one, other = make_config("hagan"), make_config("hagan", lr_e=0.01, steps=5, size=(32, 32, 64))
    assert differences(one, other) == {
        "hagan.lr_e": (1e-4, 0.01),
        "data.size": ([32, 32, 32], [32, 32, 64]),
        "train.steps": (80_000, 5),
    }
    assert differences(one, one) == {}
    assert differences(one, make_config("pix2pix"))["method"] == ("hagan", "pix2pix")
    assert differences(one, make_config("pix2pix"))["hagan.lr_e"] == (1e-4, None)
