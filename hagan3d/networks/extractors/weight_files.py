"""Files of published weights, read without running code from them."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hagan3d.errors import InputError
from hagan3d.networks.tensor_files import read_tensors


def read_weights(path: Path, what: str) -> Any:
    """Read a file of published weights; see `read_tensors`.

    Raises:
        InputError: If it is missing, damaged, or could run code.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; the weights of {what} are not downloaded, download them and give the path"
        )
    return read_tensors(path)


def load_exactly(network: nn.Module, state: dict[str, Tensor], path: Path, what: str) -> None:
    """Load weights into a network, in evaluation mode and frozen, if they have its names and shapes.

    Raises:
        InputError: If a name or shape differs; counts of batches that batch norm has seen may be missing.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: not the weights of {what}, but other values")
    expected = network.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    odd = sorted((expected.keys() - optional) ^ (state.keys() - optional))
    odd += sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
    if odd:
        raise InputError(f"{path}: not the weights of {what} (first mismatch: {odd[0]})")
    network.load_state_dict(expected | {name: value for name, value in state.items() if name in expected})
    network.eval().requires_grad_(False)
