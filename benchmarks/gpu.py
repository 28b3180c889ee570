"""What a GPU can do, in one command and about ten minutes: doctor, tests, kernels, memory, training, sampling.

Each part is a process with a time limit, so that one that fails does not stop the others. Results are written to
benchmarks/results/gpu_NAME/: a table, the log of every part, and the JSON of those that write it.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import metered
import torch

from hagan3d import __version__, ops
from hagan3d.data.io.files import write_text

ROOT = Path(__file__).parents[1]
LIMIT = "16GB"  # of the GPU's memory, for training
TINY = "--hagan.channels 64 --hagan.d_channels 64 --hagan.latent_dim 8 --train.batch_size 2 --hagan.minibatch_std 2"


@dataclass(frozen=True)
class Part:
    """A command with its time limit."""

    name: str
    words: tuple[str, ...]
    seconds: int
    """Time limit."""
    needs: tuple[str, ...] = ()
    """Parts whose files it reads."""


@dataclass(frozen=True)
class Run:
    """A training run on phantoms."""

    side: int
    config: str
    phantoms: int
    steps: int
    seconds: int
    """Time limit; the forms of convolutions are timed first."""
    changes: str = ""
    made: int = 0
    """Side of the phantoms, which are enlarged to ``side``: those of 512^3 take minutes. 0: ``side``."""


FULL = (
    Run(128, "hagan_128", 8, 200, 150),
    Run(256, "hagan_256", 4, 200, 210),
    Run(512, "hagan_512", 2, 20, 210, made=256),
)
SMALL = (Run(32, "hagan_32", 4, 3, 120, TINY),)


def main() -> int:
    """Run the parts, print and write the table; the status is 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the parts without a GPU.")
    parser.add_argument("--tiny", action="store_true", help="Smallest sizes, to try the parts.")
    parser.add_argument("--only", nargs="+", default=[], help="Parts to run, with those that they need. Default: all.")
    parser.add_argument("--out", type=Path, help="Folder of the results.")
    a = parser.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; see `hagan3d doctor`", file=sys.stderr)
        return 2
    out = (a.out or ROOT / "benchmarks" / "results" / f"gpu_{slug(device_name(a.device))}").resolve()
    with tempfile.TemporaryDirectory() as work:
        offered = list(parts(a.device, a.tiny, out, Path(work)))
        if unknown := set(a.only) - {part.name for part in offered}:
            parser.error(
                f"--only {' '.join(sorted(unknown))}: the parts are {', '.join(part.name for part in offered)}"
            )
        wanted = {name for part in offered if part.name in a.only for name in (part.name, *part.needs)}
        out.mkdir(parents=True, exist_ok=True)
        rows = []
        for part in offered:
            if not a.only or part.name in wanted:
                rows.append(run(part, out))
                print(line(rows[-1]), flush=True)
    write_results(out, a.device, rows)
    return 1 if any(row["status"] != "ok" for row in rows) else 0


