"""Do generated volumes help a classifier? The same classifier without and with them, on less and less real data.

    python examples/augmentation_study.py --store lungs.h5 --out study/
    python examples/augmentation_study.py --quick --out quick/          # on phantoms, in seconds, to see it work

The store needs classes and held-out volumes (`hagan3d prepare --labels table.csv --validation 0.2`). For every fraction
of the real training volumes the study

1. writes a store of that fraction, class by class, with all held-out volumes;
2. trains a conditional generator on the training volumes of that store and on nothing else, so that no volume that the
   classifier has to do without comes in through the generator (a run that lies at OUT/run-010 and was trained on that
   very store is used as it is; one of another store is refused). Fractions nest, so that a generator of a smaller one
   is honest too: --generator-fraction 0.1 takes that of 10 % for all;
3. adds generated volumes of every class to the training split, as `hagan3d augment` does;
4. trains a small 3D ResNet of MONAI for each of several seeds on the real volumes alone, on both kinds in equal parts,
   and on generated ones alone, with the same steps, batches and random changes;
5. asks all of them about the held-out volumes, which are real and which nothing above has seen.

Accuracies stand with 95 % intervals over resampled seeds and subjects. The last row of each fraction, generated volumes
alone, says how much of the classes the generator has understood.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import ResNet
from torch import Tensor
from torch.nn import functional as F

from hagan3d import cli
from hagan3d import train as train_door
from hagan3d.checkpoint import load_model
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.derived import training_fraction, write_subset
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet, augment, origin_warning
from hagan3d.run_settings import DEFAULT_CONFIG

ARMS = ("real alone", "real and generated", "generated alone")
BATCH = 16  # volumes per step of a classifier
LR = 2e-3  # highest learning rate of Adam, one cycle
SHIFT = 2  # voxels by which volumes are moved at random, at most
ROUNDS = 1000  # resamplings behind an interval
TINY = "--hagan.latent_dim 8 --hagan.channels 64 --hagan.d_channels 64 --train.batch_size 4 --log.preview_every 0"


@dataclass(frozen=True)
class Answers:
    """What the classifiers of one arm said of the held-out volumes."""

    predicted: np.ndarray
    """Class indices ``[seeds, N]``."""
    truth: np.ndarray
    """Class indices ``[N]``."""
    subjects: np.ndarray
    """Subject of each volume ``[N]``."""


def main(argv: list[str]) -> None:
    """Run the study, print its table and write it to a folder."""
    a = parse(argv)
    out = Path(a.out)
    if a.quick:
        a.store, a.fractions, a.steps, a.per_class, a.seeds, a.classifier_steps = phantoms(out), [0.5], 1, 2, 2, 4
    torch.set_num_threads(a.threads or torch.get_num_threads())
    whole, rows = Store(a.store), []
    for fraction in a.fractions:
        part = part_of(whole, fraction, out)
        seen = part_of(whole, min(fraction, a.generator_fraction), out)
        run = generator(seen, out, a.config, a.steps, TINY.split() if a.quick else [])
        more = with_generated(part, seen, run, out / f"more-{percent(fraction)}.h5", a.per_class)
        answers = {arm: classify(more, arm, range(a.seeds), a.classifier_steps) for arm in ARMS}
        rows += table(fraction, more, answers)
        print("\n".join(lines(rows[-len(ARMS) :])), flush=True)
    write(rows, out / "study.csv")
    print(f"{len(rows)} rows: {out / 'study.csv'}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="Store with classes and held-out volumes.")
    parser.add_argument("--out", required=True, help="Folder of the study; the same line again uses what is there.")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], help="Of the real volumes."
    )
    parser.add_argument(
        "--generator-fraction",
        type=float,
        default=1.0,
        help="Train no generator on more than this. Default: each its own.",
    )
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="Config of the generators.")
    parser.add_argument("--steps", type=int, default=1600, help="Of each generator.")
    parser.add_argument("--per-class", type=int, default=100, help="Volumes generated of each class.")
    parser.add_argument("--seeds", type=int, default=5, help="Classifiers per arm.")
    parser.add_argument("--classifier-steps", type=int, default=200, help="Of each classifier.")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses.")
    parser.add_argument("--quick", action="store_true", help="A few phantoms and a few steps, to see it work.")
    a = parser.parse_args(argv)
    if not a.quick and not a.store:
        raise InputError("want --store, or --quick to see it work on phantoms")
    return a


def phantoms(out: Path) -> Path:
    """Make a store of 15 phantoms in the five grades of emphysema."""
    path = out / "phantoms.h5"
    if not path.exists():
        write_phantoms(out / "phantoms", 15, (32, 32, 32))
        labels = str(out / "phantoms" / "attributes.csv")
        settings = PrepareConfig(size=(32, 32, 32), intensity="window", labels=labels, validation=0.4, workers=1)
        prepare(out / "phantoms" / "volumes", path, settings, progress=False)
    return path


def percent(fraction: float) -> str:
    """Name a fraction in files."""
    return f"{round(100 * fraction):03d}"


def part_of(whole: Store, fraction: float, out: Path) -> Store:
    """Step 1: write the store of a fraction, unless it is there."""
    path, chosen = out / f"store-{percent(fraction)}.h5", training_fraction(whole, fraction)
    if not path.exists():
        return write_subset(path, whole, chosen)
    part = Store(path)
    if part.ids != [whole.ids[i] for i in chosen]:
        raise InputError(f"{path}: holds other volumes than {fraction:g} of {whole.path}; give another --out")
    return part


def generator(seen: Store, out: Path, config: str, steps: int, others: list[str]) -> Path:
    """Step 2: train a conditional generator on the training volumes of a store, unless it is there."""
    run = out / seen.path.stem.replace("store", "run")
    words = f"--config {config} --data.store {seen.path} --out {run} --train.steps {steps}".split()
    words += ["--hagan.conditional", "true", "--hagan.class_weight", "0.5"]
    if not is_trained(run, steps):
        train_door.main([*words, *others])
    return run


def is_trained(run: Path, steps: int) -> bool:
    """Whether a run is there with so many steps done, whatever its settings."""
    return any((run / "checkpoints").glob("*.pt")) and load_model(run, generate=True).step >= steps


def with_generated(part: Store, seen: Store, run: Path, path: Path, per_class: int) -> Store:
    """Step 3: write the volumes of a store and generated ones into one store."""
    model = load_model(run, generate=True)
    if origin_warning(model, seen):
        raise InputError(
            f"{run}: was trained on other volumes than those of {seen.path}; an honest study needs its own"
        )
    return augment(model, part, path, GeneratedSet(per_class))


def classify(store: Store, arm: str, seeds: Sequence[int], steps: int) -> Answers:
    """Steps 4 and 5: train a classifier per seed and ask it about the held-out volumes."""
    real, made = training_sets(store)
    held_out = np.array([i for i, split in enumerate(store.splits) if split != "train"])
    sources = {ARMS[0]: [real], ARMS[1]: [real, made], ARMS[2]: [made]}[arm]
    asked, _ = tensors(store, held_out)
    predicted = [answers(train_classifier(sources, len(store.class_names), seed, steps), asked) for seed in seeds]
    return Answers(np.stack(predicted), store.labels[held_out], np.array(store.subjects)[held_out])


def training_sets(store: Store) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read real and generated training volumes ``[N, 1, D, H, W]`` with their classes ``[N]``."""
    train = store.indices("train")
    real, made = (train[store.generated[train] == generated] for generated in (False, True))
    return tensors(store, real), tensors(store, made)


