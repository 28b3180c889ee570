"""`hagan3d generate`: new volumes from a trained model. It needs neither the store nor what training needs."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from hagan3d import cli
from hagan3d.checkpoint import Model, load_model
from hagan3d.data.io.writer import Format
from hagan3d.errors import InputError
from hagan3d.inference.devices import inference_device
from hagan3d.inference.generation import Sample, generate
from hagan3d.inference.memory import MEMORY, window_depth

DESCRIPTION = """Generate volumes of any size: files in the units, orientation and place of the training data, a contact
sheet (samples.png) and a table with seed, class and latent of each (samples.csv)."""
EXAMPLES = (
    "hagan3d generate runs/lungs --num 8 --out volumes/",
    "hagan3d generate runs/lungs --seeds 0-99,200 --truncation 0.8 --dtype int16 --out volumes/",
    "hagan3d generate runs/lungs --num 20 --class-name severe --out severe/",
    "hagan3d generate runs/lungs512 --num 4 --memory 1GB --format h5 --out volumes/",
)


def main(argv: list[str]) -> None:
    """Parse, generate, say where the result is."""
    parser = cli.parser("generate", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--num", type=int, default=8, help="Volumes to make, with seeds 0, 1, ...")
    parser.add_argument("--seeds", type=str | None, default=None, help="Seeds instead of --num, such as 0-99,200.")
    parser.add_argument("--class_name", type=str | None, default=None, help="Class to make. Default: all in turn.")
    parser.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        help="Factor on the distance of z from its mean; below 1: more typical, less varied.",
    )
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Averaged weights, or the last.")
    parser.add_argument("--dtype", type=Literal["float32", "int16"], default="float32", help="Of the voxels written.")
    parser.add_argument("--format", type=Format, default="nii.gz", help="Of the files: NIfTI, packed or not, or HDF5.")
    parser.add_argument("--memory", type=str | None, default=None, help=MEMORY)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--force", action="store_true", help="Replace volumes that are in --out already.")
    a = parser.parse_args(argv)
    seeds = parse_seeds(a.seeds) if a.seeds else list(range(a.num))
    if not seeds or not 0 < a.truncation <= 10:
        raise InputError(
            f"want at least one volume and a truncation above 0 (at most 10), got {len(seeds)}, {a.truncation}"
        )
    out = Path(a.out)
    if not a.force and any(file for ending in ("nii*", "h5") for file in out.glob(f"volume-*.{ending}")):
        raise InputError(f"{out}: holds generated volumes already; give another --out, or --force to replace them")
    budget = None if a.memory is None else cli.parse_bytes("--memory", a.memory)
    model = load_model(Path(a.run), a.weights, inference_device(a.device), names=("g",))
    depth = None if budget is None else window_depth(model, budget)
    label = None if a.class_name is None else class_index(model, a.class_name)

    def progress(items: Iterator[Sample]) -> Iterator[Sample]:
        return iter(track(items, "generate", total=len(seeds), console=Console(stderr=True)))

    chosen = {"label": label, "truncation": a.truncation, "dtype": a.dtype, "format": a.format, "depth": depth}
    paths = generate(model, seeds, out, progress=progress, **chosen)
    print(f"{cli.volumes(len(paths))} from step {model.step} of {a.run}: {out} (samples.png, samples.csv)")


def parse_seeds(text: str) -> list[int]:
    """Read seeds such as ``0-99,200``.

    Raises:
        InputError: If the text is none.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise InputError(f"--seeds {text}: want numbers and ranges such as 0-99,200")
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def class_index(model: Model, name: str) -> int:
    """Return the index of a class.

    Raises:
        InputError: If the model has no such class.
    """
    names = model.description.class_names if model.config.model.conditional else ()
    if name not in names:
        raise InputError(
            f"--class-name {name}: "
            + (f"the classes are {', '.join(names)}" if names else "this model was trained without classes")
        )
    return names.index(name)


if __name__ == "__main__":
    sys.exit(cli.run(main))
