"""Label maps of generated volumes beside real ones: volumes of labels, connected components, variety of the images.

    python benchmarks/label_volumes.py --store hippocampus.h5 runs/a runs/b --num 40

One line per run, after one of the real training volumes: mean and standard deviation over volumes of the share of each
label in per mille of the voxels, connected components (6 neighbours) per label, and the standard deviation over volumes
of the first image channel, averaged over voxels.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from hagan3d.checkpoint import load_model
from hagan3d.data.store.store import Store
from hagan3d.inference.generation import samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="Folders of runs with label maps.")
    parser.add_argument("--store", required=True, help="Their store.")
    parser.add_argument("--num", type=int, default=40, help="Generated volumes per run.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(options.store)
    real = [int(i) for i in store.indices("train", generated=False)]
    labels = range(1, len(store.label_names))
    print("labels: " + ", ".join(store.label_names[1:]))
    images = np.stack([store.channel(i).numpy() for i in real[: options.num]])
    print(f"{'real':<32}{line([store.label_map(i) for i in real], images, labels)}")
    for run in options.runs:
        model = load_model(Path(run), generate=True)
        volumes = [sample.volume for sample in samples(model, range(options.num))]
        count = len(store.channels)
        maps = [x[count:].argmax(0) for x in volumes]
        name = f"{Path(run).name}, step {model.step}"
        print(f"{name:<32}{line(maps, np.stack([x[0] for x in volumes]), labels)}", flush=True)


def line(maps: Sequence[np.ndarray], images: np.ndarray, labels: Sequence[int]) -> str:
    """Return the figures of a set of volumes in words."""
    shares = np.array([[1000 * (one == label).mean() for label in labels] for one in maps])
    parts = np.array([[ndimage.label(one == label)[1] for label in labels] for one in maps])
    mean, deviation = (" ".join(f"{value:5.1f}" for value in values) for values in (shares.mean(0), shares.std(0)))
    components = " ".join(f"{value:.2f}" for value in parts.mean(0))
    return f"mean {mean}  sd {deviation}  components {components}  variety {images.std(0).mean():.3f}"


if __name__ == "__main__":
    main()
