"""SHA-256 of weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from hagan3d.checkpoint.files import Model


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of a state dict, on any device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def generator_hash(model: Model) -> str:
    """SHA-256 of the weights of the networks that generate."""
    names = model.networks.generators
    if len(names) == 1:
        return state_hash(model.networks[names[0]].state_dict())
    return state_hash({f"{name}.{key}": x for name in names for key, x in model.networks[name].state_dict().items()})
