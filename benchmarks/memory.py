"""How much memory does a run take? Peak memory, counted on fake tensors; where there is a GPU, measured too.

Without --sizes, the configs that come with hagan3d; with it, the default networks at those sizes.
"""

import argparse
import dataclasses
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from published import PublishedStep
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

from hagan3d import cli
from hagan3d.config import Config, DegradeConfig, TrainConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.io.files import write_text
from hagan3d.engine.memory_plan import Plan
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.inference.memory import count_encoding, count_generation
from hagan3d.methods.phase import stage_starts
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.peak_memory import PeakMemory
from hagan3d.run_settings import DEFAULT_CONFIG, load_config

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "configs"
PAPER_MB = {32: 2573, 64: 2665, 128: 3167, 256: 5961}  # Sun et al. 2022, its table of memory
TOP = 10


def main() -> int:
    """Count, print a table, write JSON and a plot if asked to."""
    a = arguments()
    if a.budget and torch.cuda.is_available():
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, cli.parse_bytes("--budget", a.budget) / total))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU, {platform.machine()}"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device}; counted on fake tensors, GiB")
    runs = published(a) if a.as_published else inference(a) if a.inference else steps(a)
    rows: dict[str, dict[str, float]] = {}
    header: list[str] = []
    for name, row in runs:
        if list(row) != header:
            header = list(row)
            print(f"{'run':<46}" + "".join(f"{key:>11}" for key in row))
        rows[name] = row
        print(f"{name:<46}" + "".join(f"{value:11.2f}" for value in row.values()))
        sys.stdout.flush()
    if a.layers:
        for name, config in chosen(a):
            print_layers(name, config)
    if a.json:
        write_text(a.json, json.dumps({"torch": torch.__version__, "device": device, "gib": rows}, indent=1))
    if a.plot:
        plot(a, a.plot)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, nargs="+", help="Configs to count. Default: those of hagan3d.")
    parser.add_argument("--sizes", type=int, nargs="+", help="Sides of cubes, such as 256 512 1024.")
    parser.add_argument("--batch", type=int, default=4, help="Volumes per step, with --sizes.")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="With --sizes.")
    default = load_config(DEFAULT_CONFIG).name
    parser.add_argument("--method", choices=method_names(), default=default, help="With --sizes: its default networks.")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="Settings of `train`.")
    parser.add_argument(
        "--set-method", nargs="+", default=[], metavar="KEY=VALUE", help="Those of the method, with --sizes."
    )
    parser.add_argument("--as-published", action="store_true", help="Count the published arrangement (128 and 256).")
    parser.add_argument("--inference", action="store_true", help="Count generating and encoding one volume.")
    parser.add_argument("--layers", action="store_true", help=f"Also what is alive at each peak, the top {TOP}.")
    parser.add_argument("--budget", help="On a GPU: hold it to so much memory, such as 16GB.")
    parser.add_argument("--kind", choices=("cpu", "cuda"), default="cpu", help="Whose branches the operators take.")
    parser.add_argument("--snapshot", type=Path, help="On a GPU: file for a snapshot of its memory.")
    parser.add_argument("--json", type=Path, help="File to write the table to.")
    parser.add_argument("--plot", type=Path, help="PNG of memory against resolution, with the paper's figures.")
    return parser.parse_args()


def chosen(a: argparse.Namespace) -> list[tuple[str, Config]]:
    """Return the runs to count, by name."""
    if not a.sizes:
        paths = sorted(CONFIGS.glob("*.yaml"), key=lambda path: [path.stem.split("_")[0], len(path.stem), path.stem])
        if a.set_method:
            raise InputError("--set-method: needs --sizes")
        return [(" ".join([path.stem, *a.set]), load_config(path, train=_values(a.set))) for path in a.configs or paths]
    train = TrainConfig(**{"batch_size": a.batch, "precision": a.precision, **_values(a.set)})
    name = " ".join([f"{a.method} batch {a.batch} {a.precision}", *a.set, *a.set_method])
    return [(f"{side}^3 {name}", default_config(a.method, side, train, **_values(a.set_method))) for side in a.sizes]