def parts(device: str, tiny: bool, out: Path, work: Path) -> Iterator[Part]:
    """Yield the parts, each after those whose files it reads."""
    module, benchmark = (sys.executable, "-m"), (sys.executable,)
    full = () if tiny else ("--full",)
    yield Part("doctor", (*module, "hagan3d.doctor", "--device", device, *full, "--out", str(out / "doctor.json")), 240)
    fast = ("-m", "not slow", *(("-k", "checks") if tiny else ()))
    yield Part("tests", (*module, "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "ops"), *fast), 180)
    kernels = ("--device", device, "--no-compile", "--json", str(out / "kernels.json"))
    small = ("--only", "32->1, 16 x 16^3", "--rounds", "1") if tiny else ("--rounds", "5")
    yield Part("kernels", (*benchmark, str(ROOT / "benchmarks" / "kernels.py"), *kernels, *small), 120)
    names = ("hagan_32",) if tiny else ("hagan_64", "hagan_128", "hagan_256", "upgan_32")
    configs = [str(ROOT / "configs" / f"{name}.yaml") for name in names]
    memory = ("--configs", *configs, "--kind", "cuda", "--json", str(out / "memory.json"))
    yield Part("memory", (*benchmark, str(ROOT / "benchmarks" / "memory.py"), *memory), 120)
    if not tiny:
        speed = ("--sizes", "128", "--precisions", "fp32", "bf16", "--json", str(out / "speed.json"))
        yield Part("speed", (*benchmark, str(ROOT / "benchmarks" / "speed.py"), *speed), 120)
    for training in SMALL if tiny else FULL:
        yield from training_parts(training, device, work)


def training_parts(training: Run, device: str, work: Path) -> Iterator[Part]:
    """Yield the parts of one size: phantoms, their store, training under a limit of memory, sampling."""
    side, folder, names = training.side, work / f"{training.side}", [f"phantoms_{training.side}"]
    module, made = (sys.executable, "-m"), str(training.made or side)
    phantoms = ("--num", str(training.phantoms), "--size", made, made, made, "--out", str(folder / "phantoms"))
    yield Part(names[-1], (*module, "hagan3d.phantoms", *phantoms), 120)
    store = ("--input", str(folder / "phantoms" / "volumes"), "--output", str(folder / "phantoms.h5"))
    rule = ("--size", *[str(side)] * 3, "--intensity", "window", "--window", "-1024", "600")
    yield Part(f"prepare_{side}", (*module, "hagan3d.prepare", *store, *rule), 120, tuple(names))
    names.append(f"prepare_{side}")
    limit = ("--vram", LIMIT) if device == "cuda" else ()
    settings = f"--config {training.config} --train.steps {training.steps} --train.device {device} {training.changes}"
    where = ("--data.store", str(folder / "phantoms.h5"), "--out", str(folder / "run"), *limit)
    quiet = ("--log.preview_every", "0", "--log.every", "10")
    train = (*module, "hagan3d.train", *settings.split(), *where, *quiet)
    yield Part(f"train_{side}", train, training.seconds, tuple(names))
    names.append(f"train_{side}")
    sample = ("--num", "2", "--out", str(folder / "samples"), "--device", device, "--format", "nii")
    generate = (*module, "hagan3d.generate", str(folder / "run"), *sample)
    yield Part(f"generate_{side}", generate, 60, tuple(names))


def run(part: Part, out: Path) -> dict[str, object]:
    """Run a part to its end or its limit; return its row of the table."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    begin = time.monotonic()
    with (out / f"{part.name}.log").open("w") as log:
        try:
            done = subprocess.run(
                part.words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=part.seconds
            )
            status = "ok" if done.returncode == 0 else f"failed ({done.returncode})"
        except subprocess.TimeoutExpired:
            status = "out of time"
    words = [Path(word).name if word.startswith("/") else word for word in part.words]
    return {"part": part.name, "status": status, "seconds": time.monotonic() - begin, "command": " ".join(words)}


def line(row: dict[str, object]) -> str:
    return f"{row['part']:<16}{row['status']:<14}{row['seconds']:8.1f} s"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}"


def slug(name: str) -> str:
    """Return a name in letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def write_results(out: Path, device: str, rows: list[dict[str, object]]) -> None:
    """Write the table, with the device and the versions, as text and as JSON; other parts of an earlier one stay."""
    machine = {
        "device": device_name(device),
        "memory_gb": round(torch.cuda.mem_get_info()[1] / 1e9, 1) if device == "cuda" else 0,
        "hagan3d": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "cudnn": torch.backends.cudnn.version() or 0,
        "operators": ops.backend(),
        "commit": metered.commit(),
    }
    path, now = out / "summary.json", [row["part"] for row in rows]
    before = json.loads(path.read_text())["parts"] if path.exists() else []
    rows = [*(row for row in before if row["part"] not in now), *({**row, "commit": metered.commit()} for row in rows)]
    text = "\n".join([*(f"{key}: {value}" for key, value in machine.items()), "", *map(line, rows)])
    write_text(out / "summary.txt", text + "\n")
    write_text(path, json.dumps({"machine": machine, "parts": rows}, indent=1) + "\n")
    print(f"\n{text}\n\nresults: {out}")


if __name__ == "__main__":
    sys.exit(main())
