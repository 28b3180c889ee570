"""Small settings of every registered method; a method without an entry is tested with its defaults, made narrow."""

from dataclasses import fields
from typing import Any, get_args, get_type_hints

from hagan3d.config import Config, DegradeConfig
from hagan3d.config.methods import config_class, method_names
from tests.helpers import make_config

TRANSLATION = tuple(name for name in method_names() if config_class(name).translates)
NARROW = {"width": 4, "levels": 2, "critic_width": 4, "critic_layers": 1, "latent_dim": 8, "objective": "lsgan"}
"""Settings that several methods share, for those that have them."""
SMALL: dict[str, dict[str, Any]] = {
    "hagan": {
        "channels": 64,
        "d_channels": 64,
        "subvolume_depth": 8,
        "autoencode": 1.0,
        "prior": "encoded",
        "r1_weight": 1.0,
        "batch_size": 4,
    },
    "upgan": {"stages": 2, "stage_steps": 2},
    "medgan": {"blocks": 2},
    "restore": {
        "objective": "wgan-gp",
        "generator": "skips",
        "depth": 4,
        "critic_steps": 2,
        "nmse_weight": 1.0,
        "frequency_weight": 0.1,
        "perceptual_weight": 0.1,
        "slice_tv_weight": 0.01,
    },
    "cyclegan": {"blocks": 1, "pool": 3},
    "unit": {"blocks": 1, "attention": True, "spectral_norm": True, "charbonnier": True},
    "segan": {"critic_layers": 2},
    "registration": {"source_channels": 2, "objective": "wgan-gp", "transform": "affine", "spacing": (2.0, 2.0, 2.0)},
}


def small_config(method: str, **settings: Any) -> Config:
    """Return a config of a method with narrow networks, for volumes of 32^3; ``settings`` as in `make_config`."""
    kind = config_class(method)
    names = {f.name for f in fields(kind)}
    narrow = {key: value for key, value in NARROW.items() if key in names and _takes(kind, key, value)}
    narrow |= {kind.width_setting: 64} if not kind.translates and kind.width_setting in names else {}
    train = {"steps": 6, "batch_size": 2, "device": "cpu", "betas": (0.5, 0.999)}
    log = {"every": 1, "preview_every": 0, "keep_last": 1}
    degrade = {"degrade": DegradeConfig(kind=degradation(method))} if kind.translates else {}
    return make_config(method, **(degrade | train | narrow | SMALL.get(method, {}) | settings), log=log)


def degradation(method: str) -> Any:
    """Return a simulated acquisition that a translation method trains on."""
    kinds = config_class(method).degradations
    return "noise" if kinds is None else kinds[0]


def _takes(kind: type, key: str, value: Any) -> bool:
    """Return whether a setting may have a value, where it is one of a few words."""
    return not isinstance(value, str) or value in get_args(get_type_hints(kind)[key])
