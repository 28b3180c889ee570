"""Every method on the task of its paper, against doing nothing and against plain regression with the same generator.

The tasks are in methods.yaml; sources are simulated from the volumes of a store, each the same way every time, and
subjects are kept apart. Every run gets as many steps as fill the same minutes of processor time, by the cost of a step
that is measured first. Runs that are done are not repeated, so the same command again resumes; the table shows all runs
that are done.
"""

import argparse
import csv
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import timed
import torch
import yaml

ROOT = Path(__file__).parents[1]
TASKS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "methods.yaml").read_text(encoding="utf-8"))
VOXELS = (("PSNR, dB", "psnr_db"), ("SSIM", "ssim"), ("2D SSIM", "ssim_slices"), ("MAE, %", "mae_percent"))
KINDS = ("method", "regression")
HEADER = ["task", "trained as", "steps", "seconds", *(title for title, _ in VOXELS), "others", "shares of the gradient"]


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stores = sorted({task["store"] for task in TASKS.values()})
    for name in stores:
        parser.add_argument(f"--{name}", type=Path, help=f"Store of the tasks on {name}; without it they are left out.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--minutes", type=float, default=10.0, help="Processor time of each run.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="CONFIG")
    parser.add_argument("--threads", type=int, default=1, help="Of each run.")
    parser.add_argument("--table", action="store_true", help="Print what there is and make nothing.")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same line goes on"))
    torch.set_num_threads(a.threads)
    tasks = [name for name in a.tasks if getattr(a, TASKS[name]["store"]) is not None]
    if not a.table:
        for kind in KINDS:
            for name in tasks:
                if kind == KINDS[0] or TASKS[name]["regression"]:
                    make(name, kind, a)
    table(tasks, a)


def make(name: str, kind: str, a: argparse.Namespace) -> None:
    """Train and evaluate one run."""
    task, folder = TASKS[name], a.out / f"{name}-{kind}"
    settings = {"data.store": str(getattr(a, task["store"])), **task["settings"]}
    settings |= {"data.degrade.fixed": True} if "data.degrade.kind" in settings else {}
    settings |= task["regression"] if kind == "regression" else {}
    config = task.get("config", name)
    step = timed.cost(a.out, folder.name, config, partial(with_steps, settings, task, kind))
    steps = timed.planned_steps(folder, 60 * a.minutes, step)
    timed.make(folder, config, with_steps(settings, task, kind, steps), 60 * a.minutes, a.threads)


def with_steps(settings: dict[str, Any], task: dict[str, Any], kind: str, steps: int) -> dict[str, Any]:
    """Return settings with so many steps, of which each stage has its part."""
    if "stages" not in task:
        return settings | {"train.steps": steps}
    parts = 1 if kind == "regression" else task["stages"]["of"]
    return settings | {"train.steps": steps, task["stages"]["setting"]: max(1, steps // parts)}


def table(tasks: list[str], a: argparse.Namespace) -> None:
    """Print what there is."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, {a.threads} thread a run; torch {torch.__version__}; {commit.strip()}")
    print(f"held-out volumes, in the mask; {a.minutes:g} minutes of processor time a run; shares at the first step")
    rows = [HEADER, *(row for name in tasks for row in rows_of(name, a.out))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def rows_of(name: str, out: Path) -> Iterator[list[str]]:
    """Yield the rows of a task: nothing done, the method, plain regression."""
    title = TASKS[name]["title"]
    for kind in KINDS:
        folder = out / f"{name}-{kind}"
        found = timed.metrics(folder)
        if found is None:
            continue
        if kind == KINDS[0] and "source as it is" in found["summary"]:
            yield [title, "nothing", "", "", *voxels(found, "source as it is"), others(found, "before"), ""]
        plan = yaml.safe_load((folder / "plan.json").read_text())
        spent = f"{plan['seconds']:.0f}"
        cells = [*voxels(found, "translated"), others(found, "after"), shares(folder / "run")]
        yield [title, kind, str(found["step"]), spent, *cells]


def voxels(found: dict[str, Any], what: str) -> list[str]:
    """Return voxel-wise measures in the mask; none of label maps."""
    if found["is_label_map"]:
        return [""] * len(VOXELS)
    rows = found["summary"][what]["mask"]
    return [f"{rows[key]['mean']:.4g}" if key in rows else "" for _, key in VOXELS]


def others(found: dict[str, Any], when: str) -> str:
    """Return Dice per label, or the errors of a registration."""
    if found.get("dice") and when == "after":
        return ", ".join(f"Dice of {label} {values['mean']:.3f}" for label, values in found["dice"].items())
    if found.get("misalignment"):
        return ", ".join(f"{key} {values['mean']:.3g}" for key, values in found["misalignment"][when].items())
    return ""


def shares(run: Path) -> str:
    """Return the share of each term of the generator in the first step."""
    with (run / "loss_shares.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"].startswith("g")]
    return ", ".join(f"{row['phase']}/{row['term']} {100 * float(row['share']):.2g} %" for row in rows)


if __name__ == "__main__":
    main()
