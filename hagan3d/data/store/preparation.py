"""Whether the volumes of a store were prepared as those that a model was trained on."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

SAME_SPACING = 0.05  # relative difference of typical voxels
SAME_RULE = 1e-3  # relative difference of requested spacings


def check_preparation(
    store: Store, model: DataDescription, channels: Iterable[tuple[Channel, Channel]], domain: str = "all"
) -> None:
    """Raise InputError unless volumes of a store have the grid and the intensities of a model's.

    A file is put on the grid of a model and into its intensities; a store has its own, so they must be the same.

    Args:
        store: The store.
        model: Description of the training data of the model, on the grid of the domain.
        channels: Image channels of the store, each with the one of the model that it stands for.
        domain: Of a store of two domains: source or target.
    """
    store.check_size(model.size, domain)
    own = store.description()
    if store.has_masks and not store.settings.get("masks"):  # models of older versions did not record those of pairs
        channels = [(replace(one, masked=one.masked and other.masked), other) for one, other in channels]
    found = differences(own.on_grid_of("source") if domain == "source" else own, model, channels)
    if found:
        raise InputError(
            f"{store.path}: was prepared in another way than the volumes the model was trained on: {'; '.join(found)}; "
            "prepare it with those settings, or give the files themselves"
        )


def differences(own: DataDescription, model: DataDescription, channels: Iterable[tuple[Channel, Channel]]) -> list[str]:
    """Return how grid and intensities of data differ from those of a model; arguments as of `check_preparation`."""
    return [*_grid_differences(own, model), *(text for pair in channels for text in _intensity_differences(*pair))]


def _grid_differences(own: DataDescription, model: DataDescription) -> Iterator[str]:
    for name in ("axis", "orientation"):
        if getattr(own, name) != getattr(model, name):
            yield f"--{name} {getattr(own, name)}, the model's is {getattr(model, name)}"
    same_rule = own.fit == model.fit and _is_same_rule(own, model)
    if not same_rule and not np.allclose(own.voxel_spacing, model.voxel_spacing, rtol=SAME_SPACING, atol=0):
        steps, wanted = (" x ".join(f"{step:.3g}" for step in one.voxel_spacing) for one in (own, model))
        yield f"voxels of {steps} mm, the model's are {wanted} (--spacing, --fit)"


def _is_same_rule(own: DataDescription, model: DataDescription) -> bool:
    """Return whether the same spacing was requested, or none, so that voxels are as large as volumes make them."""
    if own.spacing is None or model.spacing is None:
        return own.spacing == model.spacing
    return np.allclose(own.spacing, model.spacing, rtol=SAME_RULE, atol=0)


def _intensity_differences(own: Channel, model: Channel) -> Iterator[str]:
    if own.intensity != model.intensity:
        yield f"--intensity {own.intensity} of {own.name}, the model's is {model.intensity}"
    elif own.masked != model.masked:
        where = "inside masks (--masks, or a column mask of pairs)"
        yield f"z-scores of {own.name} are {'' if own.masked else 'not '}those {where}, unlike the model's"
    elif own.intensity == "percentiles" and own.percentiles != model.percentiles:
        yield f"percentiles {_shown(own.percentiles)} of {own.name}, the model's are {_shown(model.percentiles)}"
    elif own.intensity in ("window", "labels") and not _is_close(own.interval, model.interval):
        yield f"{own.intensity} {_shown(own.interval)} of {own.name}, the model's is {_shown(model.interval)}"


def _is_close(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(one, other, strict=True))


def _shown(interval: tuple[float, float]) -> str:
    return f"{interval[0]:g} to {interval[1]:g}"
