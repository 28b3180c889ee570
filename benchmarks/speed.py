"""How fast is a training step, against the published arrangement of the same mathematics, interleaved in one run?

Ours are the default networks with `norm: group`, one window for the whole batch and no average of weights, so that both
compute the same; each further line changes one setting of it.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from published import PublishedStep

from hagan3d import cli
from hagan3d.config import Config, SubvolumeDataConfig, TrainConfig
from hagan3d.data.io.files import write_text
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.methods.hagan.config import HAGANConfig
from hagan3d.methods.registry import make_method, make_networks

Step = Callable[[], float]


def main() -> int:
    """Time, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128], help="Sides of cubes, 128 or 256.")
    parser.add_argument("--batch", type=int, default=1, help="Volumes per step.")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="Of ours.")
    parser.add_argument(
        "--compile", action="store_true", help="Also time train.compile, whose first step takes minutes."
    )
    parser.add_argument("--rounds", type=int, default=3, help="Timed steps of each, interleaved, after one to warm up.")
    parser.add_argument("--json", type=Path, help="File to write the medians to.")
    a = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {name}, {torch.get_num_threads()} threads")
    print(f"{'step':<50}{'s':>9}{'voxels/s':>12}{'x published':>13}")
    results: dict[str, float] = {}
    for side in a.sizes:
        with torch.device(device):
            steps = variants(side, a.batch, a.precisions, device, a.compile)
            check_same_networks(side)
            medians = interleaved(steps, a.rounds)
        for label, seconds in medians.items():
            ratio = medians[f"{side}^3 as published fp32"] / seconds
            print(f"{label:<50}{seconds:9.3f}{a.batch * side**3 / seconds:12.3g}{ratio:13.2f}")
        results |= medians
    if a.json:
        write_text(a.json, json.dumps({"torch": torch.__version__, "device": name, "seconds": results}, indent=1))
    return 0


def variants(
    side: int, batch: int, precisions: list[str], device: torch.device, compiled: bool = False
) -> dict[str, Step]:
    """Return the steps to time, by name."""
    steps: dict[str, Step] = {f"{side}^3 as published fp32": published(side, batch)}
    for precision in precisions:
        base = Config(
            method=HAGANConfig(norm="group"),
            data=SubvolumeDataConfig(size=(side,) * 3),
            train=TrainConfig(batch_size=batch, precision=precision, ema=0),
        )
        steps[f"{side}^3 ours {precision}"] = ours(base, device)
        kept = dataclasses.replace(base, train=dataclasses.replace(base.train, recompute_norms=False))
        steps[f"{side}^3 ours {precision}, norms kept"] = ours(kept, device)
        shown = dataclasses.replace(kept, method=dataclasses.replace(kept.method, fresh_fakes=False))
        steps[f"{side}^3 ours {precision}, norms and fakes kept"] = ours(shown, device)
        exact = dataclasses.replace(base, method=HAGANConfig())
        steps[f"{side}^3 ours {precision}, norm rms with halo"] = ours(exact, device)
        if compiled:
            exact = dataclasses.replace(exact, train=dataclasses.replace(exact.train, compile=True))
            steps[f"{side}^3 ours {precision}, norm rms, compiled"] = ours(exact, device)
    return steps


def published(side: int, batch: int) -> Step:
    step, real = PublishedStep(side), torch.rand(batch, 1, side, side, side) * 2 - 1

    def run() -> None:
        for phase in step.optimizers:
            step.run(phase, real, side // 2)

    return timed(run)


def ours(config: Config, device: torch.device) -> Step:
    method, networks = make_method(config), make_networks(config)
    phases, zeros = method.training_phases(), method.zero_batch()
    updates = Updates(config.train, phases, networks, device)
    batch = dataclasses.replace(
        zeros, window=torch.rand_like(zeros.window) * 2 - 1, low=torch.rand_like(zeros.low), start=zeros.start + 64
    )

    def run() -> None:
        for phase in phases:
            for term, value in updates.run(phase, dataclasses.replace(batch, phase=phase.name)).items():
                if not torch.isfinite(value):
                    raise InputError(f"{phase.name}/{term} is {value}: nothing to time")

    return timed(run)


def timed(run: Callable[[], None]) -> Step:
    """Return what runs once and gives the seconds it took."""

    def step() -> float:
        begin = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return step


def check_same_networks(side: int) -> None:
    """Raise InputError unless both have the same number of weights."""
    ours = make_networks(Config(HAGANConfig(norm="group"), SubvolumeDataConfig(size=(side,) * 3)))
    counts = [sum(p.numel() for p in networks.parameters()) for networks in (ours, PublishedStep(side).networks)]
    if counts[0] != counts[1]:
        raise InputError(f"other networks: {counts[0]} weights against {counts[1]}")


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median seconds of each step; every round runs each once."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            seconds[name].append(step())
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
