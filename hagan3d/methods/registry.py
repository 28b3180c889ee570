"""The registry of methods: a folder of ``hagan3d/methods`` is a method, found by its name.

``config.py`` defines its `MethodConfig`, ``networks.py`` its `NetworkSet`, ``losses.py`` its `Method`. They are
imported separately: settings must not need torch, nor inference training code.
"""

from typing import TYPE_CHECKING, cast

from hagan3d.config import Config, is_slice
from hagan3d.config.methods import config_class, defined_class, method_module, method_names
from hagan3d.errors import InputError
from hagan3d.networks.flat_layers import flat_layers
from hagan3d.networks.generative import GenerativeNetworks
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.translation import TranslationNetworks

if TYPE_CHECKING:  # inference needs no training code
    from hagan3d.methods.base import Method

__all__ = [
    "config_class",
    "make_generative_networks",
    "make_method",
    "make_networks",
    "make_translation_networks",
    "method_names",
    "networks_class",
]


def networks_class(name: str) -> type[NetworkSet]:
    """Return the class of a method's networks."""
    return defined_class(method_module(name, "networks"), NetworkSet)  # type: ignore[type-abstract]


def make_networks(config: Config, num_classes: int = 0) -> NetworkSet:
    """Build the networks of a run, flat if it is on slices; ``num_classes`` is that of a conditional model.

    Raises:
        InputError: If their widths are beyond any memory.
    """
    try:
        with flat_layers(is_slice(config.data.size)):
            return networks_class(config.name).from_config(config, num_classes)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise InputError(
            f"the networks of {config.name} would have more than 2^63 weights; use smaller widths"
        ) from error


def make_generative_networks(config: Config, num_classes: int = 0) -> GenerativeNetworks:
    """Build the networks of a run that generates volumes from latents."""
    return cast(GenerativeNetworks, make_networks(config, num_classes))


def make_translation_networks(config: Config) -> TranslationNetworks:
    """Build the networks of a run that translates volumes."""
    return cast(TranslationNetworks, make_networks(config))


def make_method(config: Config) -> "Method":
    """Return the training method of a run."""
    from hagan3d.methods.base import Method

    method = defined_class(method_module(config.name, "losses"), Method)  # type: ignore[type-abstract]
    return method(config)
