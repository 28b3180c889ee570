"""Table of what each method is made of, read off the code: networks, game, terms of the loss with their weights, data.

For each config that comes with hagan3d its networks are built and the losses of all phases worked out on random volumes
of 32^3, twice: with its weights, and with each weight times a prime of its own. A term that grew by a prime has that
weight. `--write` puts the table where the documentation keeps it.
"""

import argparse
import dataclasses
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from hagan3d.checkpoint.build import make_networks
from torch import nn

from hagan3d import cli
from hagan3d.config import Config
from hagan3d.config.serialization import from_dict, to_dict
from hagan3d.engine.step_memory import made_up_batch
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_recipe
from hagan3d.networks.network_set import NetworkSet

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
NAMES = (
    "pix2pix_32", "cyclegan_32", "upgan_32", "unit_32", "medgan_32", "low_dose_32", "red_wgan_32",
    "dagan_32", "thin_slices_32", "segan_32", "registration_32",
)  # fmt: skip
HEADER = ("method", "config", "recipe", "generator", "critic", "game", "terms x weights", "trained on")
BLOCKS = {
    "StridedUNet": "strided U-Net",
    "ResidualUNet": "residual U-Net",
    "ResNetGenerator": "ResNet",
    "FullResolution": "convolutions at full resolution",
    "Regressor": "regressor, warp",
    "PatchDiscriminator": "patches",
    "GlobalDiscriminator": "whole volumes",
    "FeatureCritic": "features",
    "UnitCritic": "patches, strided",
}
SMALL = {"width": 4, "critic_width": 4, "levels": 2}  # what a term is multiplied by does not depend on them
FEW = {
    "upgan": ("cascade", {"stages": 1}),
    "medgan": ("medgan", {"blocks": 1}),
    "cyclegan": ("cycle", {"blocks": 1, "pool": 0}),
    "unit": ("unit", {"blocks": 1}),
}
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
PAIRED = re.compile(r"_(source|target|\d+)$")  # ends of the names of terms that there are several of


def main() -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"Write {PAGE.relative_to(ROOT)}.")
    if parser.parse_args().write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")
    return 0


