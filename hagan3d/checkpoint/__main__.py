"""`python -m hagan3d.checkpoint import`: make a run of published HA-GAN weights."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.checkpoint.published import PublishedFiles, import_published
from hagan3d.errors import InputError

DESCRIPTION = """Make a run of published HA-GAN weights, fit for `hagan3d generate` and, with both encoders, `hagan3d
encode`. Nothing in the files is executed."""
EXAMPLES = (
    "python -m hagan3d.checkpoint import --generator G_iter80000.pth --size 256 --out runs/published",
    "python -m hagan3d.checkpoint import --generator G_iter80000.pth --encoder E_iter80000.pth \\",
    "    --sub-encoder Sub_E_iter80000.pth --discriminator D_iter80000.pth --size 128 --out runs/published",
)


def main(argv: list[str]) -> None:
    """Parse, import, say where the result is."""
    parser = cli.parser("checkpoint", DESCRIPTION, EXAMPLES)
    parser.add_argument("action", type=str, help="import")
    parser.add_argument("--generator", type=str, required=True, help="G_iterN.pth")
    parser.add_argument("--discriminator", type=str | None, default=None, help="D_iterN.pth")
    parser.add_argument("--encoder", type=str | None, default=None, help="E_iterN.pth (sub-volume to a piece of A)")
    parser.add_argument("--sub_encoder", type=str | None, default=None, help="Sub_E_iterN.pth (A to z)")
    parser.add_argument("--size", type=int, required=True, help="Voxels per axis: 128 or 256.")
    parser.add_argument("--out", type=str, required=True, help="Folder of the run that is made.")
    parser.add_argument("--window", type=tuple[float, float], default=(-1024, 600), help="Values of -1 and 1.")
    parser.add_argument("--spacing", type=tuple[float, float, float], default=(1, 1, 1), help="Mm per voxel, D H W.")
    parser.add_argument("--units", type=str, default="HU", help="Name of the intensity units.")
    a = parser.parse_args(argv)
    if a.action != "import":
        raise InputError(f"unknown action {a.action!r}; known: import")
    optional = (Path(name) if name else None for name in (a.discriminator, a.encoder, a.sub_encoder))
    files = PublishedFiles(Path(a.generator), *optional)
    path = import_published(files, a.size, Path(a.out), window=tuple(a.window), spacing=tuple(a.spacing), units=a.units)
    print(f"imported: {path}")
    print(f"next: hagan3d generate {a.out} --num 8 --out {a.out}/samples")


if __name__ == "__main__":
    sys.exit(cli.run(main))
