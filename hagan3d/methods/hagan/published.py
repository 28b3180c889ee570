"""Conversion of the published HA-GAN weights: their key names, mapped to our networks.

The networks are those of Sun et al., IEEE JBHI 26(8), 2022, at 128^3 and 256^3, with GroupNorm.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hagan3d.config import Config, SubvolumeDataConfig
from hagan3d.errors import InputError
from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.hagan.encoder import readout_gain
from hagan3d.methods.hagan.networks import HAGANNetworks
from hagan3d.networks.spectral import iterate_spectral_norms

State = dict[str, Tensor]

LATENT_DIM = 1024
SIZES = (128, 256)
FILES = {
    "generator": "G_iterN.pth",
    "discriminator": "D_iterN.pth",
    "encoder": "E_iterN.pth: sub-volume to a piece of A, our E^H",
    "sub_encoder": "Sub_E_iterN.pth: A to z, our E^G",
}
"""Files of one published checkpoint, of which the first is required."""


def convert(states: Mapping[str, State], paths: Mapping[str, Path], side: int) -> tuple[Config, int, dict[str, State]]:
    """Convert the state dicts of one published checkpoint.

    Args:
        states: State dicts by the names of `FILES`.
        paths: Their files, for error messages.
        side: Voxels per axis, 128 or 256.

    Returns:
        The config of the run, its number of classes, and the state dict of each of our networks that was given.

    Raises:
        InputError: If a file does not have the keys and shapes of the published networks.
    """
    if side not in SIZES:
        raise InputError(f"--size {side}: published weights are of {SIZES[0]} or {SIZES[1]}")
    num_classes = _num_classes(states["generator"], paths["generator"])
    config = _config(side, num_classes, encodes="encoder" in states and "sub_encoder" in states)
    with torch.device("meta"):
        networks = HAGANNetworks.from_config(config, num_classes)
    networks.to_empty(device="cpu")
    converted: dict[str, State] = {}
    for name, target, keys in _tables(side, num_classes):
        if name in states:
            state = _converted(networks[target].state_dict(), states[name], keys, paths[name])
            if target == "e_g":  # ours is stored multiplied by the root of its fan-in (equalized learning rate)
                state["last.weight"] = state["last.weight"] / readout_gain(state["last.weight"])
            networks[target].load_state_dict(state)
            iterate_spectral_norms(networks[target])  # the published code iterates in every forward pass, ours before
            converted[target] = networks[target].state_dict()
    return config, num_classes, converted


def _num_classes(generator: State, path: Path) -> int:
    """Return the classes of the model: the inputs of the first layer in addition to z."""
    weight = generator.get("fc1.weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] < LATENT_DIM:
        raise InputError(f"{path}: not a published generator (needs fc1.weight with at least {LATENT_DIM} inputs)")
    return weight.shape[1] - LATENT_DIM


def _config(side: int, num_classes: int, encodes: bool) -> Config:
    return Config(
        HAGANConfig(latent_dim=LATENT_DIM, norm="group", conditional=num_classes > 0, encoder=encodes),
        SubvolumeDataConfig(size=(side, side, side)),
    )


def _tables(side: int, num_classes: int) -> list[tuple[str, str, dict[str, str]]]:
    """Return files, our networks, and the published name of each of our layers."""
    skip = 0 if side == 256 else 1  # at 128 D, sub_D and Sub_E lack the first strided convolution
    g = {"common.fc": "fc1", "high.blocks.0.conv": "tp_conv6", "high.blocks.0.norm": "bn6", "high.last": "tp_conv7"}
    for i in range(5):
        g |= {f"common.blocks.{i}.conv": f"tp_conv{i + 1}", f"common.blocks.{i}.norm": f"bn{i + 1}"}
    for i in range(2):
        g |= {f"low.{i}.conv": f"sub_G.tp_conv{i + 1}", f"low.{i}.norm": f"sub_G.bn{i + 1}"}
    g |= {"low.2": "sub_G.tp_conv3"}
    d_h = {f"convs.{i}": f"conv{i + 1 + skip}" for i in range(7 - skip)} | {"hidden": "fc1", "logit": "fc2"}
    if num_classes:
        d_h |= {"classes": "fc2_class"}
    d_l = {f"convs.{i}": f"sub_D.conv{i + 1 + skip}" for i in range(4 - skip)} | {"logits": "sub_D.conv5"}
    e_h = {"0.0": "conv1", "0.1": "bn1", "1.conv": "conv2", "1.norm": "bn2", "2.0": "conv3", "2.1": "bn3"}
    e_g = {"last": "conv5"}
    for i in range(4 - skip):
        e_g |= {f"blocks.{i}.0": f"conv{i + 1 + skip}", f"blocks.{i}.1": f"bn{i + 1 + skip}"}
    return [
        ("generator", "g", g),
        ("discriminator", "d_h", d_h),
        ("discriminator", "d_l", d_l),
        ("encoder", "e_h", e_h),
        ("sub_encoder", "e_g", e_g),
    ]


def _converted(ours: State, theirs: State, layers: dict[str, str], path: Path) -> State:
    """Collect the tensors of our state dict from the published one.

    Raises:
        InputError: If one is missing or has another shape.
    """
    state: dict[str, Any] = {}
    for key, value in ours.items():
        layer, _, tensor = key.rpartition(".")
        if tensor == "v":  # recomputed from u below
            state[key] = torch.zeros_like(value)
            continue
        name = f"{layers[layer]}.{'u0' if tensor == 'u' else tensor}"
        if name not in theirs:
            raise InputError(f"{path}: lacks {name}; is it the right file, and of this --size?")
        value_found = theirs[name].flatten() if tensor == "u" else theirs[name]
        if value_found.shape != value.shape:
            raise InputError(
                f"{path}: {name} is {list(value_found.shape)}, must be {list(value.shape)}; is it of this --size?"
            )
        state[key] = value_found.to(value.dtype)
    return state
