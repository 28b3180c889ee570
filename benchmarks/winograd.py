"""Does Winograd speed up a whole training step on the CPU? Steps with and without it, interleaved in one run.

A step is that of `hagan3d train` on random volumes, with the real schedule of phases and penalties. Every round runs
the same step number with and without it, in rotating order. The first step must give the same loss terms. The gain is
the time without it, divided by the time with it. With one thread, times are CPU times of the process, so that other
processes on the machine disturb them less; the fastest step is disturbed least.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import torch
from torch import Tensor

from hagan3d import ops, run_settings
from hagan3d.config import Config
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.ops.winograd import dispatch

ON, OFF = "on", "off (HAGAN3D_WINOGRAD=0)"
VARIANTS = {ON: True, OFF: False}  # values of `dispatch.ENABLED`
Step = Callable[[int], dict[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomBatch(Batch):
    """Volumes of random voxels in [-1, 1]."""

    volumes: None = None
    length: int

    def slabs(self) -> Generator[Tensor]:
        """Yield the disjoint sub-volumes of the volumes."""
        for _ in range(0, self.length, self.window.shape[2]):
            yield torch.rand_like(self.window) * 2 - 1


def main() -> None:
    """Check, time and print a table for each config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="+", help="Config files of method hagan, run in fp32.")
    parser.add_argument("--batch", type=int, help="Volumes per step, if not that of the config.")
    parser.add_argument("--rounds", type=int, default=16, help="Timed steps per variant, after one to warm up.")
    a = parser.parse_args()
    print(f"$ {' '.join(['python', *sys.argv])}")
    print(describe())
    for path in a.configs:
        config = load_config(path, a.batch)
        check_same_terms(config)
        times = interleaved(make_step(config), VARIANTS, a.rounds)
        print(f"\n{path}, {'x'.join(map(str, config.data.size))}, batch {config.train.batch_size}, {a.rounds} rounds")
        print(f"  {'':30} {'median s':>9} {'fastest s':>9} {'gain, medians':>14} {'gain, fastest':>14}")
        for name, seconds in times.items():
            median, fastest = statistics.median(seconds), min(seconds)
            gains = median / statistics.median(times[ON]), fastest / min(times[ON])
            print(f"  {name:30} {median:9.3f} {fastest:9.3f} {gains[0]:14.3f} {gains[1]:14.3f}")
        sys.stdout.flush()


def describe() -> str:
    """Describe the machine and the software."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    load = f"load average at start {os.getloadavg()[0]:.2f}"
    return f"{cpu}, {cores}, {load}; torch {torch.__version__}, Python {platform.python_version()}; {ops.backend()}"


def load_config(path: Path, batch: int | None) -> Config:
    """Read a config file; precision becomes fp32, since there is no Winograd kernel for bf16."""
    config = run_settings.load_config(path)
    size = batch or config.train.batch_size
    train = dataclasses.replace(config.train, precision="fp32", batch_size=size, accumulate=1)
    return dataclasses.replace(config, train=train)


def make_step(config: Config) -> Step:
    """Return a function that runs the training step of a given number, and returns its loss terms."""
    torch.manual_seed(0)
    size, depth, factor, count = config.data.size, config.data.depth, config.data.factor, config.train.batch_size
    method = make_method(config)
    phases = method.training_phases()
    updates = Updates(config.train, phases, make_networks(config), torch.device("cpu"))
    batch = RandomBatch(
        window=torch.rand(count, 1, depth, *size[1:]) * 2 - 1,
        low=torch.rand(count, 1, *(side // factor for side in size)) * 2 - 1,
        start=torch.arange(count) * factor % (size[0] - depth),
        label=torch.zeros(count, dtype=torch.int64),
        samples=tuple(range(count)),
        length=size[0],
        seed=0,
        step=0,
        state=method.initial_state(),
    )

    def step(number: int) -> dict[str, float]:
        terms: dict[str, float] = {}
        for phase in (phase for phase in phases if phase.is_due(number)):
            values = updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=number))
            terms |= {f"{phase.name}/{name}": value.item() for name, value in values.items()}
        return terms

    return step


def select(variant: str) -> None:
    """Switch the Winograd kernels on or off."""
    dispatch.ENABLED = VARIANTS[variant]


def check_same_terms(config: Config) -> None:
    """Raise InputError unless the first step gives the same loss terms with and without Winograd kernels."""
    terms = {}
    for name in VARIANTS:
        select(name)
        terms[name] = make_step(config)(0)
    expected = terms[OFF]
    for name, found in terms.items():
        for term, value in found.items():  # Adam's first step has the sign of each gradient, however small that is
            if not abs(value - expected[term]) <= 1e-2 * abs(expected[term]) + 1e-3:
                raise InputError(f"{name}: {term} is {value}, expected {expected[term]}")


def interleaved(step: Step, variants: Iterable[str], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each variant's steps: of one thread its CPU time, which other processes disturb less."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + warm_up):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            select(name)
            begin = clock()
            step(number)
            if number >= warm_up:
                seconds[name].append(clock() - begin)
    return seconds


if __name__ == "__main__":
    main()
