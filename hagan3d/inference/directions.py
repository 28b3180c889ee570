"""Directions in which a model of two domains translates: there, back, and there and back again."""

from dataclasses import replace

from hagan3d.checkpoint import TranslationModel
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.networks.translation import ROUTES


def directed(model: TranslationModel, direction: str) -> TranslationModel:
    """Return a model that translates in another direction: its description has the channels of both ends.

    Args:
        model: The model; its networks are shared, and translate in the new direction from now on.
        direction: A key of `ROUTES`.

    Raises:
        InputError: If the model cannot translate in that direction.
    """
    able = model.networks.directions
    if direction not in able:
        raise InputError(
            f"--direction {direction}: method {model.config.name} translates {' or '.join(able)} only; the others need "
            "a method that trains both directions, such as those of unpaired domains"
        )
    model.networks.direction = direction
    return replace(model, description=between(model.description, ROUTES[direction][0], ROUTES[direction][-1]))


def between(description: DataDescription, first: str, last: str) -> DataDescription:
    """Return the description of a translation from the domain ``first`` to ``last``, each ``source`` or ``target``."""
    ends = {"source": description.source_channels or description.channels, "target": description.channels}
    own = description.on_grid_of(first)  # a translation keeps the grid of its source
    return replace(own, channels=ends[last], source_channels=() if first == last else ends[first])
