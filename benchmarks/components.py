"""Table of the components of each method, read off the code: networks, objective, loss terms with their weights, data.

The networks of each shipped config at 32^3 are built, and the losses of all phases computed on random volumes for the
names of their terms; deviations from the sources stand in the configs. `--write` puts the page where the documentation
has it.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hagan3d import cli
from hagan3d.config import Config, UnpairedDataConfig
from hagan3d.config.methods import summary
from hagan3d.data.batches.steps import StepBatch
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.networks.network_set import NetworkSet
from hagan3d.run_settings import load_config

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
RESULTS = ROOT / "benchmarks" / "results" / "methods.json"
RESULTS_SAY = """\
Every method on the task of its paper, simulated on the volumes at hand, on one thread of a CPU: the
rows that `benchmarks/methods.py --record` kept. Errors are those of held-out volumes in the mask of
their foreground; *nothing* is the source as it is, *regression* the same generator with L1 alone
for as long. Each row is one run, so that differences of a few hundredths of a decibel say nothing.
Without pairs, volumes of one contrast are translated to another and back, and compared with the
same subject.

Adversarial terms cost steps and voxel-wise errors: a step takes up to five times that of the
regression, and D asks for texture whose voxels cannot be predicted. By that two methods are behind
*nothing* in decibels: Wolterink's smooths low-dose CT (2D SSIM 0.977 for 0.956) at the same squared
error; phase contrast to DIC sharpens edges and adds the grain of its targets. RED-WGAN updates its
generator in every fifth step as published, 142 times here, and is hardly ahead of *nothing*; the
stain transfer has no term of voxels, so that it keeps contrast and outlines and loses lesions that
the mean of its contrasts hardly shows, as its regression does too.

