"""Is anything lost by kills and faults? Kills commands at random moments, runs the same line again, and compares.

Every command runs in a forked process that is killed by SIGKILL at a random moment of its undisturbed duration, again
and again until it ends; its result must then equal the undisturbed one, byte for byte. Further faults: no space on the
disk (a limit on the size of files, RLIMIT_FSIZE, which fails where a full disk would), a folder that cannot be written
to, too few file handles, too little address space, a store that disappears, a clock that goes back. Each must end
in one line with status 2, or not matter, and leave what was there intact. Kills are recorded as they happen; the same
line goes on after a stop.
"""

import argparse
import contextlib
import errno
import hashlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from hagan3d import cli, generate, train
from hagan3d.checkpoint.files import FOLDER
from hagan3d.data.io.files import write_text

CONFIG = "wgan_gp_32"
SIZE = "--size 32 32 32 --validation 0.5 --workers 1"
SMALL = "--wgan_gp.width 8 --wgan_gp.latent_dim 4 --wgan_gp.critic_steps 1"
ENCODER = "--config hagan_32"
CONDITIONAL = f"{ENCODER} --hagan.conditional true"
TRANSLATOR = "--config pix2pix_32 --data.degrade.kind noise"
STEPS = "--train.batch_size 1 --train.device cpu --log.preview_every 0 --log.every 2 --log.checkpoint_steps 1"
LONGEST = 600.0  # seconds of one undisturbed command
EXISTS = "--force to replace"  # of a command whose result is complete
BUG = 70  # exit status of a traceback


@dataclass(frozen=True)
class Scenario:
    """A command, and which of its files are its result."""

    command: str
    """Of hagan3d, or a module with a main."""
    arguments: str
    """With {scans}, {store}, {run} and {out}."""
    results: tuple[str, ...]
    """Patterns of files below the folder of {out}."""


TRAIN = f"--config {CONFIG} --data.store {{store}} {SMALL} {STEPS} --train.steps 6 --out {{out}}/run"
SCENARIOS = {
    "prepare": Scenario("prepare", f"--input {{scans}} --output {{out}}/a.h5 {SIZE}", ("a.h5", "a.png")),
    "prepare, 2 workers": Scenario(
        "prepare",
        f"--input {{scans}} --output {{out}}/a.h5 {SIZE.replace('workers 1', 'workers 2')}",
        ("a.h5", "a.png"),
    ),
    "prepare, shard": Scenario("prepare", f"--input {{scans}} --output {{out}} {SIZE} --shard 1/2", ("*.h5",)),
    "train": Scenario("train", TRAIN, ("run/metrics.jsonl", "run/checkpoints/step-00000006.pt")),
    "train, 2 processes": Scenario(
        "torch.distributed.run",
        f"--standalone --nproc_per_node 2 -m hagan3d.train {TRAIN.replace('batch_size 1', 'batch_size 2')}",
        ("run/metrics.jsonl", "run/checkpoints/step-00000006.pt"),
    ),
    "generate": Scenario("generate", "{run} --num 4 --device cpu --out {out}/g", ("g/*.nii.gz", "g/samples.csv")),
    "evaluate": Scenario("evaluate", "{run} --store {store} --device cpu --out {out}/e", ("e/metrics.json",)),
    "encode": Scenario(
        "encode",
        "{encoder} --input {store} --device cpu --out {out}/f --reconstruct",
        ("f/features.csv", "f/**/*.nii.gz"),
    ),
    "translate": Scenario(
        "translate", "{translator} --input {scans} --device cpu --out {out}/t", ("t/**/*.nii.gz", "t/**/*.csv")
    ),
    "augment": Scenario("augment", "{classes} --store {store} --per_class 4 --device cpu --out {out}/a.h5", ("a.h5",)),
}


