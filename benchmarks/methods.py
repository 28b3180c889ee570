"""Every method on the task of its paper, against doing nothing and against plain regression with the same generator.

The tasks are in methods.yaml; sources are simulated from the volumes of a store, each the same way every time, and
subjects are kept apart. Every run gets as many steps as fill the same minutes of processor time, by the cost of a step
that is measured first. Runs that are done are not repeated, so the same command again resumes; the tables show all runs
that are done. `--record` keeps their rows in results/methods.json, from which components.py makes the tables of
docs/methods.md. Methods that train without pairs get the volumes of a store and the same in another contrast
(`contrast.py`), and are compared with the other contrast of the same subject in both directions.
"""

import argparse
import csv
import json
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import metered
import timed
import torch
import yaml
from contrast import contrast_store

TASKS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "methods.yaml").read_text(encoding="utf-8"))
VOXELS = (("PSNR, dB", "psnr_db"), ("SSIM", "ssim"), ("2D SSIM", "ssim_slices"), ("MAE, %", "mae_percent"))
METHOD, REGRESSION = "method", "regression"
RECORDS = Path(__file__).parent / "results" / "methods.json"
RUN = ["task", "trained as", "steps", "seconds"]
HEADER = [*RUN, *(title for title, _ in VOXELS), "others", "shares of the gradient"]
WAYS = {"a2b": "there", "b2a": "back"}
BOTH_WAYS = ("SSIM", "ssim"), ("PSNR, dB", "psnr_db")
DOMAIN_HEADER = [
    *RUN,
    *(f"{title} {way}" for title, _ in BOTH_WAYS for way in WAYS.values()),
    *(f"KID {way}" for way in WAYS.values()),
    "SSIM of cycles",
    "shares of the gradient",
]


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
    parser.add_argument("--record", action="store_true", help="Keep the rows in results/methods.json.")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same line goes on"))
    torch.set_num_threads(a.threads)
    tasks = [name for name in a.tasks if getattr(a, TASKS[name]["store"]) is not None]
    if not a.table:
        rounds = max((len(runs(TASKS[name])) for name in tasks), default=0)
        for number in range(rounds):  # the methods of all tasks first
            for name in tasks:
                for kind in list(runs(TASKS[name]))[number : number + 1]:
                    make(name, kind, a)
    table(tasks, a)
    if a.record:
        record(tasks, a)


