"""What makes generation better? Trains one config with one thing changed at a time, and measures each run.

Every run gets as many steps as fill the same minutes of processor time, by the cost of a step that is measured first,
so that rates fall where a config says so. Each is measured as `hagan3d evaluate` does, against held-out and against
training volumes, in the features of the store and in those of an untrained network. Runs that are done are not
repeated, so the same command again resumes.
"""

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timed
import torch

from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store

PUBLISHED = {
    "data.subvolume_sampling": "published",
    "data.subvolume_depth": 4,
    "hagan.norm": "group",
    "hagan.prior": "normal",
    "hagan.high_convs": 0,
    "hagan.output_skip": False,
    "hagan.init": "default",
    "hagan.spectral_norm": True,
    "hagan.encoder_norm": "group",
    "hagan.minibatch_std": 0,
    "train.batch_size": 4,
    "hagan.objective": "bce",
    "hagan.fresh_fakes": True,
    "hagan.r2_weight": 0,
    "hagan.d_low_convs": 0,
    "hagan.logits": "mean",
    "train.lr_g": 1.0e-4,
    "train.lr_d": 4.0e-4,
    "hagan.lr_e": 1.0e-4,
    "train.betas": [0.0, 0.999],
    "train.muon": [],
    "train.lr_decay": None,
    "hagan.r1_weight": 0,
    "train.ema": 0,
    "hagan.encoder_every": 1,
    "hagan.autoencode": 0,
    "hagan.diffaug.translate": 0,
    "hagan.diffaug.brightness": 0,
    "hagan.diffaug.contrast": 0,
}
WIDER = {"hagan.features": 64, "hagan.d_channels": 256, "hagan.d_low_convs": 0}
BCE = {"hagan.objective": "bce", "hagan.r2_weight": 0}
ALONE = {"hagan.autoencode": 0, "hagan.prior": "normal"}  # G does not reconstruct real volumes
SELDOM = {"train.batch_size": 8, "hagan.encoder_every": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "published": PUBLISHED,
    "Muon for G and E^G": {"train.muon": ["g", "e_g"]},
    "wider networks, objective bce": WIDER | BCE,
    "wider networks": WIDER,
    "objective bce": BCE,
    "no convolutions of D^L": {"hagan.d_low_convs": 0},
    "weak R1 and R2": {"hagan.r1_weight": 0.1, "hagan.r2_weight": 0.1},
    "rates of 5e-4, 8e-4, EMA 0.99": {"train.lr_g": 5.0e-4, "train.lr_d": 8.0e-4, "train.ema": 0.99},
    "encoders in every fourth step": {"hagan.encoder_every": 4},
    "no encoder": {"hagan.encoder": False, **ALONE},
    "no autoencoding": ALONE,
    "autoencoding of weight 5": {"hagan.autoencode": 5},
    "autoencoding of weight 0.2": {"hagan.autoencode": 0.2},
    "standard normal latents": {"hagan.prior": "normal"},
    "encoders at four times their rate": {"hagan.lr_e": 1.6e-3},
    "batch of 8": {"train.batch_size": 8},
    "encoders in every second step": {"hagan.encoder_every": 2},
    "encoders with GroupNorm": {"hagan.encoder_norm": "group"},
    "encoders every second step, GroupNorm, batch of 8": SELDOM | {"hagan.encoder_norm": "group"},
    "features 16": {"hagan.features": 16},
    "channels 64": {"hagan.channels": 64},
    "channels 64, features 64": {"hagan.channels": 64, "hagan.features": 64},
    "channels 64, features 16, d_channels 64": {
        "hagan.channels": 64,
        "hagan.features": 16,
        "hagan.d_channels": 64,
    },
    "no low-resolution branch (G^L, D^L)": {"hagan.low_resolution_branch": False},
    "output skip": {"hagan.output_skip": True},
    "no output skip": {"hagan.output_skip": False},
    "norm group": {"hagan.norm": "group"},
    "windows fixed": {"data.subvolume_sampling": "fixed"},
    "windows uniform": {"data.subvolume_sampling": "uniform"},
    "windows as published": {"data.subvolume_sampling": "published"},
    "thin windows, as published": {"data.subvolume_depth": 4},
    "no augmentation": {"hagan.diffaug.translate": 0},
    "brightness and contrast too": {"hagan.diffaug.brightness": 0.1, "hagan.diffaug.contrast": 0.1},
    "adaptive augmentation": {"hagan.diffaug.adaptive": True, "hagan.diffaug.probability": 0.2},
    "no EMA": {"train.ema": 0},
    "no R1, no R2": {"hagan.r1_weight": 0, "hagan.r2_weight": 0},
    "spectral norm": {"hagan.spectral_norm": True},
    "no minibatch spread": {"hagan.minibatch_std": 0},
    "filters not centred": {"hagan.init": "default"},
    "one game (mean of logits)": {"hagan.logits": "mean"},
    "strong R1 and R2": {"hagan.r1_weight": 5, "hagan.r2_weight": 5},
    "hinge": {"hagan.objective": "hinge", "hagan.r2_weight": 0},
    "lsgan": {"hagan.objective": "lsgan", "hagan.r2_weight": 0},
}
FEATURES = "self", "random"  # of the store, of an untrained network
MEASURES = (
    ("KID", "held-out", "self", "kid"),
    ("MMD", "held-out", "self", "mmd"),
    ("KID", "train", "self", "kid"),
    ("MMD", "train", "self", "mmd"),
    ("recall", "train", "self", "recall"),
    ("MMD, untrained", "held-out", "random", "mmd"),
    ("recall, untrained", "train", "random", "recall"),
)


