"""Weights of another run as the start of this one (transfer learning): whatever fits by name and shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hagan3d.checkpoint import files
from hagan3d.errors import InputError
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.spectral import iterate_spectral_norms


@dataclass(frozen=True)
class Taken:
    """Tensors of one network that were copied from another run."""

    network: str
    taken: int
    """Tensors with the values of the other run."""
    total: int
    """Tensors of the network."""
    first_left: str = ""
    """The first tensor that keeps its initial values, and why."""

    def __str__(self) -> str:
        """Describe it in a line."""
        left = f"; as initialized: {self.first_left}" if self.first_left else ""
        return f"{self.network}: {self.taken} of {self.total} tensors{left}"


@torch.no_grad()
def take_weights(networks: NetworkSet, path: Path) -> list[Taken]:
    """Copy the weights of a run, averaged ones where it has them, into tensors of the same names and shapes.

    Args:
        networks: The networks of the new run, initialized.
        path: Folder of the other run, or one of its checkpoints.

    Returns:
        A row for each network.

    Raises:
        InputError: If there is no such run, or nothing fits.
    """
    found = files.newest(path) if path.is_dir() else path
    if found is None:
        raise InputError(f"train.weights {path}: no checkpoint in this folder; give the folder of a run")
    checkpoint = files.load(found)
    rows = [
        _copy(name, networks[name], checkpoint.ema.get(name, checkpoint.networks.get(name, {})))
        for name in networks.names()
    ]
    if not any(row.taken for row in rows):
        raise InputError(
            f"train.weights {path}: no tensor fits by name and shape: that run is of method {checkpoint.config.name} "
            f"with the networks {', '.join(checkpoint.networks)}; use the same method and widths"
        )
    return rows


def _copy(name: str, network: nn.Module, state: dict[str, Tensor]) -> Taken:
    own, taken, left = network.state_dict(), 0, ""
    for key, value in own.items():
        other = state.get(key)
        if other is not None and other.shape == value.shape and other.dtype == value.dtype:
            value.copy_(other)
            taken += 1
        elif not left:
            left = f"{key} ({_difference(value, other)})"
    if left:  # u and v may belong to a weight that did not fit
        iterate_spectral_norms(network)
    return Taken(name, taken, len(own), left)


def _difference(here: Tensor, there: Tensor | None) -> str:
    """Say why a tensor of another run does not fit."""
    if there is None:
        return "not in that run"
    if here.shape == there.shape:
        return f"{here.dtype} here, {there.dtype} there"
    return f"{list(here.shape)} here, {list(there.shape)} there"


def frozen_parameters(networks: NetworkSet, parts: Sequence[str]) -> list[nn.Parameter]:
    """Return the parameters of the parts of networks that do not learn.

    Args:
        networks: The networks of a run.
        parts: Names of networks or of modules in them, such as ``g.common``.

    Raises:
        InputError: If there is no network or module of a name.
    """
    named = dict(networks.named_parameters())
    for part in parts:
        if not any(_is_in(name, part) for name in named):
            inner = sorted({".".join(name.split(".")[:2]) for name in named})
            raise InputError(f"train.freeze {part}: no such part; there are {', '.join([*networks.names(), *inner])}")
    return [parameter for name, parameter in named.items() if any(_is_in(name, part) for part in parts)]


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
