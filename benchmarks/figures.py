"""Pictures of the documentation, each made from a run and a store.

`crops` shows real above generated volumes, `walk` a closed walk in latent space as a GIF, `translation` held-out
sources with their translations, targets and sigma, `curve` terms of a training run. Volumes are shown in radiological
orientation. The source and the licence of the data go below each picture in the text.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hagan3d import cli
from hagan3d.api import Model
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.io.files import replacing
from hagan3d.data.pictures import (
    PLANES,
    Plane,
    Segmented,
    comparison_sheet,
    contact_sheet,
    draw_mask,
    label_colour,
    middle_plane,
)
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.generation import latent, samples
from hagan3d.inference.translate_files import make_translator

LIMIT = 300_000  # bytes of a picture
WALK_SIDE = 240  # pixels of the longer side of a walk
TITLES = ("source", "output", "target", "error", "sigma")
Array = NDArray[np.float32]


def main() -> int:
    """Make the picture that the command line names."""
    a = parse()
    with tempfile.TemporaryDirectory() as folder:
        out, a.out = a.out, Path(folder) / a.out.name
        {"crops": crops, "walk": walk, "translation": translation, "curve": curve}[a.picture](a)
        size = a.out.stat().st_size
        if size > LIMIT:
            raise InputError(f"{out}: would have {size} bytes, more than {LIMIT}; show less (--num, --frames)")
        with replacing(out) as temporary:
            shutil.copyfile(a.out, temporary)
    print(f"{out}: {size / 1000:.0f} kB")
    return 0


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="picture", required=True)
    for name in ("crops", "walk", "translation", "curve"):
        one = kinds.add_parser(name)
        checkpoint = "" if name == "curve" else ", or a checkpoint"
        one.add_argument("run", type=Path, help=f"Folder of the run{checkpoint}.")
        one.add_argument("--out", type=Path, required=True, help="The .png, or the .gif of a walk.")
        if name in ("crops", "translation"):
            one.add_argument("--store", type=Path, required=True, help="Store with the real volumes.")
            one.add_argument("--num", type=int, default=6, help="Volumes, of a translation held-out ones.")
            one.add_argument("--planes", nargs="+", default=["axial"], choices=PLANES, help="Planes to show.")
        if name == "walk":
            one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Where the walk passes.")
            one.add_argument("--frames", type=int, default=24, help="Frames of the closed walk.")
            one.add_argument("--plane", default="sagittal", choices=PLANES, help="Plane to show.")
        if name == "curve":
            one.add_argument("--terms", nargs="+", required=True, help="Terms of metrics.jsonl, such as g/gan.")
    return parser.parse_args()


def crops(a: argparse.Namespace) -> None:
    """Draw training volumes above generated ones, with the outlines of their labels if they have any."""
    model, store = Model.load(a.run, device="cpu").loaded, Store(a.store)
    labels = len(model.description.label_names)
    chosen = store.indices("train", generated=False)[: a.num]
    real = [store.volume(int(i)).numpy() for i in chosen]
    made = [sample.volume for sample in samples(model, range(a.num))]
    groups = {"real": real, "generated": made}
    shown = {title: [segmented(x, labels) for x in volumes] for title, volumes in groups.items()}
    comparison_sheet(shown, model.description.affine_array, a.out, a.planes)


def segmented(x: Array, labels: int) -> Array | Segmented:
    """Return the first image channel of a volume ``[C, D, H, W]``, with its label map if there are labels."""
    return Segmented(x[0], x[-labels:].argmax(axis=0)) if labels else x[0]


def walk(a: argparse.Namespace) -> None:
    """Draw volumes along great circles between the latents of seeds, back to the first, as a GIF that loops."""
    if len(set(a.seeds)) < len(a.seeds) or len(a.seeds) < 2:
        raise InputError(f"--seeds {' '.join(map(str, a.seeds))}: a walk needs two or more different seeds")
    model = Model.load(a.run, device="cpu")
    z = closed_walk([latent(model.loaded, seed) for seed in a.seeds], a.frames)
    labels, affine = len(model.loaded.description.label_names), model.loaded.description.affine_array
    shown = [segmented(volume, labels) for volume in model.decode(z).normalized]
    frames = [frame(volume, affine, a.plane).quantize(48, dither=Image.Dither.NONE) for volume in shown]
    with replacing(a.out) as temporary:
        frames[0].save(temporary, "GIF", save_all=True, append_images=frames[1:], duration=120, loop=0)


def frame(volume: Array | Segmented, affine: Array, plane: Plane) -> Image.Image:
    """Draw the middle slice of a volume, with the outlines of its labels if it has any."""
    image = volume.volume if isinstance(volume, Segmented) else volume
    values, spacing = middle_plane(image, affine, plane)
    extent = np.multiply(values.shape, spacing)
    rows, columns = (int(side) for side in np.rint(extent / extent.max() * WALK_SIDE))
    grey = Image.fromarray(np.uint8((values.clip(-1, 1) + 1) * 127.5)).resize((columns, rows), Image.Resampling.BICUBIC)
    picture = np.asarray(grey.convert("RGB"), np.float32)
    if isinstance(volume, Segmented):
        labels, _ = middle_plane(volume.label_map, affine, plane)
        for label in range(1, int(labels.max()) + 1):
            picture = draw_mask(picture, labels == label, label_colour(label), fill=0.0, rim=2)
    return Image.fromarray(np.uint8(picture))


def closed_walk(stops: Sequence[Array], frames: int) -> Array:
    """Interpolate between latents ``[latent_dim]``, from the last back to the first; ``[frames, latent_dim]``.

    Direction and length change evenly: a straight line would pass the middle, where no latent is sampled.
    """
    at, steps = list(stops), np.arange(frames) * len(stops) / frames
    pairs = [(at[int(t)], at[(int(t) + 1) % len(at)], t % 1) for t in steps]
    return np.stack([spherical(one, other, share) for one, other, share in pairs]).astype(np.float32)


def spherical(one: Array, other: Array, share: float) -> Array:
    """Interpolate direction and length between two vectors."""
    norms = np.linalg.norm(one), np.linalg.norm(other)
    angle = np.arccos(np.clip(one @ other / (norms[0] * norms[1]), -1, 1))
    first, second = np.sin((1 - share) * angle), np.sin(share * angle)
    length = (1 - share) * norms[0] + share * norms[1]
    return length * (first * one / norms[0] + second * other / norms[1]) / np.sin(angle)


def translation(a: argparse.Namespace) -> None:
    """Draw held-out sources, outputs, targets, errors and sigma, a row per volume; error and sigma on one scale."""
    model, store = Model.load(a.run, device="cpu").loaded, Store(a.store)
    pairs, translator = Pairs(store, model.config.data.degrade), make_translator(model, None, 32)
    volumes: list[Array] = []
    titles = TITLES if translator.predicts_uncertainty else TITLES[:-1]
    for i in map(int, pairs.indices("validation")[: a.num]):
        pair = pairs.pair(i)
        made = translator.whole(pair.source)
        maps = [(made.mean[0, 0] - pair.target[0]).abs()] + ([] if made.sigma is None else [made.sigma[0, 0]])
        scale = 2 / torch.stack(maps).flatten().quantile(0.999)  # black: 0, white: the 99.9th percentile of both
        shown = [pair.source[0], made.mean[0, 0], pair.target[0], *(x * scale - 1 for x in maps)]
        volumes += [x.numpy() for x in shown]
    captions = [*titles] * (len(volumes) // len(titles))
    contact_sheet(volumes, model.description.affine_array, captions, a.out, a.planes, columns=len(titles))


def curve(a: argparse.Namespace) -> None:
    """Draw terms of a run against its steps."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in (a.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    shown: list[float] = []
    for term in a.terms:
        points = [(row["step"], row[term]) for row in rows if term in row]
        if not points:
            raise InputError(f"{a.run}: logs no term {term}; it has {', '.join(sorted(set().union(*rows)))}")
        axes.plot(*zip(*points, strict=True), label=term, linewidth=1)
        shown += [value for _, value in points]
    axes.set(xlabel="step", ylabel="loss term", yscale="log" if min(shown) > 0 else "linear")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(a.out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    sys.exit(cli.run(lambda _: main()))
