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

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import study
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from hagan3d import cli
from hagan3d.config import AugmentConfig
from hagan3d.data.batches.transforms import augment as changed
from hagan3d.data.phantoms.head import write_heads
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

BATCH = 4  # volumes per step of a U-Net
LR = 2e-3  # highest learning rate of Adam, one cycle
CHANGES = AugmentConfig(rotate_deg=10, scale=0.1, shift=0.05, brightness=0.1, contrast=0.1, noise=0.03)


def main(argv: list[str]) -> None:
    """Run the study, print its table and write it to a folder."""
    options = study.parser(__doc__, "label maps", (0.1, 0.25, 1.0), steps=2400)
    options.add_argument("--generated", type=int, default=200, help="Volumes generated.")
    options.add_argument("--unet-steps", type=int, default=300, help="Of each U-Net.")
    a = study.parsed(options, argv)
    out = Path(a.out)
    if a.quick:
        a.store, a.fractions, a.steps, a.generated, a.seeds, a.unet_steps = heads(out), [0.5], 1, 2, 2, 4
    torch.set_num_threads(a.threads or torch.get_num_threads())
    whole, rows = Store(a.store), []
    if not whole.label_names:
        raise InputError(f"{a.store}: has no label maps; prepare it with --nnunet, or from a CSV with a column seg")
    names = (*whole.label_names[1:], "mean")
    settings = f"--data.channels {len(whole.channels)} --data.labels {len(whole.label_names)}"
    settings = f"{settings} {study.TINY}" if a.quick else settings
    for fraction in a.fractions:
        part = study.part_of(whole, fraction, out)
        run = study.generator(part, out, a.config, a.steps, settings.split())
        more = study.with_generated(part, part, run, out / f"more-{study.percent(fraction)}.h5", a.generated)
        folder = out / study.percent(fraction)
        found = {arm: segment(more, arm, range(a.seeds), a.unet_steps, folder) for arm in study.ARMS}
        rows += study.table(fraction, more, found, names, mean_dice)
        print("\n".join(study.lines(rows[-len(study.ARMS) :], names)), flush=True)
    study.write(rows, out / "study.csv")
    print(f"{len(rows)} rows: {out / 'study.csv'}")


def heads(out: Path) -> Path:
    """Make a store of 12 head phantoms with tumours."""
    path = out / "heads.h5"
    if not path.exists():
        write_heads(out / "heads", 12, (32, 32, 32))
        settings = PrepareConfig(size=(32, 32, 32), validation=0.4, workers=1)
        prepare(find_inputs(None, nnunet=out / "heads"), path, settings, progress=False)
    return path


def segment(store: Store, arm: str, seeds: Sequence[int], steps: int, folder: Path) -> study.Outcome:
    """Steps 4 and 5: train a U-Net per seed and measure it on the held-out volumes; done ones are read back.

    The values are the Dice of each label but the background; NaN where a volume lacks it.
    """
    asked, sources, dice = study.held_out(store), study.sources_of(store)[arm], []
    folder.mkdir(parents=True, exist_ok=True)
    study.check_made_by(folder / "made-by.json", {"volumes": store.store_fingerprint, "U-Net steps": steps})
    for seed in seeds:
        path = folder / f"{arm.replace(' ', '-')}-{seed}.npy"
        if not path.exists():
            unet = train_unet(store, sources, seed, steps)
            np.save(path, np.stack([dice_of(unet, store, int(i)) for i in asked]))
        dice.append(np.load(path, allow_pickle=False))
    return study.Outcome(np.stack(dice), np.array(store.subjects)[asked])


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


def mean_dice(dice: np.ndarray) -> np.ndarray:
    """Return the mean over seeds and volumes of each label, and the mean of those ``[labels + 1]``."""
    each = np.nanmean(dice, axis=(0, 1))
    return np.append(each, each.mean())


if __name__ == "__main__":
    sys.exit(cli.run(main))
