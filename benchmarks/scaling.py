"""How much faster is a step with several processes that share the same batch (strong scaling)?

Starts itself by torchrun once per number of processes; without GPUs they share out the cores. The batch is that of all
processes together, so that every row of the table computes the same.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from hagan3d.config import Config, TrainConfig
from hagan3d.config.methods import config_class
from hagan3d.engine.distributed import init_distributed
from hagan3d.engine.updates import Updates
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.run_settings import DEFAULT_CONFIG, load_config


def main() -> None:
    """Time each number of processes and print the table; as one of them, time the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="Numbers of processes to compare.")
    parser.add_argument("--size", type=int, default=64, help="Side of the cubes.")
    parser.add_argument("--batch", type=int, default=4, help="Volumes per step, of all processes together.")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--steps", type=int, default=5, help="Timed steps, after one to warm up.")
    parser.add_argument("--rounds", type=int, default=3, help="Times that the numbers of processes take turns.")
    parser.add_argument("--threads", type=int, help="Of each process. Default: they share out all cores.")
    a = parser.parse_args()
    if "LOCAL_RANK" in os.environ:
        work(a)
        return
    cores, count = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    device = torch.cuda.get_device_name() if count else f"{cores} cores, {platform.machine()}"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {device}")
    print(
        f"{a.size}^3, batch {a.batch}, {a.precision}, published networks with norm rms, medians of {a.steps} steps,",
        end=" ",
    )
    print(f"of {a.rounds} rounds in turns\n\n{'processes':>9}{'s per step':>12}{'times as fast':>15}{'of linear':>11}")
    rounds = [[timed(number, a.threads or max(1, cores // number)) for number in a.processes] for _ in range(a.rounds)]
    for number, seconds in zip(a.processes, zip(*rounds, strict=True), strict=True):
        gain = statistics.median(one[0] for one in rounds) / statistics.median(seconds)
        linear = gain * a.processes[0] / number
        print(f"{number:>9}{statistics.median(seconds):12.3f}{gain:15.2f}{linear:11.0%}", flush=True)


def timed(number: int, threads: int) -> float:
    """Return the median seconds of a step of so many processes."""
    here = [str(Path(__file__)), *sys.argv[1:]]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), *here]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def work(a: argparse.Namespace) -> None:
    """Run the steps of one process; the first says how long one took."""
    with init_distributed() as distributed:
        per_rank = distributed.per_rank_batch(a.batch, 1)
        device = torch.device("cuda", distributed.local_rank or 0) if torch.cuda.is_available() else torch.device("cpu")
        kind = config_class(load_config(DEFAULT_CONFIG).name)
        train = TrainConfig(batch_size=per_rank, precision=a.precision)
        method = make_method(Config(kind(), kind.data_config(size=(a.size,) * 3), train))
        phases = method.training_phases()
        with device:
            torch.manual_seed(0)
            networks = make_networks(method.config)
            updates = Updates(train, phases, networks, device, distributed)
            batch = method.zero_batch()
            seconds = []
            for _ in range(a.steps + 1):
                begin = time.perf_counter()
                for phase in phases:
                    updates.run(phase, dataclasses.replace(batch, phase=phase.name))
                distributed.mean({}, False)  # waits for all
                seconds.append(time.perf_counter() - begin)
        if distributed.is_first:
            print(json.dumps({"seconds": statistics.median(seconds[1:])}))


if __name__ == "__main__":
    main()
