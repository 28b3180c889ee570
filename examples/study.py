"""What the studies of generated training data share: stores of a fraction, honest generators, intervals, tables.

For every fraction of the real training volumes a study compares networks that are trained on the real volumes alone, on
both kinds in equal parts, and on generated ones alone. What is done is kept in the folder of the study.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d import train as train_command
from hagan3d.checkpoint import load_model
from hagan3d.checkpoint.generator_hash import generator_hash
from hagan3d.data.store.derived import training_fraction, write_subset
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet, augment, origin_warning
from hagan3d.run_settings import DEFAULT_CONFIG

ARMS = ("real alone", "real and generated", "generated alone")
ROUNDS = 1000  # resamplings behind an interval
TINY = "--hagan.latent_dim 8 --hagan.channels 64 --hagan.d_channels 64 --train.batch_size 4 --log.preview_every 0"
Measure = Callable[[np.ndarray], np.ndarray]
"""Values ``[seeds, N, K]`` of an outcome to measures ``[M]``."""


@dataclass(frozen=True)
class Outcome:
    """What the networks of one arm reached on the held-out volumes."""

    values: np.ndarray
    """Values ``[seeds, N, K]`` of each network and volume; NaN where one has no meaning."""
    subjects: np.ndarray
    """Subject of each volume ``[N]``."""


def parser(description: str | None, store: str, fractions: Sequence[float], steps: int) -> argparse.ArgumentParser:
    """Return the options that every study has, with its defaults; ``store`` says what the store must have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", help=f"Store with {store} and held-out volumes.")
    options.add_argument("--out", required=True, help="Folder of the study; the same line again continues.")
    options.add_argument("--fractions", type=float, nargs="+", default=list(fractions), help="Of the real volumes.")
    options.add_argument("--config", default=DEFAULT_CONFIG, help="Config of the generators.")
    options.add_argument("--steps", type=int, default=steps, help="Of each generator.")
    options.add_argument("--seeds", type=int, default=5, help="Networks per arm.")
    options.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses.")
    options.add_argument("--quick", action="store_true", help="A few phantoms and a few steps, to see it work.")
    return options


