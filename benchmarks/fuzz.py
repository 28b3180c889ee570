"""Are damaged and hostile files read right or refused? Mutates small files of every kind that is read, and counts.

Every file is read in a process of its own with a limit on its address space. Outcomes: read; refused in one line; and
neither: another exception, a crash, more than 5 s of CPU time, a lack of memory, or voxels that differ from those of
the original although a checksum protects them. Case N of a kind is the same file on every machine (up to versions of
the libraries that write the originals): `--kinds nifti --first N --count 1 --keep FILE` writes it and shows what it
raises.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from hagan3d.data.io.files import write_text
from hagan3d.errors import InputError
from tests.data.samples import KINDS, Kind

CPU_SECONDS = 5.0  # of one file
WALL_SECONDS = 60.0  # after which a process is ended, as the machine may be shared
MEMORY = 2**30  # bytes of address space, beyond those of the started process
SHARED_LINES = ("dataset.json", "cases", "pairs", "labels", "list")  # kinds of which a line names each problem
NO_MEMORY = ("out of memory", "MB of memory", "free memory")  # a claim of the header was believed
LONGEST_LINE = 1100  # characters

Outcome = tuple[str, str]
"""read, refused or neither, and a detail: the place of the error, or why."""


def read_case(kind: Kind, name: str, target: Path, original: bytes, digest: str, case: int, seed: int) -> Outcome:
    """Write a mutated file, read it, and say how that ended."""
    random = np.random.default_rng([seed, *name.encode(), case])
    data, is_protected = kind.mutated(original, random)
    target.write_bytes(data)
    started = time.process_time()
    try:
        values = kind.read(target)
    except InputError as error:
        outcome = _refusal(str(error), name)
    except Exception as error:
        outcome = "neither", _place(error)
    else:
        is_other = is_protected and _digest(values) != digest
        outcome = ("neither", "other voxels than those of the original") if is_other else ("read", "")
    seconds = time.process_time() - started
    return ("neither", f"takes {seconds:.0f} s") if seconds > CPU_SECONDS else outcome


def _refusal(message: str, name: str) -> Outcome:
    if any(words in message for words in NO_MEMORY):
        return "neither", f"memory: {message[:200]}"
    if (
        not message.strip()
        or max(map(len, message.splitlines())) > LONGEST_LINE
        or ("\n" in message and name not in SHARED_LINES)
    ):
        return "neither", f"not one line: {message[:200]!r}"
    return "refused", ""


def _digest(values: Any) -> str:
    data = np.ascontiguousarray(values).tobytes() if isinstance(values, np.ndarray) else repr(values).encode()
    return hashlib.sha256(data).hexdigest()


def _place(error: BaseException) -> str:
    """Name an error and the line of the package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/hagan3d/" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{type(error).__name__} at {where}: {str(error).splitlines()[0][:120] if str(error) else ''}"


def work(connection: Connection, seed: int) -> None:
    """Read cases until the connection ends; the parent sends (kind, number)."""
    size = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    limit = int(size.split()[1]) * 1024 + MEMORY
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1), os.dup2(devnull, 2)  # libraries print what they find
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, tuple[Path, bytes, str]] = {}
        for name in iter(connection.recv, None):
            name, case = name
            if name not in made:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                place = Path(folder) / name
                place.mkdir()
                target = KINDS[name].make(place)
                made[name] = target, target.read_bytes(), _digest(KINDS[name].read(target))
                resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            target, original, digest = made[name]
            connection.send(read_case(KINDS[name], name, target, original, digest, case, seed))


class Worker:
    """A process that reads cases, started again after a crash."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._start()

    def _start(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(theirs, self.seed), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, name: str, case: int) -> Outcome:
        """Read one case."""
        try:
            self.connection.send((name, case))
            if self.connection.poll(WALL_SECONDS):
                outcome: Outcome = self.connection.recv()
                return outcome
            reason = f"takes more than {WALL_SECONDS:.0f} s"
        except (EOFError, ConnectionError):
            self.process.join(10)
            reason = f"crash, exit status {self.process.exitcode}"
        self.stop()
        self._start()
        return "neither", reason

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Tally:
    """Counts of outcomes by kind, and the first case of every fault."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter[str]] = {}
        self.faults: dict[tuple[str, str], list[int]] = {}

    def add(self, name: str, case: int, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts.setdefault(name, collections.Counter())[outcome[0]] += 1
        if outcome[0] == "neither":
            self.faults.setdefault((name, outcome[1]), []).append(case)

    @property
    def total(self) -> collections.Counter[str]:
        """Counts over all kinds."""
        return sum(self.counts.values(), collections.Counter())

    def table(self, seed: int, seconds: float) -> str:
        """Return the counts as text, faults below."""
        command = " ".join(["python benchmarks/fuzz.py", *sys.argv[1:]])
        lines = [command, f"Python {platform.python_version()}, seed {seed}, {seconds:.0f} s", ""]
        lines.append(f"{'kind':<20}{'files':>9}{'read':>9}{'refused':>9}{'neither':>9}")
        for name, counts in [*sorted(self.counts.items()), ("all", self.total)]:
            row = "".join(f"{counts[outcome]:>9}" for outcome in ("read", "refused", "neither"))
            lines.append(f"{name:<20}{counts.total():>9}{row}")
        for (name, reason), cases in sorted(self.faults.items(), key=lambda item: -len(item[1])):
            lines.append(f"{name}: {len(cases)} x {reason} (--first {cases[0]})")
        return "\n".join(lines) + "\n"


def keep(name: str, case: int, seed: int, path: Path) -> None:
    """Write one mutated file to a path, and read it with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        kind = KINDS[name]
        target = kind.make(Path(folder))
        data, _ = kind.mutated(target.read_bytes(), np.random.default_rng([seed, *name.encode(), case]))
        path.write_bytes(data)
        target.write_bytes(data)
        try:
            print(kind.read(target))
        except Exception:
            traceback.print_exc()


def main() -> int:
    """Read mutated files for a time or a count; the exit status is 1 if any is neither read nor refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="How long.")
    parser.add_argument("--count", type=int, help="Cases of each kind, instead of a time.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first case of each kind.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all mutations.")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS), help="Kinds of files.")
    parser.add_argument("--keep", type=Path, help="Write the first case to this file, and show how reading it ends.")
    parser.add_argument("--out", type=Path, help="File for the counts, as JSON if its name ends so, else as text.")
    options = parser.parse_args()
    if options.keep:
        keep(options.kinds[0], options.first, options.seed, options.keep)
        return 0
    tally, started, worker = Tally(), time.monotonic(), Worker(options.seed)
    end, case = started + 60 * options.minutes, options.first
    with contextlib.suppress(KeyboardInterrupt):
        while case < options.first + options.count if options.count else time.monotonic() < end:
            for name in options.kinds:
                tally.add(name, case, worker.run(name, case))
            case += 1
    worker.stop()
    text = tally.table(options.seed, time.monotonic() - started)
    print(text, end="")
    if options.out:
        counts = {name: dict(found) for name, found in tally.counts.items()}
        write_text(options.out, json.dumps(counts) + "\n" if options.out.suffix == ".json" else text)
    return 1 if tally.total["neither"] else 0


if __name__ == "__main__":
    sys.exit(main())