Of slices of heads, whose k-space is undersampled in their plane, UP-GAN restores most, 1.7 dB, and its
generator with L1 alone 3.1 dB; methods of strided U-Nets gain half a decibel, and with L1 alone no more
in so many steps. UNIT, without pairs, has inverted the contrast after 430 steps, which neither
cycles nor codes forbid, and its discriminators have a tenth of a per cent of the gradient: ten minutes
are too few for it. Its eight rows see four slices a step, a quarter of the voxels of volumes at 32^3,
and are not done after 700 to 1700 steps either: translations have holes and stripes, which KID shows
more than the errors. Attention in the generator with the Charbonnier error is the furthest on; with
spectral norm everywhere as well, contrasts are not mapped yet. From PET to CT, L1 alone is ahead of
UP-GAN by 4 dB, which has 431 steps for its three stages, and of a strided U-Net with D by 1.3 dB.
"""
DEVIATES = "# Deviates: "
HEADER = ("title", "config", "method", "generators", "discriminators", "objective", "terms x weights", "trained on")
SMALL = {"width": 8, "critic_width": 4, "levels": 2, "channels": 64, "d_channels": 64, "latent_dim": 8}
FEW = {"stages": 1, "stage_steps": 100, "blocks": 1, "pool": 0}  # weights of terms do not depend on sizes
NUMBERED = re.compile(r"_(source|target|\d+)$")  # ends of the names of terms that there are several of


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


def names() -> list[str]:
    """Return the names of the configs at 32^3 that come with hagan3d, those with label maps among them, by method."""
    stems = [path.stem for end in ("", "_labels") for path in (ROOT / "configs").glob(f"*_32{end}.yaml")]
    return sorted(stems, key=lambda stem: (load_config(stem).name, stem))


def page() -> str:
    """Return the page as Markdown."""
    table = table_of(HEADER, [row(name) for name in names()])
    return (
        "# Components of each method\n\nWritten by `python benchmarks/components.py --write` from the methods and "
        "configs; a test compares it with them.\nA weight that changes during a run has several values; gp: gradient "
        f"penalty. A term with a share has the weight that gives it that share in the first step.\n\n{table}\n\n"
        "## Deviations from the sources\n\nThe lines `# Deviates:` of the configs. `benchmarks/methods.py` compares "
        "methods with plain regression by the same generator, and\nmethods without pairs with the other contrast of "
        "the same subjects, in both directions; `--tasks unit_rows` does so for the rows of\nthe comparison of UNIT "
        f"(attention, spectral norm, Charbonnier).\n\n{deviations()}\n{results()}"
    )


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def results() -> str:
    """Return what `benchmarks/methods.py --record` kept: a table for tasks with a target and one for two domains."""
    rows = [row for task in json.loads(RESULTS.read_text(encoding="utf-8")).values() for row in task.values()]
    tables = [
        table_of(header, [tuple(row.values()) for row in rows if tuple(row) == header])
        for header in dict.fromkeys(map(tuple, rows))
    ]
    return "## Results\n\n" + RESULTS_SAY + "".join(f"\n{table}\n" for table in tables)


def deviations() -> str:
    """Return what each config says of its deviations, as a list."""
    lines = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8").splitlines()
        found = [line.removeprefix(DEVIATES) for line in text if line.startswith(DEVIATES)]
        lines += [f"- `{path.name}`: {'; '.join(line.rstrip('.') for line in found)}.\n"] if found else []
    return "".join(lines)


def row(name: str) -> tuple[str, ...]:
    """Return the cells of one config."""
    config = load_config(name)
    with torch.device("meta"):
        networks = make_networks(config)
    discriminators = [key for key in networks.names() if key.startswith("d")]
    generators = [key for key in networks.averaged if key not in discriminators]
    return (
        title(name, config),
        f"`{name}.yaml`",
        config.name,
        blocks(networks, generators) + (" + source" if getattr(config.method, "residual", False) else ""),
        blocks(networks, discriminators) + (", with the source" if sees_source(config, networks) else ""),
        f"{getattr(config.method, 'objective', 'its own')}{pace(config)}",
        ", ".join(terms(config)),
        data(config),
    )


def title(name: str, config: Config) -> str:
    """Return the title of a config: its first line up to the size, or the summary of its method."""
    first = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    before, size, _ = first.removeprefix("# ").partition(" at 32^3")
    return before if size else summary(config.name).partition(":")[0].rstrip(".")


def blocks(networks: NetworkSet, names: list[str]) -> str:
    """Name the building blocks of networks, and how many there are."""
    counts = Counter(block for name in names for block in _blocks(networks[name]))
    return " and ".join(f"{count} x {block}" if count > 1 else block for block, count in counts.items())


def _layers(convs: object) -> int:
    """Count convolutions that halve, as PatchGANs are named by them, or else all but the last."""
    if not isinstance(convs, nn.ModuleList):
        return 0
    halving = [conv for conv in convs if isinstance(conv, nn.Conv3d) and max(conv.stride) > 1]
    return len(halving) or len(convs) - 1


def _blocks(network: nn.Module) -> Iterator[str]:
    """Yield the outermost shared building blocks of a network, or its own class if it has none."""
    shared = list(_shared_blocks(network))
    for module in shared or [network]:
        layers = _layers(getattr(module, "convs", None))
        name, plural = type(module).__name__, "" if layers == 1 else "s"
        yield f"{name} of {layers} layer{plural}" if layers else name


def _shared_blocks(module: nn.Module) -> Iterator[nn.Module]:
    package, _, name = type(module).__module__.rpartition(".")
    if package == "hagan3d.networks" and name not in ("layers", "flat_layers"):
        yield module
        return
    for child in module.children():
        yield from _shared_blocks(child)


def sees_source(config: Config, networks: NetworkSet) -> bool:
    """Return whether the discriminator sees the source too, as the channels of its first convolution say."""
    if not config.translates or "d" not in networks.names():
        return False
    first = next(module for module in networks["d"].modules() if hasattr(module, "weight"))
    return int(first.weight.shape[1]) != config.method.target_channels  # type: ignore[index,union-attr]


def pace(config: Config) -> str:
    """Return how often discriminator and generator are updated, if not once each per step."""
    every = {phase.name[0]: phase.every for phase in make_method(config).training_phases()}
    ratio = every["g"], every.get("d", every["g"])  # without a discriminator
    return (
        "" if ratio == (1, 1) else f", {max(ratio)} updates of {'d' if ratio[0] > 1 else 'g'} per update of the other"
    )


def terms(config: Config) -> list[str]:
    """Return the terms of all phases with their weights, without the adversarial terms of the discriminators."""
    small, shown = _small(config), dict[str, None]()
    method, names = make_method(small), term_names(small)
    for phase in method.training_phases():
        steps = range(phase.first, phase.first + 100) if callable(phase.weights) else [phase.first]
        for term in names[phase.name]:
            if phase.name.startswith("d") and term.startswith("gan"):
                continue
            weights = dict.fromkeys(phase.weights_at(step, {}).get(term, 1.0) for step in steps)
            weight = (
                f"{phase.shares[term]:.0%} of the gradient"
                if term in phase.shares
                else " / ".join(f"{value:g}" for value in weights)
            )
            shown[f"{NUMBERED.sub('', term)} {weight}"] = None
    return list(shown)


def _small(config: Config) -> Config:
    known = {f.name for f in dataclasses.fields(config.method)}
    small = {key: value for key, value in (SMALL | FEW).items() if key in known}
    train = dataclasses.replace(config.train, batch_size=config.group, accumulate=1)
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **small), train=train)


def term_names(config: Config) -> dict[str, list[str]]:
    """Return the names of the terms of each phase in its first step, from its loss of random volumes."""
    networks, method = make_networks(config), make_method(config)
    batch, names = random_batch(method.zero_batch()), {}
    for phase in method.training_phases():
        loss = phase.loss(networks, dataclasses.replace(batch, phase=phase.name, step=phase.first))
        groups = [loss] if isinstance(loss, dict) else list(loss)
        names[phase.name] = [name for group in groups for name in group if name not in phase.measures]
    return names


def random_batch(zeros: StepBatch) -> StepBatch:
    """Return a batch of random volumes, all of them inside the mask."""
    tensors = {f.name: getattr(zeros, f.name) for f in dataclasses.fields(zeros)}
    volumes = {
        name: torch.rand_like(x) * 2 - 1
        for name, x in tensors.items()
        if isinstance(x, Tensor) and x.is_floating_point()
    }
    fixed = {"mask": torch.ones(len(zeros)), "misalignment": torch.rand(len(zeros), 12)}
    if isinstance(tensors.get("mask"), Tensor):
        fixed["mask"] = torch.ones_like(tensors["mask"])
    return dataclasses.replace(zeros, **volumes | {name: x for name, x in fixed.items() if name in tensors})


def data(config: Config) -> str:
    """Return what a config is trained on."""
    if not config.translates:
        return "volumes"
    if isinstance(config.data, UnpairedDataConfig) and not config.data.paired:
        return "two domains without pairs"
    if config.data.degrade.kind == "copy":
        return "volumes, each its own source"
    if config.data.degrade.active:
        return f"volumes, or pairs; simulated: {config.data.degrade.kind}"
    return "volumes and label maps" if make_method(config).predicts_labels else "pairs, stored or simulated"  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
