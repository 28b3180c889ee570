"""Files of published weights, read without running code from them."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.errors import InputError


def read_weights(path: Path, what: str) -> Any:
    """Read a file that `torch.save` wrote, as long as it holds nothing but tensors and plain values.

    Raises:
        InputError: If it is missing, damaged, or could run code.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; the weights of {what} are not downloaded, download them and give the path"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: not loaded, since it could run code or is not a file of weights") from error
    except (RuntimeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: truncated or not a file of weights") from error


def load_exactly(network: nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Load weights into a network, in evaluation mode and frozen, if they have its names and shapes.

    Raises:
        InputError: If a name or shape differs; counts of batches that batch norm has seen may be missing.
    """
    expected = network.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    odd = sorted((expected.keys() - optional) ^ (state.keys() - optional))
    odd += sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    if odd:
        raise InputError(f"{path}: not the weights of {what} (first mismatch: {odd[0]})")
    network.load_state_dict(expected | {name: value for name, value in state.items() if name in expected})
    network.eval().requires_grad_(False)
