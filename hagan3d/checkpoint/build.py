"""The networks that a config asks for."""

from collections.abc import Callable
from dataclasses import replace

from hagan3d.config import Config, Size, TranslationConfig
from hagan3d.methods.cyclegan.networks import CycleNetworks
from hagan3d.methods.hagan.networks import Networks
from hagan3d.methods.medgan.networks import MedganNetworks
from hagan3d.methods.pix2pix.networks import PairNetworks
from hagan3d.methods.registration.networks import RegistrationNetworks
from hagan3d.methods.restore.networks import RestoreNetworks
from hagan3d.methods.segan.networks import SeganNetworks
from hagan3d.methods.unit.networks import UnitNetworks
from hagan3d.methods.upgan.networks import CascadeNetworks
from hagan3d.networks.hierarchical import Anchor
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.translation import TranslationNetworks

TRANSLATION: dict[str, Callable[[Size, TranslationConfig], TranslationNetworks]] = {
    "upgan": CascadeNetworks,
    "pix2pix": PairNetworks,
    "medgan": MedganNetworks,
    "cyclegan": CycleNetworks,
    "restore": RestoreNetworks,
    "unit": UnitNetworks,
    "segan": SeganNetworks,
    "registration": RegistrationNetworks,
}


def make_networks(config: Config, num_classes: int = 0) -> NetworkSet:
    """Build the networks of the recipe of ``config``; ``num_classes`` is that of a conditional model."""
    if not config.translates:
        return Networks(config.data.size, config.data.depth, config.model, num_classes)
    return make_translation_networks(config)


def make_translation_networks(config: Config) -> TranslationNetworks:
    """Build the networks of a translation recipe, for what they learn on: whole volumes or windows."""
    data, model = config.data, config.translation
    networks = TRANSLATION[config.recipe](data.seen_size, replace(model, source_channels=config.seen_sources))
    if data.window == "hierarchical":
        networks.learn_beside(Anchor(data.low_size, data.factor, model))
    return networks
