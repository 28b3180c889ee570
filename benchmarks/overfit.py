"""Can each translation method that compares with a target learn a pair by heart? PSNR against the steps taken.

A volume of the store and its simulated acquisition are all that a method sees, with the networks of its config.
"""

import argparse
import dataclasses
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from hagan3d import cli
from hagan3d.config import Config, DegradeConfig, WindowDataConfig
from hagan3d.data.batches.pairs import PairBatch, PairSource
from hagan3d.data.store.store import Store
from hagan3d.engine.updates import Updates
from hagan3d.methods.registry import make_method, make_translation_networks
from hagan3d.run_settings import load_config

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> int:
    """Train each config on one pair until its translation is good enough; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="Store of volumes, at the size of the configs.")
    parser.add_argument("--configs", nargs="+", default=names(), help="Names of configs that come with hagan3d.")
    parser.add_argument("--degrade", default="noise", help="Simulated acquisition, as data.degrade.kind.")
    parser.add_argument("--steps", type=int, default=600, help="Steps at most.")
    parser.add_argument("--every", type=int, default=50, help="Steps between two looks.")
    parser.add_argument("--goal", type=float, default=30.0, help="PSNR, dB, for a range of 2.")
    a = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads; {a.degrade}, {a.store}")
    print(f"{'config':<14}{'source, dB':>12}{'PSNR, dB':>10}{'steps':>8}{'seconds':>9}")
    for name in a.configs:
        config = settings(name, a.store, a.degrade, a.steps)
        batch = one_pair(config)
        began, done, reached = time.process_time(), 0, -1.0
        for step, value in learn(config, batch, a.steps, a.every):
            done, reached = step, value
            if reached > a.goal:
                break
        before, seconds = psnr(batch.source, batch.target), time.process_time() - began
        print(f"{name:<14}{before:12.1f}{reached:10.1f}{done:8d}{seconds:9.0f}", flush=True)
    return 0


def names() -> list[str]:
    """Return the configs at 32^3 of methods that compare with a target voxel by voxel."""
    stems = sorted(path.stem for path in CONFIGS.glob("*_32.yaml"))
    return [stem for stem in stems if isinstance(load_config(stem).data, WindowDataConfig)]


def settings(name: str, store: str, kind: str, steps: int) -> Config:
    config = load_config(name)
    data = dataclasses.replace(config.data, store=store, degrade=DegradeConfig(kind=kind, fixed=True))  # type: ignore[arg-type]
    method = config.method
    if hasattr(method, "stages"):  # one stage of a cascade, with its first weights all along
        method = dataclasses.replace(method, stages=1, stage_steps=steps, parts=(1.0, 0.0, 0.0))
    train = dataclasses.replace(config.train, batch_size=1, lr_g=1e-3, lr_decay=None, ema=0.0)
    return dataclasses.replace(config, data=data, method=method, train=train)


def one_pair(config: Config) -> PairBatch:
    source = PairSource(Store(Path(config.data.store or "")), "train", 1, 0, config.data.degrade)
    return source.batch(0)


def learn(config: Config, batch: PairBatch, steps: int, every: int) -> Iterator[tuple[int, float]]:
    """Give steps done and PSNR now and then."""
    torch.manual_seed(0)
    phases, networks = make_method(config).training_phases(), make_translation_networks(config)
    updates = Updates(config.train, phases, networks, torch.device("cpu"))
    for step in range(steps):
        for phase in (phase for phase in phases if phase.is_due(step)):
            updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=step))
        if (step + 1) % every == 0:
            with torch.no_grad():
                yield step + 1, psnr(networks.translate(batch.source).mean, batch.target)


def psnr(x: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio for a range of 2, dB."""
    return float(-10 * torch.log10((x - target).square().mean() / 4))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(cli.run(lambda _: main()))