def runs(task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the runs of a task by name, with what each changes in its settings."""
    if "variants" in task:
        return dict(task["variants"])
    return {METHOD: {}} | ({REGRESSION: task["regression"]} if task.get("regression") else {})


def make(name: str, kind: str, a: argparse.Namespace) -> None:
    """Train and evaluate one run."""
    task, folder = TASKS[name], a.out / f"{name}-{kind}"
    store = getattr(a, task["store"])
    store = contrast_store(store, a.out) if task.get("domains") else store
    settings = {"data.store": str(store), **task["settings"]}
    settings |= {"data.degrade.fixed": True} if "data.degrade.kind" in settings else {}
    settings |= runs(task)[kind]
    config = task.get("config", name)
    step = timed.cost(a.out, folder.name, config, partial(with_steps, settings, task, kind))
    steps = timed.planned_steps(folder, 60 * a.minutes, step)
    timed.make(folder, config, with_steps(settings, task, kind, steps), 60 * a.minutes, a.threads)


def with_steps(settings: dict[str, Any], task: dict[str, Any], kind: str, steps: int) -> dict[str, Any]:
    """Return settings with so many steps, of which each stage has its part."""
    if "stages" not in task:
        return settings | {"train.steps": steps}
    parts = 1 if kind == REGRESSION else task["stages"]["of"]
    return settings | {"train.steps": steps, task["stages"]["setting"]: max(1, steps // parts)}


def is_of_domains(name: str) -> bool:
    """Return whether a task has two domains without pairs."""
    return bool(TASKS[name].get("domains"))


def task_rows(name: str, out: Path) -> Iterator[list[str]]:
    """Yield the rows of a task, in the columns of `HEADER` or `DOMAIN_HEADER`."""
    return domain_rows_of(name, out) if is_of_domains(name) else rows_of(name, out)


def table(tasks: list[str], a: argparse.Namespace) -> None:
    """Print what there is."""
    print(timed.machine(a.threads))
    print(f"held-out volumes, in the mask; {a.minutes:g} minutes of processor time a run; shares at the first step")
    for header, of_domains in ((HEADER, False), (DOMAIN_HEADER, True)):
        names = [name for name in tasks if is_of_domains(name) == of_domains]
        if names:
            print_rows([header, *(row for name in names for row in task_rows(name, a.out))])


def record(tasks: list[str], a: argparse.Namespace) -> None:
    """Keep the rows of tasks with their commit and minutes; those of other runs stay."""
    kept = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    for name in tasks:
        header = DOMAIN_HEADER if is_of_domains(name) else HEADER
        for cells in task_rows(name, a.out):
            row = dict(zip(header, cells, strict=True))
            by = timed.plan_of(a.out / f"{name}-{row['trained as']}").get("commit", metered.commit())
            kept.setdefault(name, {})[row["trained as"]] = row | {"minutes": f"{a.minutes:g}", "commit": by}
    RECORDS.write_text(
        json.dumps({name: kept[name] for name in TASKS if name in kept}, indent=1) + "\n", encoding="utf-8"
    )


def print_rows(rows: list[list[str]]) -> None:
    """Print rows in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def rows_of(name: str, out: Path) -> Iterator[list[str]]:
    """Yield the rows of a task: nothing done, the method, plain regression."""
    title, is_copy = TASKS[name]["title"], TASKS[name]["settings"].get("data.degrade.kind") == "copy"
    for kind in runs(TASKS[name]):
        folder = out / f"{name}-{kind}"
        found = timed.metrics(folder)
        if found is None:
            continue
        # a source that is the target itself would be perfect as it is
        if kind == METHOD and not is_copy and "source as it is" in channels_of(found)[0]["summary"]:
            yield [title, "nothing", "", "", *voxels(found, "source as it is"), others(found, "before"), ""]
        cells = [*voxels(found, "translated"), others(found, "after"), shares(folder / "run")]
        yield [title, kind, str(found["step"]), seconds(folder), *cells]


def domain_rows_of(name: str, out: Path) -> Iterator[list[str]]:
    """Yield the rows of a task of two domains: nothing done, and its runs."""
    title, has_nothing = TASKS[name]["title"], False
    for kind in runs(TASKS[name]):
        folder = out / f"{name}-{kind}"
        found = timed.metrics(folder)
        if found is None:
            continue
        if not has_nothing:
            cells = [*both_ways(found, "paired_untranslated"), *kids(found, "untranslated")]
            yield [title, "nothing", "", "", *cells, "", ""]
            has_nothing = True
        cycles = " / ".join(f"{found['directions'][way]['cycle']['ssim']['mean']:.3f}" for way in WAYS)
        cells = [*both_ways(found, "paired"), *kids(found, "translated"), cycles, shares(folder / "run")]
        yield [title, kind, str(found["origin"]["step"]), seconds(folder), *cells]


def both_ways(found: dict[str, Any], what: str) -> list[str]:
    """Return errors against the same subject in the other domain, in both directions."""
    return [f"{found['directions'][way][what][key]['mean']:.4g}" for _, key in BOTH_WAYS for way in WAYS]


def kids(found: dict[str, Any], what: str) -> list[str]:
    """Return the KID to the other domain in both directions."""
    return [f"{found['directions'][way][what]['kid']['value']:.3g}" for way in WAYS]


def seconds(folder: Path) -> str:
    """Return the processor seconds of a run."""
    return f"{timed.plan_of(folder)['seconds']:.0f}"


def channels_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of each target channel."""
    return list(found["channels"].values()) if "channels" in found else [found]


def voxels(found: dict[str, Any], what: str) -> list[str]:
    """Return voxel-wise measures in the mask, the mean over channels; none of label maps."""
    if found["is_label_map"]:
        return [""] * len(VOXELS)
    rows = [one["summary"][what]["mask"] for one in channels_of(found)]
    means = [[row[key]["mean"] for row in rows if key in row] for _, key in VOXELS]
    return [f"{sum(each) / len(each):.4g}" if each else "" for each in means]


def others(found: dict[str, Any], when: str) -> str:
    """Return Dice per label, or the errors of a registration."""
    if found.get("dice") and when == "after":
        return ", ".join(f"Dice of {label} {values['mean']:.3f}" for label, values in found["dice"].items())
    if found.get("misalignment"):
        return ", ".join(f"{key} {values['mean']:.3g}" for key, values in found["misalignment"][when].items())
    return ""


def shares(run: Path) -> str:
    """Return the share of each term of the generator in the first step; nothing if it has a single term."""
    if not (run / "loss_shares.csv").exists():
        return ""
    with (run / "loss_shares.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"].startswith("g")]
    percents = [(row["phase"], row["term"], 100 * float(row["share"])) for row in rows]
    return ", ".join(f"{phase}/{term} {share:.{2 if share < 99.5 else 3}g} %" for phase, term, share in percents)


if __name__ == "__main__":
    main()
