"""Weights of the published HA-GAN, as a run of ours: their key names, mapped to our networks.

The networks are those of Sun et al., IEEE JBHI 26(8), 2022, at 128^3 and 256^3, with GroupNorm.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hagan3d.checkpoint.files import Checkpoint, State, build, path_of, read_tensors, save
from hagan3d.config import Config, DataConfig, ModelConfig, Size, TrainConfig
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.methods.hagan.encoder import readout_gain
from hagan3d.networks.layers import iterate_spectral_norms

LATENT_DIM = 1024
SIZES = (128, 256)


@dataclass(frozen=True)
class PublishedFiles:
    """Files of one published checkpoint."""

    generator: Path
    discriminator: Path | None = None
    encoder: Path | None = None
    """E: sub-volume to a piece of A, our E^H."""
    sub_encoder: Path | None = None
    """Sub_E: A to z, our E^G."""


def import_published(
    files: PublishedFiles,
    side: int,
    out: Path,
    *,
    window: tuple[float, float] = (-1024.0, 600.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    units: str = "HU",
) -> Path:
    """Make a run of published weights, fit for `generate` and (with both encoders) `encode`.

    Args:
        files: Files of the published code, ``{"model": state dict, ...}``; keys may start with ``module.``.
        side: Voxels per axis, 128 or 256.
        out: Folder of the run, which must not hold one.
        window: Values of -1 and 1, file units; the published runs clip to [-1024, 600] HU.
        spacing: Millimetres per voxel along D, H, W; published weights do not say.
        units: Of the intensities.

    Returns:
        The checkpoint file.

    Raises:
        InputError: If a file cannot be read, or does not have the keys and shapes of the published networks.
    """
    if side not in SIZES:
        raise InputError(f"--size {side}: published weights are of {SIZES[0]} or {SIZES[1]}")
    step = int(found[1]) if (found := re.search(r"iter(\d+)", files.generator.name)) else 0
    if (out / "checkpoints").exists():
        raise InputError(f"{out}: holds a run already; give another --out")
    states = {"generator": _read(files.generator)}
    for name in ("discriminator", "encoder", "sub_encoder"):
        path = getattr(files, name)
        if path is not None:
            states[name] = _read(path)
    num_classes = _num_classes(states, files)
    config = _config(side, num_classes, has_encoders="encoder" in states and "sub_encoder" in states)
    checkpoint = Checkpoint(config, _description(side, num_classes, window, spacing, units), step, {})
    networks = build(checkpoint)
    mapped: dict[str, State] = {}
    for name, target, keys in _tables(side, num_classes):
        if name in states:
            path = getattr(files, name)
            mapped[target] = _mapped(networks[target].state_dict(), states[name], keys, path)
            if target == "e_g":
                weight = mapped[target]["last.weight"]
                mapped[target]["last.weight"] = weight / readout_gain(weight)
            networks[target].load_state_dict(mapped[target])
            iterate_spectral_norms(networks[target])  # the published code iterates in every pass, ours before it
            mapped[target] = networks[target].state_dict()
    path = path_of(out, step)
    save(Checkpoint(config, checkpoint.description, step, mapped), path)
    return path


def _read(path: Path) -> State:
    values = read_tensors(path)
    state = values.get("model", values) if isinstance(values, dict) else values
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: want a file with a state dict under 'model', as the published code writes it")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _num_classes(states: dict[str, State], files: PublishedFiles) -> int:
    """Classes of the model: inputs of the first layer beyond z."""
    weight = states["generator"].get("fc1.weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] < LATENT_DIM:
        raise InputError(f"{files.generator}: no published generator (fc1.weight with {LATENT_DIM} inputs or more)")
    return weight.shape[1] - LATENT_DIM


def _config(side: int, num_classes: int, has_encoders: bool) -> Config:
    return Config(
        data=DataConfig(size=(side, side, side)),
        model=ModelConfig(latent_dim=LATENT_DIM, norm="group", conditional=num_classes > 0),
        train=TrainConfig(encoder=has_encoders),
    )


def _description(
    side: int, num_classes: int, window: tuple[float, float], spacing: tuple[float, float, float], units: str
) -> DataDescription:
    """Describe axial volumes centred on the origin; classes get their numbers as names."""
    size: Size = (side, side, side)
    d, h, w = spacing
    centre = [-step * (side - 1) / 2 for step in (w, h, d)]
    affine = ((0.0, 0.0, w, centre[0]), (0.0, h, 0.0, centre[1]), (d, 0.0, 0.0, centre[2]), (0.0, 0.0, 0.0, 1.0))
    return DataDescription(
        size=size,
        orientation="RAS",
        axis="axial",
        affine=affine,
        intensity="window",
        lo=window[0],
        hi=window[1],
        units=units,
        class_names=tuple(str(index) for index in range(num_classes)),
        source="published weights",
    )


def _tables(side: int, num_classes: int) -> list[tuple[str, str, dict[str, str]]]:
    """Files, our networks, and for each of our layers the published name."""
    skip = 0 if side == 256 else 1  # at 128 the first strided convolution of D, sub_D and Sub_E is not there
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


def _mapped(ours: State, theirs: State, layers: dict[str, str], path: Path) -> State:
    """Collect the tensors of our state dict from theirs.

    Raises:
        InputError: If one is missing or has another shape.
    """
    state: dict[str, Any] = {}
    for key, value in ours.items():
        layer, _, tensor = key.rpartition(".")
        if tensor == "v":  # follows from u
            state[key] = torch.zeros_like(value)
            continue
        name = f"{layers[layer]}.{'u0' if tensor == 'u' else tensor}"
        if name not in theirs:
            raise InputError(f"{path}: lacks {name}; is it the right file, and of this --size?")
        got = theirs[name].flatten() if tensor == "u" else theirs[name]
        if got.shape != value.shape:
            raise InputError(f"{path}: {name} is {list(got.shape)}, want {list(value.shape)}; is it of this --size?")
        state[key] = got.to(value.dtype)
    return state
