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

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import study
import torch
from monai.networks.nets import ResNet
from torch import Tensor
from torch.nn import functional as F

from hagan3d import cli
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store

BATCH = 16  # volumes per step of a classifier
LR = 2e-3  # highest learning rate of Adam, one cycle
SHIFT = 2  # voxels by which volumes are moved at random, at most
CONDITIONAL = "--hagan.conditional true --hagan.class_weight 0.5"
MEASURES = ("accuracy", "balanced accuracy")


def main(argv: list[str]) -> None:
    """Run the study, print its table and write it to a folder."""
    a = parse(argv)
    out = Path(a.out)
    if a.quick:
        a.store, a.fractions, a.steps, a.per_class, a.seeds, a.classifier_steps = phantoms(out), [0.5], 1, 2, 2, 4
    torch.set_num_threads(a.threads or torch.get_num_threads())
    whole, rows = Store(a.store), []
    settings = f"{CONDITIONAL} {study.TINY}" if a.quick else CONDITIONAL
    for fraction in a.fractions:
        part = study.part_of(whole, fraction, out)
        seen = study.part_of(whole, min(fraction, a.generator_fraction), out)
        run = study.generator(seen, out, a.config, a.steps, settings.split())
        more = study.with_generated(part, seen, run, out / f"more-{study.percent(fraction)}.h5", a.per_class)
        found = {arm: classify(more, arm, range(a.seeds), a.classifier_steps) for arm in study.ARMS}
        rows += study.table(fraction, more, found, MEASURES, accuracies)
        print("\n".join(study.lines(rows[-len(study.ARMS) :], MEASURES)), flush=True)
    study.write(rows, out / "study.csv")
    print(f"{len(rows)} rows: {out / 'study.csv'}")


def parse(argv: list[str]) -> Namespace:
    """Read the command line."""
    options = study.parser(__doc__, "classes", (0.1, 0.25, 0.5, 1.0), steps=1600)
    options.add_argument(
        "--generator-fraction",
        type=float,
        default=1.0,
        help="Train no generator on more than this. Default: each its own.",
    )
    options.add_argument("--per-class", type=int, default=100, help="Volumes generated of each class.")
    options.add_argument("--classifier-steps", type=int, default=200, help="Of each classifier.")
    return study.parsed(options, argv)


def phantoms(out: Path) -> Path:
    """Make a store of 15 phantoms in the five grades of emphysema."""
    path = out / "phantoms.h5"
    if not path.exists():
        write_phantoms(out / "phantoms", 15, (32, 32, 32))
        labels = str(out / "phantoms" / "attributes.csv")
        settings = PrepareConfig(size=(32, 32, 32), intensity="window", labels=labels, validation=0.4, workers=1)
        prepare(out / "phantoms" / "volumes", path, settings, progress=False)
    return path


def classify(store: Store, arm: str, seeds: Sequence[int], steps: int) -> study.Outcome:
    """Steps 4 and 5: train a classifier per seed and ask it about the held-out volumes; see `right_answers`."""
    sources = [tensors(store, indices) for indices in study.sources_of(store)[arm]]
    asked = study.held_out(store)
    asked = asked[store.labels[asked] >= 0]  # those without a class cannot be right
    x, truth = tensors(store, asked)
    predicted = [answers(train_classifier(sources, len(store.class_names), seed, steps), x) for seed in seeds]
    return study.Outcome(right_answers(np.stack(predicted), truth.numpy()), np.array(store.subjects)[asked])


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


def right_answers(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return whether answers are right ``[seeds, N, 1 + classes]``: of all volumes, then of those of each class.

    Args:
        predicted: Class indices ``[seeds, N]``.
        truth: Class indices ``[N]``.
    """
    right = (predicted == truth).astype(float)[:, :, None]
    return np.concatenate([right, np.where(truth[:, None] == np.unique(truth), right, np.nan)], axis=2)


def accuracies(right: np.ndarray) -> np.ndarray:
    """Return accuracy and balanced accuracy, the mean over the classes, of `right_answers`; each from 0 to 1."""
    shares = [np.nanmean(right[..., k]) for k in range(right.shape[2]) if not np.isnan(right[..., k]).all()]
    return np.array([shares[0], np.mean(shares[1:])])


if __name__ == "__main__":
    sys.exit(cli.run(main))
