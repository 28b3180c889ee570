"""Does guidance by uncertainty pay? UP-GAN against other methods and a cascade without it, with ever fewer pairs.

Sources are simulated (undersampled or motion-corrupted) from the volumes of a store, each the same way every time, as
if acquired once; subjects are kept apart. Every run gets as many steps as fill the same minutes of processor time, by
the cost of a step that is measured first, and is stopped at 1.5 times that. Runs that are done are not repeated, so the
same command again resumes; the table shows all runs that are done.
"""

import argparse
import itertools
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timed
import torch

from hagan3d.config import UnpairedDataConfig, WindowDataConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.run_settings import load_config

ROOT = Path(__file__).parents[1]
DEGRADATIONS = {
    "undersample": {"data.degrade.kind": "undersample"},
    "undersample-gaussian": {"data.degrade.kind": "undersample", "data.degrade.mask": "gaussian"},
    "motion": {"data.degrade.kind": "motion"},
}
MEASURES = (("PSNR, dB", "psnr_db"), ("SSIM", "ssim"), ("MAE, %", "mae_percent"), ("NMSE", "nmse"))


def compared_methods() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the methods of translation that have a config at 32^3, and a plain cascade.

    Each has the name of its config's method, and the settings that it changes. Methods without pairs see the same
    volumes without knowing which belong together.
    """
    methods: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in method_names():
        kind = config_class(name)
        if not (ROOT / "configs" / f"{name}_32.yaml").exists():
            continue
        if kind.data_config is UnpairedDataConfig:
            methods[name] = (name, {"data.paired": False})
        if kind.data_config is WindowDataConfig:
            methods[name] = (name, {})
            if "guide" in kind.__dataclass_fields__:
                methods["cascade"] = (name, {f"{name}.guide": "none"})
    return methods


METHODS = compared_methods()


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    degradation: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run."""
        return f"{self.degradation}-{round(100 * self.fraction):03d}-{self.method}-{self.seed}"


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="Volumes of one modality, 32^3, with held-out ones.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--minutes", type=float, default=2.0, help="Processor time of each run.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--degradations", nargs="+", choices=DEGRADATIONS, default=["undersample", "motion"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[1.0, 0.5, 0.25, 0.1], help="Of the subjects.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="Of each run.")
    parser.add_argument("--table", action="store_true", help="Print what there is and make nothing.")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same line goes on"))
    runs = list(_runs(a))
    if not a.table:
        torch.set_num_threads(a.threads)
        for run in runs:
            make(run, a)
    table(runs, a)


def _runs(a: argparse.Namespace) -> Iterator[Run]:
    """All trainings, one seed after the other, so that a table can be had early."""
    for seed, degradation, fraction in itertools.product(range(a.seeds), a.degradations, a.fractions):
        yield from (Run(method, degradation, fraction, seed) for method in a.methods)


def settings(run: Run, steps: int, a: argparse.Namespace) -> dict[str, Any]:
    """What a run changes in the config of its method."""
    name, changes = METHODS[run.method]
    plan: dict[str, Any] = {"train.steps": steps}
    method = load_config(f"{name}_32").method
    if hasattr(method, "stages"):
        plan[f"{name}.stage_steps"] = max(1, steps // (method.stages + 1))
    shared = {"data.store": str(a.store), "data.fraction": run.fraction, "train.seed": run.seed}
    return plan | shared | {"data.degrade.fixed": True} | changes | DEGRADATIONS[run.degradation]


def make(run: Run, a: argparse.Namespace) -> None:
    """Train a run and measure it, unless that is done."""
    config, folder, seconds = f"{METHODS[run.method][0]}_32", a.out / run.name, 60 * a.minutes
    probe = Run(run.method, a.degradations[0], 1.0, 0)
    step = timed.cost(a.out, run.method, config, lambda steps: settings(probe, steps, a))
    steps = timed.planned_steps(folder, seconds, step)
    timed.make(folder, config, settings(run, steps, a), seconds, a.threads)


def table(runs: Sequence[Run], a: argparse.Namespace) -> None:
    """Print means and deviations over seeds of what there is."""
    print(timed.machine(a.threads))
    print(f"{a.store}: held-out volumes, in the mask; {a.minutes:g} minutes of processor time a run; +-: deviation")
    header = [
        "sources",
        "pairs",
        "method",
        "seeds",
        "steps",
        *(title for title, _ in MEASURES),
        "90 %",
        "AUSE",
        "random",
    ]
    rows = [header]
    for degradation, fraction in itertools.product(a.degradations, a.fractions):
        for position, method in enumerate(a.methods):
            chosen = [r for r in runs if (r.method, r.degradation, r.fraction) == (method, degradation, fraction)]
            found = [(a.out / r.name, m) for r in chosen if (m := timed.metrics(a.out / r.name)) is not None]
            if not found:
                continue
            if position == 0:
                rows.append(_row(degradation, fraction, "source as it is", found))
            rows.append(_row(degradation, fraction, method, found))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(degradation: str, fraction: float, method: str, found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    name = method if method == "source as it is" else "translated"
    metrics = [one for _, one in found]
    numbers = [_over_seeds([one["summary"][name]["mask"][key]["mean"] for one in metrics]) for _, key in MEASURES]
    steps = "" if name == method else "/".join(sorted({str(one["step"]) for one in metrics}))
    calibrated = [one["calibration"] for one in metrics if name != method and "calibration" in one]
    uncertain = ["", "", ""]
    if calibrated:
        uncertain = [
            _over_seeds([one["scaled"]["coverage"]["0.9"] for one in calibrated]),
            *(_over_seeds([one["as predicted"][key] for one in calibrated]) for key in ("ause", "ause_random")),
        ]
    return [degradation, f"{fraction:.0%}", method, str(len(found)), steps, *numbers, *uncertain]


def _over_seeds(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(set(values)) > 1 else 0.0  # of equal numbers it would be of the rounding
    spread = f" +- {deviation:.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"


if __name__ == "__main__":
    main()