def tensors(store: Store, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Read volumes ``[N, 1, D, H, W]`` and their classes ``[N]``."""
    x = torch.stack([store.volume(int(i)) for i in indices])
    return x, torch.from_numpy(store.labels[indices])


def train_classifier(sources: list[tuple[Tensor, Tensor]], num_classes: int, seed: int, steps: int) -> ResNet:
    """Train a small 3D ResNet on batches that take equal parts of each source."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    net = ResNet(
        "basic", [1, 1, 1, 1], [8, 16, 32, 64], n_input_channels=1, num_classes=num_classes, conv1_t_size=3,
        conv1_t_stride=2, no_max_pool=True,
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps + 1)
    for _ in range(steps):
        parts = [
            (x[rows], y[rows]) for x, y in sources for rows in [random.integers(len(x), size=BATCH // len(sources))]
        ]
        x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        loss = F.cross_entropy(net(changed(x, random)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def changed(x: Tensor, random: np.random.Generator) -> Tensor:
    """Move every volume of ``[B, 1, D, H, W]`` by up to two voxels along each axis, and mirror half of them along W."""
    padded = F.pad(x, (SHIFT,) * 6, mode="replicate")
    d, h, w = x.shape[2:]
    rows = []
    for volume, (i, j, k), mirror in zip(
        padded, random.integers(2 * SHIFT + 1, size=(len(x), 3)), random.random(len(x)) < 0.5, strict=True
    ):
        cut = volume[:, i : i + d, j : j + h, k : k + w]
        rows.append(cut.flip(3) if mirror else cut)
    return torch.stack(rows)


@torch.no_grad()
def answers(net: ResNet, x: Tensor) -> np.ndarray:
    """Name the class of every volume ``[N]``."""
    return torch.cat([net(part).argmax(1) for part in x.split(64)]).numpy()


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Share of right answers among all seeds ``[seeds, N]``."""
    return float((predicted == truth).mean())


def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of the share of right answers."""
    right = (predicted == truth).mean(axis=0)
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


MEASURES = {"accuracy": accuracy, "balanced accuracy": balanced_accuracy}


def table(fraction: float, store: Store, found: dict[str, Answers]) -> list[dict[str, object]]:
    """Rows of one fraction: each measure, and its gain over real volumes alone, with 95 % intervals."""
    train = store.indices("train")
    made = int(store.generated[train].sum())
    rows = []
    for arm, answer in found.items():
        row: dict[str, object] = {"fraction": fraction, "real": len(train) - made, "generated": made, "arm": arm}
        row |= {"seeds": len(answer.predicted), "held_out": len(answer.truth)}
        for name, measure in MEASURES.items():
            drawn = resampled(measure, answer, found[ARMS[0]])
            row[name] = measure(answer.predicted, answer.truth)
            row[f"{name} low"], row[f"{name} high"] = np.quantile(drawn[:, 0], (0.025, 0.975))
            row[f"{name} gain"] = row[name] - measure(found[ARMS[0]].predicted, answer.truth)
            row[f"{name} gain low"], row[f"{name} gain high"] = np.quantile(drawn[:, 1], (0.025, 0.975))
        rows.append(row)
    return rows


def resampled(measure, one: Answers, base: Answers) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Draw seeds (of each arm) and subjects (the same of both) again and again: measure and gain ``[ROUNDS, 2]``."""
    random = np.random.default_rng(0)
    members = [np.flatnonzero(one.subjects == subject) for subject in np.unique(one.subjects)]
    values = []
    for _ in range(ROUNDS):
        volumes = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        mine, theirs = (
            measure(a.predicted[random.integers(len(a.predicted), size=len(a.predicted))][:, volumes], a.truth[volumes])
            for a in (one, base)
        )
        values.append((mine, mine - theirs))
    return np.array(values)


def lines(rows: list[dict[str, object]]) -> list[str]:
    """Write rows for a person to read."""
    first = rows[0]
    head = f"{100 * first['fraction']:.0f} % of the real data: {first['real']} volumes, {first['generated']} generated"
    made = [f"{head}; {first['held_out']} held-out volumes, {first['seeds']} seeds"]
    for row in rows:
        cells = [f"  {row['arm']:<19}"]
        for name in MEASURES:
            value, low, high = (100 * row[f"{name}{end}"] for end in ("", " low", " high"))
            cells.append(f"{name} {value:5.1f} % [{low:.1f}, {high:.1f}]")
        gain, low, high = (100 * row[f"accuracy gain{end}"] for end in ("", " low", " high"))
        made.append("  ".join(cells) + ("" if row is first else f"  gain {gain:+.1f} [{low:+.1f}, {high:+.1f}]"))
    return made


def write(rows: list[dict[str, object]], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(cli.run(main))
