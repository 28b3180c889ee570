"""Helpers that several test modules share."""

from dataclasses import fields
from typing import Any

import torch

from hagan3d.config import Config, LogConfig, TrainConfig
from hagan3d.config.methods import config_class

CPU = torch.device("cpu")


def make_config(method: str, **settings: Any) -> Config:
    """Make a config from settings without their sections: each goes to the section that has a field of its name.

    ``data``, ``train``, ``log`` may be given as dicts, for names that two sections have.
    """
    kind = config_class(method)
    kinds = {"method": kind, "data": kind.data_config, "train": TrainConfig, "log": LogConfig}
    sections: dict[str, dict[str, Any]] = {name: dict(settings.pop(name, {})) for name in kinds}
    for key, value in settings.items():
        owner = next(name for name in kinds if key in {f.name for f in fields(kinds[name])})
        sections[owner][key] = value
    return Config(**{name: kinds[name](**sections[name]) for name in kinds})


def assert_equal(one: Any, other: Any) -> None:
    """Assert that two nested structures of tensors and plain values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def weights(networks: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a network's state dict."""
    return {key: value.clone() for key, value in networks.state_dict().items()}


def changed_networks(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the networks whose weights differ between two state dicts."""
    return {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
