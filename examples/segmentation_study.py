"""Do generated volumes with label maps help a segmentation network? The same U-Net without and with them.

    python examples/segmentation_study.py --store hippocampus.h5 --out study/
    python examples/segmentation_study.py --quick --out quick/          # on phantoms, in a minute, to see it work

The store needs label maps and held-out volumes (`hagan3d prepare --nnunet DIR --validation 0.3`). For every fraction of
the real training volumes the study

1. writes a store of that fraction, with all held-out volumes;
2. trains a generator of volumes and label maps on the training volumes of that store and on nothing else (a run that
   lies at OUT/run-010 and was trained on that very store is continued or used; one of another store is refused);
3. adds generated volumes to the training split, as `hagan3d augment` does;
4. trains a 3D U-Net of MONAI for each of several seeds on the real volumes alone, on both kinds in equal parts, and on
   generated ones alone, with the same steps, batches and random changes;
5. measures the Dice coefficient of every label on the held-out volumes, which are real and which nothing above has
   seen.

Dice coefficients stand with 95 % intervals over resampled seeds and subjects. What is done is kept in OUT, so that the
same line again continues.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from hagan3d import cli
from hagan3d import train as train_door
from hagan3d.checkpoint import load_model
from hagan3d.config import AugmentConfig
from hagan3d.data.batches.transforms import augment as changed
from hagan3d.data.phantoms.head import write_heads
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.derived import training_fraction, write_subset
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet, augment, origin_warning
from hagan3d.run_settings import DEFAULT_CONFIG

ARMS = ("real alone", "real and generated", "generated alone")
BATCH = 4  # volumes per step of a U-Net
LR = 2e-3  # highest learning rate of Adam, one cycle
CHANGES = AugmentConfig(rotate_deg=10, scale=0.1, shift=0.05, brightness=0.1, contrast=0.1, noise=0.03)
ROUNDS = 1000  # resamplings behind an interval
TINY = "--hagan.latent_dim 8 --hagan.channels 64 --hagan.d_channels 64 --train.batch_size 4 --log.preview_every 0"


@dataclass(frozen=True)
class Scores:
    """What the U-Nets of one arm reached on the held-out volumes."""

    dice: np.ndarray
    """Dice of each label but the background ``[seeds, N, labels]``; NaN where a volume lacks it."""
    subjects: np.ndarray
    """Subject of each volume ``[N]``."""


def main(argv: list[str]) -> None:
    """Run the study, print its table and write it to a folder."""
    a = parse(argv)
    out = Path(a.out)
    if a.quick:
        a.store, a.fractions, a.steps, a.generated, a.seeds, a.unet_steps = heads(out), [0.5], 1, 2, 2, 4
    torch.set_num_threads(a.threads or torch.get_num_threads())
    whole, rows = Store(a.store), []
    if not whole.label_names:
        raise InputError(f"{a.store}: has no label maps; prepare it with --nnunet, or from a CSV with a column seg")
    for fraction in a.fractions:
        part = part_of(whole, fraction, out)
        run = generator(part, out, a.config, a.steps, TINY.split() if a.quick else [])
        more = with_generated(part, run, out / f"more-{percent(fraction)}.h5", a.generated)
        scores = {arm: segment(more, arm, range(a.seeds), a.unet_steps, out / percent(fraction)) for arm in ARMS}
        rows += table(fraction, more, scores)
        print("\n".join(lines(rows[-len(ARMS) :], whole.label_names[1:])), flush=True)
    write(rows, out / "study.csv")
    print(f"{len(rows)} rows: {out / 'study.csv'}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="Store with label maps and held-out volumes.")
    parser.add_argument("--out", required=True, help="Folder of the study; the same line again continues.")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.25, 1.0], help="Of the real volumes.")
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="Config of the generators.")
    parser.add_argument("--steps", type=int, default=2400, help="Of each generator.")
    parser.add_argument("--generated", type=int, default=200, help="Volumes generated.")
    parser.add_argument("--seeds", type=int, default=5, help="U-Nets per arm.")
    parser.add_argument("--unet-steps", type=int, default=300, help="Of each U-Net.")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch chooses.")
    parser.add_argument("--quick", action="store_true", help="A few phantoms and a few steps, to see it work.")
    a = parser.parse_args(argv)
    if not a.quick and not a.store:
        raise InputError("want --store, or --quick to see it work on phantoms")
    return a


def heads(out: Path) -> Path:
    """Make a store of 12 head phantoms with tumours."""
    path = out / "heads.h5"
    if not path.exists():
        write_heads(out / "heads", 12, (32, 32, 32))
        settings = PrepareConfig(size=(32, 32, 32), validation=0.4, workers=1)
        prepare(find_inputs(None, nnunet=out / "heads"), path, settings, progress=False)
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


def generator(part: Store, out: Path, config: str, steps: int, others: list[str]) -> Path:
    """Step 2: train a generator on the training volumes of a store, unless that is done."""
    run = out / part.path.stem.replace("store", "run")
    words = f"--config {config} --data.store {part.path} --out {run} --train.steps {steps}".split()
    words += f"--data.channels {len(part.channels)} --data.labels {len(part.label_names)}".split()
    if not (any((run / "checkpoints").glob("*.pt")) and load_model(run, generate=True).step >= steps):
        train_door.main([*words, *others])
    return run


def with_generated(part: Store, run: Path, path: Path, count: int) -> Store:
    """Step 3: write the volumes of a store and generated ones into one store, unless it is there."""
    if path.exists():
        return Store(path)
    model = load_model(run, generate=True)
    if origin_warning(model, part):
        raise InputError(
            f"{run}: was trained on other volumes than those of {part.path}; an honest study needs its own"
        )
    return augment(model, part, path, GeneratedSet(count))


def segment(store: Store, arm: str, seeds: Sequence[int], steps: int, folder: Path) -> Scores:
    """Steps 4 and 5: train a U-Net per seed and measure it on the held-out volumes; done ones are read back."""
    train = store.indices("train")
    real, made = (train[store.generated[train] == generated] for generated in (False, True))
    held_out = np.array([i for i, split in enumerate(store.splits) if split != "train"])
    sources = {ARMS[0]: [real], ARMS[1]: [real, made], ARMS[2]: [made]}[arm]
    folder.mkdir(parents=True, exist_ok=True)
    dice = []
    for seed in seeds:
        path = folder / f"{arm.replace(' ', '-')}-{seed}.npy"
        if not path.exists():
            unet = train_unet(store, sources, seed, steps)
            np.save(path, np.stack([dice_of(unet, store, int(i)) for i in held_out]))
        dice.append(np.load(path, allow_pickle=False))
    return Scores(np.stack(dice), np.array(store.subjects)[held_out])


def train_unet(store: Store, sources: list[np.ndarray], seed: int, steps: int) -> nn.Module:
    """Train a 3D U-Net on batches that take equal parts of each source."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    images, labels = len(store.channels), len(store.label_names)
    unet = UNet(3, images, labels, channels=(16, 32, 64), strides=(2, 2), num_res_units=1, norm="batch")
    loss = DiceCELoss(softmax=True, include_background=False)
    optimizer = torch.optim.Adam(unet.parameters(), lr=LR, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps + 1)
    for _ in range(steps):
        chosen = [i for source in sources for i in random.choice(source, BATCH // len(sources))]
        x, target = zip(*(example(store, int(i), random) for i in chosen), strict=True)
        optimizer.zero_grad()
        loss(unet(torch.stack(x)), torch.stack(target)).backward()
        optimizer.step()
        schedule.step()
    return unet.eval()


def example(store: Store, i: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Read a volume, change it at random, and return its images ``[C, D, H, W]`` and one-hot labels of 0 and 1."""
    x, seed, images = store.volume(i), int(random.integers(2**31)), len(store.channels)
    labels = changed(x[images:], CHANGES, seed, labels=True)
    return changed(x[:images], CHANGES, seed), (labels > 0).float()


@torch.no_grad()
def dice_of(unet: nn.Module, store: Store, i: int) -> np.ndarray:
    """Return the Dice coefficient of each label but the background of one volume ``[labels]``."""
    found = unet(store.volume(i)[None, : len(store.channels)]).argmax(1)[0].numpy()
    truth = store.label_map(i)
    values = []
    for label in range(1, len(store.label_names)):
        both, total = ((found == label) & (truth == label)).sum(), (found == label).sum() + (truth == label).sum()
        values.append(2 * both / total if (truth == label).any() else np.nan)
    return np.array(values)


def table(fraction: float, store: Store, found: dict[str, Scores]) -> list[dict[str, object]]:
    """Rows of one fraction: Dice of each label and their mean, and the gain over real volumes alone, with intervals."""
    train = store.indices("train")
    made, rows = int(store.generated[train].sum()), []
    for arm, scores in found.items():
        row: dict[str, object] = {"fraction": fraction, "real": len(train) - made, "generated": made, "arm": arm}
        row |= {"seeds": len(scores.dice), "held_out": len(scores.subjects)}
        drawn = resampled(scores, found[ARMS[0]])
        for label, name in enumerate((*store.label_names[1:], "mean")):
            value, base = (mean_dice(one.dice)[label] for one in (scores, found[ARMS[0]]))
            row[name] = value
            row[f"{name} low"], row[f"{name} high"] = np.quantile(drawn[:, 0, label], (0.025, 0.975))
            row[f"{name} gain"] = value - base
            row[f"{name} gain low"], row[f"{name} gain high"] = np.quantile(drawn[:, 1, label], (0.025, 0.975))
        rows.append(row)
    return rows


def mean_dice(dice: np.ndarray) -> np.ndarray:
    """Return the mean over seeds and volumes of each label, and the mean of those ``[labels + 1]``."""
    each = np.nanmean(dice, axis=(0, 1))
    return np.append(each, each.mean())


def resampled(one: Scores, base: Scores) -> np.ndarray:
    """Draw seeds (of each arm) and subjects (the same of both) again and again: Dice and gain ``[ROUNDS, 2, ...]``."""
    random = np.random.default_rng(0)
    members = [np.flatnonzero(one.subjects == subject) for subject in np.unique(one.subjects)]
    values = []
    for _ in range(ROUNDS):
        volumes = np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
        mine, theirs = (
            mean_dice(scores.dice[random.integers(len(scores.dice), size=len(scores.dice))][:, volumes])
            for scores in (one, base)
        )
        values.append((mine, mine - theirs))
    return np.array(values)


def lines(rows: list[dict[str, object]], labels: Sequence[str]) -> list[str]:
    """Write rows for a person to read."""
    first = rows[0]
    head = f"{100 * first['fraction']:.0f} % of the real data: {first['real']} volumes, {first['generated']} generated"
    made = [f"{head}; {first['held_out']} held-out volumes, {first['seeds']} seeds"]
    for row in rows:
        cells = [f"  {row['arm']:<19}"]
        for name in (*labels, "mean"):
            value, low, high = (row[f"{name}{end}"] for end in ("", " low", " high"))
            cells.append(f"{name} {value:.3f} [{low:.3f}, {high:.3f}]")
        gain, low, high = (row[f"mean gain{end}"] for end in ("", " low", " high"))
        made.append("  ".join(cells) + ("" if row is first else f"  gain {gain:+.3f} [{low:+.3f}, {high:+.3f}]"))
    return made


def write(rows: list[dict[str, object]], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(cli.run(main))
