"""SHA-256 of the weights that generate."""

from hagan3d.checkpoint.files import Model
from hagan3d.networks.state_hash import state_hash


def generator_hash(model: Model) -> str:
    """SHA-256 of the weights of the networks that generate."""
    names = model.networks.generators
    if len(names) == 1:
        return state_hash(model.networks[names[0]].state_dict())
    return state_hash({f"{name}.{key}": x for name in names for key, x in model.networks[name].state_dict().items()})
