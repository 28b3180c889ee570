"""The recipe that a config names."""

from collections.abc import Callable

from hagan3d.config import Config
from hagan3d.recipes import cyclegan, hagan, medgan, pix2pix, registration, restore, segan, unit, upgan
from hagan3d.recipes.anchor import anchored
from hagan3d.recipes.phase import Recipe

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
