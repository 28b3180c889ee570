"""The recipe that a config names."""

from collections.abc import Callable

from hagan3d.config import Config
from hagan3d.methods.cyclegan import losses as cyclegan
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.hierarchical import anchored
from hagan3d.methods.medgan import losses as medgan
from hagan3d.methods.phase import Recipe
from hagan3d.methods.pix2pix import losses as pix2pix
from hagan3d.methods.registration import losses as registration
from hagan3d.methods.restore import losses as restore
from hagan3d.methods.segan import losses as segan
from hagan3d.methods.unit import losses as unit
from hagan3d.methods.upgan import losses as upgan

_RECIPES: dict[str, Callable[[Config], Recipe]] = {
    "hagan": lambda config: hagan.recipe(config.train),
    "upgan": upgan.recipe,
    "pix2pix": pix2pix.recipe,
    "medgan": medgan.recipe,
    "cyclegan": cyclegan.recipe,
    "restore": restore.recipe,
    "unit": unit.recipe,
    "segan": segan.recipe,
    "registration": registration.recipe,
}


def make_recipe(config: Config) -> Recipe:
    """Return the training method that ``config.recipe`` names, on windows beside an anchor if they have one."""
    made = _RECIPES[config.recipe](config)
    return anchored(config, made) if config.data.window == "hierarchical" else made