def _values(words: list[str]) -> dict[str, Any]:
    """Parse words such as ``key=value``."""
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


def default_config(method: str, side: int, train: TrainConfig, **settings: Any) -> Config:
    """Return the default networks of a method for cubes of ``side`` voxels."""
    kind = config_class(method)
    degrade = {}
    if kind.translates and kind.degradations:  # type: ignore[attr-defined]
        degrade = {"degrade": DegradeConfig(kind=kind.degradations[0])}  # type: ignore[attr-defined]
    return Config(kind(**settings), kind.data_config(size=(side,) * 3, **degrade), train)


def steps(a: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Count a training step of each run; on a GPU, measure it too."""
    for name, config in chosen(a):
        plan = Plan(config, kind=a.kind)
        row = {phase: peak / GIB for phase, peak in plan.peaks.items()}
        row |= {"peak": plan.peak / GIB, "plan": plan.needed / GIB}
        yield name, row | (measured(config, a.snapshot) if torch.cuda.is_available() else {})


def inference(a: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Count generating and encoding one volume."""
    for name, config in chosen(a):
        if config.translates:
            continue
        yield name, {"generate": count_generation(config) / GIB, "encode": count_encoding(config) / GIB}


def published(a: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Count a step of the published arrangement."""
    for side in a.sizes or (128, 256):
        yield f"{side}^3 batch {a.batch} fp32 as published", published_row(side, a.batch)


def published_row(side: int, batch: int) -> dict[str, float]:
    row: dict[str, float] = {}
    with FakeTensorMode():
        step = PublishedStep(side)
        with PeakMemory(list(step.networks.state_dict().values())) as memory:
            real = torch.zeros(batch, 1, side, side, side)
            for _ in range(2):  # Adam's moments are there from the second on
                for phase in step.optimizers:
                    memory.reset_peak()
                    step.run(phase, real, 0)
                    row[phase] = memory.peak / GIB
            row["static"] = memory.now / GIB
    return row | {"peak": max(row.values())}


def measured(config: Config, snapshot: Path | None) -> dict[str, float]:
    """Run three steps on the GPU: bytes that tensors took, that the allocator took, and that the card lost."""
    before = torch.cuda.mem_get_info()[0]
    torch.cuda.reset_peak_memory_stats()
    if snapshot:
        torch.cuda.memory._record_memory_history()
    method = make_method(config)
    phases = method.training_phases()
    with torch.device("cuda"):
        networks = make_networks(config)
        updates = Updates(config.train, phases, networks, torch.device("cuda"))
        method.add_extractor(None, torch.device("cuda"))
        batch = method.zero_batch()
        for step in (step for step in stage_starts(phases) for _ in range(3)):
            updates.prepare(step)
            for phase in (phase for phase in phases if phase.is_due(step)):
                updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=step))
    torch.cuda.synchronize()
    lost = before - torch.cuda.mem_get_info()[0]
    if snapshot:
        torch.cuda.memory._dump_snapshot(str(snapshot))
    row = {
        "allocated": torch.cuda.max_memory_allocated() / GIB,
        "reserved": torch.cuda.max_memory_reserved() / GIB,
        "card": lost / GIB,
    }
    del networks, updates, batch
    torch.cuda.empty_cache()
    return row


class Census(PeakMemory):
    """Peak memory by the layer and operator that allocated it."""

    def __init__(self, *existing: Any) -> None:
        self.layer: list[str] = []
        self.made_by: dict[int, tuple[int, str]] = {}
        self.at_peak: dict[int, tuple[int, str]] = {}
        self._is_new, self._maker = False, "weights, averages and batch"
        super().__init__(*existing)

    def reset_peak(self) -> None:
        """Forget the peak and what was alive at it."""
        super().reset_peak()
        self._is_new = True

    def _add(self, storage: torch.UntypedStorage) -> None:
        before, peak = self.now, self.peak
        super()._add(storage)
        if self.now != before:
            self.made_by[storage._cdata] = self.now - before, self._maker
        self._is_new |= self.peak > peak

    def _remove(self, key: int, size: int) -> None:
        if self._is_new:
            self.at_peak, self._is_new = dict(self.made_by), False
        self.made_by.pop(key, None)
        super()._remove(key, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        shape = next((list(value.shape) for value in tree_iter(out) if isinstance(value, Tensor)), [])
        where = self.layer[-1] if self.layer else "backward or update"
        self._maker = f"{where}: {func.overloadpacket.__name__} {shape}"
        self.track(out)
        return out


@contextmanager
def named(networks: nn.Module, census: Census) -> Iterator[None]:
    """Tell the census which layer runs."""
    handles = []
    for name, module in networks.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: census.layer.append(name)))
        handles.append(module.register_forward_hook(lambda *_: (census.layer.pop(), None)[1], always_call=True))
    yield
    for handle in handles:
        handle.remove()


def print_layers(name: str, config: Config) -> None:
    """Print what is alive at the peak of each phase, the largest first."""
    method = make_method(config)
    phases = method.training_phases()
    with FakeTensorMode():
        networks = make_networks(config)
        print(f"\n{name}: " + ", ".join(f"{n} {sum(p.numel() for p in networks[n].parameters()) / 1e6:.1f} M"
                                         for n in networks.names()) + " parameters")  # fmt: skip
        updates = Updates(config.train, phases, networks, torch.device("cpu"))
        method.add_extractor(None, torch.device("cpu"))
        batch = method.zero_batch()
        held = [*networks.state_dict().values(), *tree_iter([v.state for v in updates.averages.values()])]
        with Census(held) as census, named(networks, census):
            for phase in [*phases, *phases]:  # Adam's moments are there from the second round on
                updates.prepare(phase.first)
                census.reset_peak()
                updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=phase.first))
                sizes: Counter[str] = Counter()
                for size, maker in census.at_peak.values():
                    sizes[maker] += size
                lines = [f"  {size / 2**20:8.1f} MiB  {maker}" for maker, size in sizes.most_common(TOP)]
                phase_lines = [f" phase {phase.name}, peak {census.peak / GIB:.2f} GiB", *lines]
                if phase is phases[0]:
                    rounds = []
                rounds.append("\n".join(phase_lines))
        print("\n".join(rounds))


def plot(a: argparse.Namespace, path: Path) -> None:
    """Draw memory against resolution: ours at two precisions, the published arrangement counted, and the paper's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    sides = [32, 64, 128, 256, 512, 1024]
    for batch, precision in ((4, "fp32"), (4, "bf16"), (1, "bf16")):
        train = TrainConfig(batch_size=batch, precision=precision)
        peaks = [max(count_step(make_method(default_config(a.method, side, train))).values()) / GIB for side in sides]
        axes.plot(sides, peaks, "o-", label=f"hagan3d, batch {batch}, {precision}, counted")
    axes.plot(
        [128, 256], [published_row(side, 4)["peak"] for side in (128, 256)], "s--", label="published, batch 4, counted"
    )
    axes.plot(
        list(PAPER_MB),
        [mb * 1e6 / GIB for mb in PAPER_MB.values()],
        "k^:",
        label="published, batch 4, the paper's figures (GPU)",
    )
    axes.axhline(16e9 / GIB, color="grey", linewidth=0.8)
    axes.text(32, 16e9 / GIB, "16 GB card", va="bottom", color="grey")
    axes.set(xscale="log", yscale="log", xlabel="voxels a side", ylabel="GiB", xticks=sides, xticklabels=sides)
    axes.set_ylim(1, 128)
    axes.set_yticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
    axes.minorticks_off()
    axes.set_title("Memory of one training step: live tensors, or the card as the paper has it")
    axes.legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