def launch(name: str, arguments: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a command in a forked process with its own process group, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    status = BUG
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        main = importlib.import_module(name if "." in name else f"hagan3d.{name}").main
        prepare()
        status = cli.run(main, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """Wait for a process; None if it still runs after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill(pid: int) -> None:
    """Kill a process and those it started."""
    for process in [pid, *descendants(pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(pid, 0)


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that they have, whatever their group."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            yield child
            yield from descendants(child)


def digest(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return the hash of each result by its name."""
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return {str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest() for path in files}


def content(path: Path) -> bytes:
    """Return the bytes of a file; of a checkpoint those of its values, as equal ones may be pickled differently."""
    if path.suffix != ".pt":
        return path.read_bytes()
    values = torch.load(path, weights_only=True)
    return repr(plain(values)).encode()


def plain(value: Any) -> Any:
    """Replace the tensors among nested values by hashes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value, key=str)}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def message(log: Path) -> str:
    """Return the last line of a log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:150] if lines else ""


class Bench:
    """A folder with scans, a store and a model, and the table of what happened."""

    def __init__(self, folder: Path, record: Path) -> None:
        self.folder, self.record = folder, record
        self.rows: dict[str, list[object]] = json.loads(record.read_text()) if record.exists() else {}
        self.log = folder / "log.txt"
        self.names = {name: folder / name for name in ("scans", "run", "classes", "encoder", "translator")}
        self.names["store"] = folder / "store.h5"
        for number in range(14):
            voxels = np.random.default_rng(number).integers(-900, 500, (24, 24, 24)).astype(np.int16)
            path = self.names["scans"] / f"scan{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), path)
        rows = [f"scan{number},{'small' if number % 2 else 'large'}" for number in range(14)]
        (folder / "labels.csv").write_text("\n".join(["id,class", *rows]) + "\n")
        self.must("prepare", f"--input {{scans}} --labels {folder}/labels.csv --output {{store}} {SIZE}")
        self.must("train", f"--config {CONFIG} --data.store {{store}} {SMALL} {STEPS} --train.steps 2 --out {{run}}")
        self.must("evaluate", "--store {store} --device cpu --train_features --feature_training.steps 2")
        pairs = STEPS.replace("batch_size 1", "batch_size 2")  # HA-GAN compares pairs of latents
        for name, settings in (("classes", CONDITIONAL), ("encoder", ENCODER), ("translator", TRANSLATOR)):
            self.must("train", f"{settings} --data.store {{store}} {pairs} --train.steps 2 --out {{{name}}}")

    def words(self, arguments: str, out: Path) -> list[str]:
        """Fill in the names of an argument line."""
        return arguments.format(out=out, **self.names).split()

    def must(self, command: str, arguments: str, out: Path | None = None) -> float:
        """Run a command undisturbed; return the seconds it takes."""
        started = time.monotonic()
        status = wait(launch(command, self.words(arguments, out or self.folder), self.log), LONGEST)
        if status:
            raise SystemExit(f"{command}: status {status} without a fault: {self.log.read_text()}")
        return time.monotonic() - started

    def undisturbed(self, scenario: Scenario) -> tuple[dict[str, str], float]:
        """Run a command undisturbed in a folder of its own; return the hashes of its results and its seconds."""
        seconds = self.must(scenario.command, scenario.arguments, out := make(self.folder / "undisturbed"))
        for pattern in scenario.results:
            if not any(out.glob(pattern)):
                raise SystemExit(f"{scenario.command}: has not written {pattern}, there is nothing to compare")
        return digest(out, scenario.results), seconds

    def save(self, fault: str, times: int, lost: int, said: str) -> None:
        """Record one row, and print it."""
        said = said.replace(f"{self.folder}/", "")
        self.rows[fault] = [times, lost, said]
        write_text(self.record, json.dumps(self.rows, indent=1) + "\n")
        print(f"{fault}: {times} times, {lost} lost, {said}", flush=True)

    def kills(self, name: str, count: int, seed: int) -> None:
        """Kill a command at random moments, ``count`` times in all, and compare every result."""
        scenario = SCENARIOS[name]
        expected, seconds = self.undisturbed(scenario)
        chance = random.Random(f"{seed} {name}")
        killed = lost = 0
        said = ""
        while killed < count:
            make(out := self.folder / "disturbed")
            words = self.words(scenario.arguments, out)
            while True:
                pid = launch(scenario.command, words, self.log)
                status = wait(pid, chance.uniform(0, seconds) if killed < count else LONGEST)
                if status is not None:
                    break
                kill(pid)
                killed += 1
            is_complete = EXISTS in message(self.log)  # the kill came after the last file
            if (status and not is_complete) or digest(out, scenario.results) != expected:
                lost += 1
                said = message(self.log) if status else "another result"
        self.save(f"kill: {name}", killed, lost, said or "equal results")

    def fault(self, name: str, scenario: str, prepare: Callable[[], None], out: Path) -> None:
        """Run a command with a fault, then without: it ends well or in one line; the results are equal."""
        chosen = SCENARIOS[scenario]
        expected, _ = self.undisturbed(chosen)
        words = self.words(chosen.arguments, out)
        status = wait(launch(chosen.command, words, self.log, prepare), LONGEST)
        said = message(self.log)
        is_clear = status == 0 or (status == 2 and said.startswith("error: "))
        self.must(chosen.command, chosen.arguments, out)
        equal = digest(out, chosen.results) == expected
        self.save(name, 1, 0 if is_clear and equal else 1, f"status {status}: {said}")


def make(folder: Path) -> Path:
    """Make an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def limit(kind: int, value: int) -> Callable[[], None]:
    """Return a function that limits a resource of this process."""

    def apply() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))

    return apply


def full_disk() -> None:
    """Let the flush of a checkpoint fail, as on a full disk."""
    flush = os.fsync

    def failing(handle: int) -> None:
        if f"/{FOLDER}/" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    os.fsync = failing


def address_space() -> None:
    """Leave 16 MB of address space."""
    size = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + 2**24, resource.RLIM_INFINITY))


def clock_goes_back() -> None:
    """Let the clock of this process go back by a day."""
    now = time.time
    time.time = lambda: now() - 86400


def faults(bench: Bench) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the faults that are no kills."""

    def one(name: str, scenario: str, prepare: Callable[[], None]) -> tuple[str, Callable[[], None]]:
        return name, lambda: bench.fault(name, scenario, prepare, make(bench.folder / "disturbed"))

    yield one("full disk (RLIMIT_FSIZE 100 kB): prepare", "prepare", limit(resource.RLIMIT_FSIZE, 100_000))
    yield one("full disk (RLIMIT_FSIZE 100 kB): train", "train", limit(resource.RLIMIT_FSIZE, 100_000))
    yield one("full disk (RLIMIT_FSIZE 20 kB): generate", "generate", limit(resource.RLIMIT_FSIZE, 20_000))
    yield one("ENOSPC while a checkpoint is flushed", "train", full_disk)
    yield one("8 file handles: prepare", "prepare", limit(resource.RLIMIT_NOFILE, 8))
    yield one("8 file handles: train", "train", limit(resource.RLIMIT_NOFILE, 8))
    yield one("16 MB of address space: train", "train", address_space)
    yield one("clock goes back a day: train", "train", clock_goes_back)
    yield "read-only folder: prepare", lambda: read_only(bench)
    yield "store removed while training", lambda: removed_store(bench)


def read_only(bench: Bench) -> None:
    """Write into a folder without permission; root may write anywhere, so /proc stands for it."""
    words = bench.words(f"--input {{scans}} --output {{out}}/a.h5 {SIZE}", Path("/proc"))
    status = wait(launch("prepare", words, bench.log), LONGEST)
    said = message(bench.log)
    bench.save("read-only folder: prepare", 1, int(status != 2), f"status {status}: {said}")


def removed_store(bench: Bench) -> None:
    """Move the store away while training, and back before the same line is run again."""
    out, scenario = make(bench.folder / "disturbed"), SCENARIOS["train"]
    expected, _ = bench.undisturbed(scenario)
    aside = bench.names["store"].with_suffix(".aside")

    def remove() -> None:
        from hagan3d.data.store.store import Store

        read, left = Store._values, [3]

        def vanishing(self: Store, *arguments: object) -> np.ndarray:
            left[0] -= 1
            if left[0] == 0:
                self.close()
                bench.names["store"].rename(aside)
            return read(self, *arguments)

        Store._values = vanishing

    status = wait(launch("train", bench.words(scenario.arguments, out), bench.log, remove), LONGEST)
    said = message(bench.log)
    aside.rename(bench.names["store"])
    bench.must("train", scenario.arguments, out)
    equal = digest(out, scenario.results) == expected
    bench.save("store removed while training", 1, int(status != 2 or not equal), f"status {status}: {said}")


def main() -> int:
    """Run what the record lacks, write the table; the exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="Kills of training; of each other command a fifth.")
    parser.add_argument("--only", nargs="+", help="Words of the names of faults to run.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.txt"), help="Table.")
    options = parser.parse_args()
    assert train and generate  # imported before the forks, which then start at once
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.out.with_suffix(".json"))
        counts = {name: options.kills if name == "train" else max(1, options.kills // 5) for name in SCENARIOS}
        todo = [
            (f"kill: {name}", lambda name=name, count=count: bench.kills(name, count, options.seed))
            for name, count in counts.items()
        ]
        for name, run in [*todo, *faults(bench)]:
            chosen = not options.only or any(word in name for word in options.only)
            if chosen and name not in bench.rows:
                run()
    table = io.StringIO()
    print(f"python benchmarks/faults.py {' '.join(sys.argv[1:])}\n", file=table)
    print(f"{'fault':<46}{'times':>7}{'lost':>6}  message", file=table)
    for name, (times, lost, said) in bench.rows.items():
        print(f"{name:<46}{times:>7}{lost:>6}  {said}", file=table)
    write_text(options.out, table.getvalue())
    return int(any(lost for _, lost, _ in bench.rows.values()))


if __name__ == "__main__":
    sys.exit(main())