@dataclass(frozen=True)
class Row:
    """One variant: what was measured, a number per seed and measure, and the steps made."""

    name: str
    values: np.ndarray
    steps: list[int]


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="With features: hagan3d evaluate --train-features.")
    parser.add_argument("--config", default="hagan_32")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs.")
    parser.add_argument("--minutes", type=float, default=30, help="Processor time of each run.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default", "published"], metavar="NAME")
    parser.add_argument("--all", action="store_true", help=f"All variants: {', '.join(VARIANTS)}.")
    parser.add_argument("--threads", type=int, default=1, help="Of each run.")
    parser.add_argument("--table", action="store_true", help="Print what there is and make nothing.")
    a = parser.parse_args()
    if not features_path(Store(a.store)).exists():
        raise SystemExit(f"{a.store}: no features yet: hagan3d evaluate --store {a.store} --train-features")
    torch.set_num_threads(a.threads)
    names = list(VARIANTS) if a.all else a.variants
    if not a.table:
        for seed in range(a.seeds):
            for name in names:
                make(name, seed, a)
    table([row for name in names if (row := collect(name, a))], a)


def make(name: str, seed: int, a: argparse.Namespace) -> None:
    """Train one run for its minutes and measure it, unless that is done."""
    folder, seconds = a.out / f"{_slug(name)}-{seed}", 60 * a.minutes
    settings: dict[str, Any] = {"data.store": str(a.store), "train.seed": seed, **VARIANTS[name]}
    step = timed.cost(a.out, _slug(name), a.config, lambda steps: settings | {"train.steps": steps})
    settings["train.steps"] = timed.planned_steps(folder, seconds, step)
    words = ["--features", ",".join(FEATURES), "--weights", "raw" if settings.get("train.ema") == 0 else "ema"]
    timed.make(folder, a.config, settings, seconds, a.threads, words)


def collect(name: str, a: argparse.Namespace) -> Row | None:
    """Read what was measured of a variant."""
    folders = [a.out / f"{_slug(name)}-{seed}" for seed in range(a.seeds)]
    for folder in folders:
        timed.check_plan(folder, a.config, 60 * a.minutes, a.threads)
    found = [m for folder in folders if (m := timed.metrics(folder))]
    if not found:
        return None
    values = [
        [_value(metrics, features, pair, measure) for _, pair, features, measure in MEASURES] + [_variety(metrics)]
        for metrics in found
    ]
    return Row(name, np.array(values), [metrics["run"]["step"] for metrics in found])


def _value(metrics: dict[str, Any], features: str, pair: str, measure: str) -> float:
    return float(metrics["features"][features][f"generated vs {pair}"][measure]["value"])


def _variety(metrics: dict) -> float:
    return next(row["ratio"] for row in metrics["variety"]["generated"] if row["voxels"] == max(_sides(metrics)))


def _sides(metrics: dict) -> list[int]:
    return [row["voxels"] for row in metrics["variety"]["generated"]]


def table(rows: list[Row], a: argparse.Namespace) -> None:
    """Print mean and standard error over seeds of every measure, and the ratio to the first row."""
    print(f"{a.store.name}, {a.config}, {a.minutes:g} minutes of processor time per run, {a.threads} thread(s)")
    print(f"torch {torch.__version__}, Python {platform.python_version()}; mean +- standard error over seeds")
    print(
        "KID, MMD, recall of 200 generated volumes against the set named, in the features of the store or, untrained,"
        " in those of an untrained network; variety of 1: real"
    )
    heads = [f"{name} {pair}" for name, pair, *_ in MEASURES] + ["variety"]
    width = 2 + max(map(len, heads))
    print(f"\n{'':<28}{'seeds':>6}{'steps':>7}" + "".join(f"{head:>{width}}" for head in heads))
    for row in rows:
        error = (
            row.values.std(0, ddof=1) / len(row.values) ** 0.5 if len(row.values) > 1 else np.full(len(heads), np.nan)
        )
        cells = [f"{m:.3g} +- {e:.2g}" for m, e in zip(row.values.mean(0), error, strict=True)]
        print(
            f"{row.name:<28}{len(row.steps):>6}{np.mean(row.steps):>7.0f}"
            + "".join(f"{cell:>{width}}" for cell in cells)
        )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")


if __name__ == "__main__":
    main()