def parsed(options: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    a = options.parse_args(argv)
    if not a.quick and not a.store:
        raise InputError("--store: is missing; give one, or --quick to see it work on phantoms")
    return a


def percent(fraction: float) -> str:
    """Name a fraction in files."""
    return f"{round(100 * fraction):03d}"


def part_of(whole: Store, fraction: float, out: Path) -> Store:
    """Write the store of a fraction with all held-out volumes, unless it is there.

    Raises:
        InputError: If the store that is there was made of another one.
    """
    path, chosen = out / f"store-{percent(fraction)}.h5", training_fraction(whole, fraction)
    check_made_by(path.with_suffix(".made-by.json"), {"store": whole.store_fingerprint})
    if not path.exists():
        return write_subset(path, whole, chosen)
    part = Store(path)
    if part.ids != [whole.ids[i] for i in chosen]:
        raise InputError(f"{path}: holds other volumes than {fraction:g} of {whole.path}; give another --out")
    return part


def generator(seen: Store, out: Path, config: str, steps: int, settings: Sequence[str]) -> Path:
    """Train a generator on the training volumes of a store, unless that is done; return its run."""
    run = out / seen.path.stem.replace("store", "run")
    words = ["--config", config, "--data.store", str(seen.path), "--out", str(run), "--train.steps", str(steps)]
    if not (any((run / "checkpoints").glob("*.pt")) and load_model(run, generate=True).step >= steps):
        train_command.main([*words, *settings])
    return run


def with_generated(part: Store, seen: Store, run: Path, path: Path, count: int) -> Store:
    """Write the volumes of a store and generated ones into one store, unless it is there.

    Raises:
        InputError: If the generator was trained on other volumes than those of ``seen``, or the store that is there was
            made by another generator or with another count.
    """
    model = load_model(run, generate=True)
    if origin_warning(model, seen):
        raise InputError(
            f"{run}: was trained on other volumes than those of {seen.path}; an honest study needs its own"
        )
    check_made_by(path.with_suffix(".made-by.json"), {"generator": generator_hash(model), "generated": count})
    return Store(path) if path.exists() else augment(model, part, path, GeneratedSet(count))


def check_made_by(path: Path, now: dict[str, str | int]) -> None:
    """Write down the settings that results in a folder are made with, or compare them with those written before.

    Raises:
        InputError: If the results that are there were made with other settings.
    """
    if not path.exists():
        path.write_text(json.dumps(now), encoding="utf-8")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = next((name for name, value in now.items() if before.get(name) != value), None)
    if changed is not None:
        raise InputError(
            f"{path}: results there were made with {changed} {before.get(changed)}, not {now[changed]}; give another "
            f"--out, or remove {path.parent}"
        )


def sources_of(store: Store) -> dict[str, list[np.ndarray]]:
    """Return the indices of the volumes that each arm is trained on, those of one kind in an array."""
    train = store.indices("train")
    real, made = (train[store.generated[train] == generated] for generated in (False, True))
    return dict(zip(ARMS, ([real], [real, made], [made]), strict=True))


def held_out(store: Store) -> np.ndarray:
    """Return the indices of the volumes that nothing was trained on."""
    return np.array([i for i, split in enumerate(store.splits) if split != "train"])


def table(
    fraction: float, store: Store, found: dict[str, Outcome], names: Sequence[str], measure: Measure
) -> list[dict[str, object]]:
    """Return the rows of one fraction: each measure, and its gain over real volumes alone, with 95 % intervals."""
    train, base = store.indices("train"), found[ARMS[0]]
    made, rows = int(store.generated[train].sum()), []
    for arm, outcome in found.items():
        row: dict[str, object] = {"fraction": fraction, "real": len(train) - made, "generated": made, "arm": arm}
        row |= {"seeds": len(outcome.values), "held_out": len(outcome.subjects)}
        drawn, own, plain = resampled(measure, outcome, base), measure(outcome.values), measure(base.values)
        for k, name in enumerate(names):
            low, high = np.quantile(drawn[:, :, k], (0.025, 0.975), axis=0)
            row |= {name: own[k], f"{name} low": low[0], f"{name} high": high[0]}
            row |= {f"{name} gain": own[k] - plain[k], f"{name} gain low": low[1], f"{name} gain high": high[1]}
        rows.append(row)
    return rows


def resampled(measure: Measure, one: Outcome, base: Outcome) -> np.ndarray:
    """Draw seeds of each arm and subjects, the same of both, many times: measures and gains ``[ROUNDS, 2, M]``."""
    random = np.random.default_rng(0)
    members = [np.flatnonzero(one.subjects == subject) for subject in np.unique(one.subjects)]
    drawn = []
    for _ in range(ROUNDS):
        volumes = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        mine, theirs = (
            measure(x.values[random.integers(len(x.values), size=len(x.values))][:, volumes]) for x in (one, base)
        )
        drawn.append((mine, mine - theirs))
    return np.array(drawn)


def lines(rows: Sequence[dict[str, object]], names: Sequence[str]) -> list[str]:
    """Write the rows of a fraction for a person to read, with the gain of the last measure."""
    first = rows[0]
    head = f"{100 * first['fraction']:.0f} % of the real data: {first['real']} volumes, {first['generated']} generated"
    made = [f"{head}; {first['held_out']} held-out volumes, {first['seeds']} seeds"]
    for row in rows:
        cells = [f"  {row['arm']:<19}"]
        for name in names:
            value, low, high = (row[f"{name}{end}"] for end in ("", " low", " high"))
            cells.append(f"{name} {value:.3f} [{low:.3f}, {high:.3f}]")
        gain, low, high = (row[f"{names[-1]} gain{end}"] for end in ("", " low", " high"))
        made.append("  ".join(cells) + ("" if row is first else f"  gain {gain:+.3f} [{low:+.3f}, {high:+.3f}]"))
    return made


def write(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
