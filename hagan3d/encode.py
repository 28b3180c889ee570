"""`hagan3d encode`: latent features of volumes, and the volumes made from them again."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from hagan3d import cli
from hagan3d.checkpoint import load_model
from hagan3d.data.io.writer import Format
from hagan3d.errors import InputError
from hagan3d.inference.devices import inference_device
from hagan3d.inference.encoding import Input, encode, inputs_of_files, inputs_of_store
from hagan3d.inference.memory import MEMORY, window_depth

DESCRIPTION = """Encode volumes into latents: features.npz and features.csv. The input is a store, or files of any kind
that `hagan3d prepare` reads; those are brought to the grid and the intensities of the model first."""
EXAMPLES = (
    "hagan3d encode runs/lungs --input lungs.h5 --out features/",
    "hagan3d encode runs/lungs --input new_scans/ --out features/ --reconstruct --memory 2GB",
)


def main(argv: list[str]) -> None:
    """Parse, encode, say where the result is."""
    parser = cli.parser("encode", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--input", type=str, required=True, help="A store (.h5 or a folder of shards), or scans.")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--split", type=str, default="all", help="Part of a store: train, validation, test or all.")
    parser.add_argument("--reconstruct", action="store_true", help="Write each volume as made from its latent, too.")
    parser.add_argument("--format", type=Format, default="nii.gz", help="Of those: NIfTI, packed or not, or HDF5.")
    parser.add_argument("--memory", type=str | None, default=None, help=MEMORY)
    parser.add_argument(
        "--weights", type=Literal["ema", "raw"], default="ema", help="G's averaged weights, or the last."
    )
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--force", action="store_true", help="Replace features that are in --out already.")
    a = parser.parse_args(argv)
    out = Path(a.out)
    if not a.force and (out / "features.npz").exists():
        raise InputError(f"{out / 'features.npz'}: is there already; give another --out, or --force to replace it")
    budget = None if a.memory is None else cli.parse_bytes("--memory", a.memory)
    names = ("e_h", "e_g", "g") if a.reconstruct else ("e_h", "e_g")
    model = load_model(Path(a.run), a.weights, inference_device(a.device), names)
    depth = None if budget is None else window_depth(model, budget)
    path = Path(a.input)
    if is_store(path):
        count, inputs = inputs_of_store(path, model.description, a.split)
    else:
        count, inputs = inputs_of_files(path, model.description)

    def progress(items: Iterator[Input]) -> Iterator[Input]:
        return iter(track(items, "encode", total=count, console=Console(stderr=True)))

    done = encode(model, progress(inputs), out, a.reconstruct, format=a.format, depth=depth)
    print(f"{cli.volumes(done)} encoded by step {model.step} of {a.run}: {out}/features.npz, features.csv")


def is_store(path: Path) -> bool:
    """Tell a store from scans: a .h5 file, or a folder that holds some."""
    return path.suffix == ".h5" or (path.is_dir() and any(path.glob("*.h5")))


if __name__ == "__main__":
    sys.exit(cli.run(main))