def page() -> str:
    """Return the page as Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(row(name) for name in NAMES)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return (
        "# What each method is made of\n\nMade by `python benchmarks/components.py --write` from the recipes and "
        "configs; a test keeps it so.\nA weight that changes while a run goes on has several numbers; gp: gradient "
        f"penalty of the critic. A term without a weight has 1.\n\n{table}\n"
    )


def row(name: str) -> tuple[str, ...]:
    """Return the cells of one config."""
    text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    config = from_dict(yaml.safe_load(text))
    with torch.device("meta"):
        networks = make_networks(config)
    judges = [key for key in networks.names() if key.startswith("d")]
    makers = [key for key in networks.averaged if not key.startswith("e")]
    return (
        text[2 : text.index(" at 32^3")],
        f"`{name}.yaml`",
        config.recipe,
        blocks(networks, makers) + (" + source" if config.translation.residual else ""),
        blocks(networks, judges) + ("" if seen(config, networks) else ", with the source"),
        f"{config.train.objective}{pace(config)}",
        ", ".join(terms(config)),
        data(config),
    )


def blocks(networks: NetworkSet, names: list[str]) -> str:
    """Say which building blocks networks have, and how many."""
    found = Counter(block for name in names for block in _known(networks[name]))
    if not found:  # encoders and decoders that are no block of their own
        return "autoencoders with a shared latent space"
    return " and ".join(f"{count} x {block}" if count > 1 else block for block, count in found.items())


def _known(network: nn.Module) -> Iterator[str]:
    for module in network.modules():
        known = BLOCKS.get(type(module).__name__)
        if known:
            layers = len(module.convs) - 1 if type(module).__name__ == "PatchDiscriminator" else 0  # type: ignore[arg-type]
            yield f"{known}, {layers} halvings" if layers else known


def seen(config: Config, networks: NetworkSet) -> bool:
    """Whether critics see targets alone, as the channels of the first convolution say."""
    if "d" not in networks.names():
        return True
    first = next(module for module in networks["d"].modules() if hasattr(module, "weight"))
    return int(first.weight.shape[1]) == config.translation.target_channels  # type: ignore[index,union-attr]


def pace(config: Config) -> str:
    """Say how often critic and generator are updated, where it is not once each."""
    every = {phase.name[0]: phase.every for phase in make_recipe(config).phases}
    ratio = every["g"], every["d"]
    return (
        "" if ratio == (1, 1) else f", {max(ratio)} updates of {'d' if ratio[0] > 1 else 'g'} per update of the other"
    )


def terms(config: Config) -> list[str]:
    """Name the terms of all phases with their weights; those of critics but penalties are the game itself."""
    small = _small(config)
    weights = {path: x for path, x in _weights(to_dict(small)) if _is_read(small, path, x)}
    primes = dict(zip(weights, PRIMES, strict=False))
    scaled = to_dict(small)
    for path, prime in primes.items():
        _multiply(scaled, path, prime)
    one, other = (values_of(each) for each in (small, from_dict(scaled)))
    found: dict[str, None] = {}
    for name, value in one.items():
        phase, term = name.split("/")
        if phase.startswith("d") and term.startswith("gan"):
            continue
        ratio = other[name] / value
        mine = [path for path, prime in primes.items() if math.isclose(ratio, prime, rel_tol=1e-3)]
        shown = _shown(weights[mine[0]]) if mine else ""
        found[f"{PAIRED.sub('', term)} {shown}".strip()] = None
    return list(found)


def _small(config: Config) -> Config:
    section, few = FEW.get(config.recipe, ("", {}))
    sections = {section: dataclasses.replace(getattr(config.translation, section), **few)} if section else {}
    translation = dataclasses.replace(config.translation, **SMALL, **sections)
    train = dataclasses.replace(config.train, batch_size=1, accumulate=1)
    return dataclasses.replace(config, translation=translation, train=train)


def _weights(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every setting that is a weight above 0, by its path."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _weights(value, f"{path}{key}.")
        elif key.endswith(("_weight", "_weights")) and _is_set(value):
            yield f"{path}{key}", value


def _is_read(config: Config, path: str, value: Any) -> bool:
    """Whether a weight is above 0 and the recipe reads it: it may not be set where not."""
    changed = to_dict(config)
    _multiply(changed, path, 2)
    try:
        from_dict(changed)
    except InputError:
        return False
    return _is_set(value)


def _multiply(values: dict[str, Any], path: str, factor: int) -> None:
    *sections, key = path.split(".")
    for section in sections:
        values = values[section]
    value = values[key]
    values[key] = [factor * x for x in value] if isinstance(value, list | tuple) else factor * value


def _is_set(value: Any) -> bool:
    return any(value) if isinstance(value, list | tuple) else bool(value)


def _shown(value: Any) -> str:
    return " / ".join(f"{x:g}" for x in (value if isinstance(value, list | tuple) else [value]))


def values_of(config: Config) -> dict[str, float]:
    """Work out the terms of each phase at its first step, on random volumes."""
    torch.manual_seed(0)
    networks, recipe = make_networks(config), make_recipe(config)
    batch = made_up_batch(config, recipe)
    seen = {name: torch.rand_like(getattr(batch, name)) * 2 - 1 for name in ("source", "target")}
    seen |= {"mask": torch.ones_like(batch.target), "misalignment": torch.rand(1, 12)}
    found: dict[str, float] = {}
    for phase in recipe.phases:
        made = phase.losses(networks, dataclasses.replace(batch, **seen, phase=phase.name, step=phase.first))
        groups = [made] if isinstance(made, dict) else list(made)
        found |= {
            f"{phase.name}/{name}": float(value.detach())
            for group in groups
            for name, value in group.items()
            if name not in phase.measures
        }
    return found


def data(config: Config) -> str:
    """Say what a config is trained on."""
    if not config.data.paired:
        return "two domains without pairs"
    if config.data.degrade.active:
        return f"volumes, or pairs; simulated: {config.data.degrade.kind}"
    return "volumes and label maps" if config.train.objective == "feature-l1" else "pairs, stored or simulated"


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
