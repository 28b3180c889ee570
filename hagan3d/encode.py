"""`hagan3d encode`: latent features of volumes, and their reconstructions."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.errors import InputError

DESCRIPTION = """Encode volumes into latents: features.npz and features.csv. The input is a store, or files of any kind
that `hagan3d prepare` reads; those are resampled to the grid and the intensities of the model first."""
EXAMPLES = (
    "hagan3d encode runs/lungs --input lungs.h5 --out features/",
    "hagan3d encode runs/lungs --input new_scans/ --out features/ --reconstruct --memory 2GB",
)


def main(argv: list[str]) -> None:
    """Parse, encode, print where the result is."""
    parser = cli.parser("encode", DESCRIPTION, EXAMPLES)
    cli.add_run_options(parser)
    parser.add_argument("--input", type=str, required=True, help="A store (.h5 or a folder of shards), or scans.")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--split", type=str, default="all", help="Part of a store: train, validation, test or all.")
    parser.add_argument(
        "--reconstruct", action="store_true", help="Also write each volume reconstructed from its latent."
    )
    parser.add_argument("--format", type=cli.Format, default="nii.gz", help="NIfTI, compressed or not, or HDF5.")
    parser.add_argument("--memory", type=str | None, default=None, help=cli.MEMORY)
    parser.add_argument("--force", action="store_true", help="Replace features that are in --out already.")
    a = parser.parse_args(argv)
    out = Path(a.out)
    for path in (out / "features.npz", out / "features.csv"):
        if not a.force and path.exists():
            raise InputError(f"{path}: exists already; use another --out, or --force to replace it")
    budget = None if a.memory is None else cli.parse_bytes("--memory", a.memory)
    from hagan3d.checkpoint import load_model
    from hagan3d.inference.devices import inference_device
    from hagan3d.inference.encoding import inputs_of
    from hagan3d.inference.features import FEATURES, RECONSTRUCTIONS, encode
    from hagan3d.inference.inputs import UNFINISHED, check_out, check_picture
    from hagan3d.inference.memory import window_depth

    if a.reconstruct:
        folder = out / RECONSTRUCTIONS
        check_out(Path(a.input), folder, RECONSTRUCTIONS, (out / FEATURES, folder / UNFINISHED))
        check_picture(out / f"{RECONSTRUCTIONS}.png")
    model = load_model(Path(a.run), a.weights, inference_device(a.device), generate=a.reconstruct, encode=True)
    depth = None if budget is None else window_depth(model, budget)
    count, inputs = inputs_of(Path(a.input), model, a.split)
    shown = cli.progress("encode", count)(inputs)
    done = encode(model, shown, out, a.reconstruct, format=a.format, depth=depth)
    print(f"{cli.volumes(done)} encoded by step {model.step} of {a.run}: {out}/features.npz, features.csv")


if __name__ == "__main__":
    sys.exit(cli.run(main))
