"""`python -m hagan3d.checkpoint import`: make a run of published weights."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.errors import InputError

DESCRIPTION = """Make a run of the published weights of a method, fit for `hagan3d generate` and, with its encoders,
`hagan3d encode`. Nothing in the files is executed."""
EXAMPLES = (
    "python -m hagan3d.checkpoint import --method METHOD --help    # the files that a method's weights consist of",
    "python -m hagan3d.checkpoint import --method METHOD --generator G_iter80000.pth --size 256 --out runs/published",
)


def main(argv: list[str]) -> None:
    """Parse, import, print where the run is."""
    parser = cli.parser("checkpoint", DESCRIPTION, EXAMPLES)
    parser.add_argument("action", type=str, help="import")
    parser.add_argument("--method", type=str, required=True, help="Method whose weights are imported.")
    method = cli.option_value("--method", argv)
    files: dict[str, str] = {}
    if method is not None:
        from hagan3d.checkpoint.published import published_files

        files = published_files(method)
    for number, (name, description) in enumerate(files.items()):
        parser.add_argument(f"--{name}", type=str | None, default=None, required=number == 0, help=description)
    parser.add_argument("--size", type=int, required=True, help="Voxels per axis: 128 or 256.")
    parser.add_argument("--out", type=str, required=True, help="Folder of the run that is made.")
    parser.add_argument("--window", type=tuple[float, float], default=(-1024, 600), help="Values of -1 and 1.")
    parser.add_argument("--spacing", type=tuple[float, float, float], default=(1, 1, 1), help="Mm per voxel, D H W.")
    parser.add_argument("--units", type=str, default="HU", help="Name of the intensity units.")
    a = parser.parse_args(argv)
    if a.action != "import":
        raise InputError(f"unknown action {a.action!r}; known: import")
    from hagan3d.checkpoint.published import import_published

    paths = {name: Path(a[name]) for name in files if a[name] is not None}
    options = {"window": tuple(a.window), "spacing": tuple(a.spacing), "units": a.units}
    path = import_published(a.method, paths, a.size, Path(a.out), **options)
    print(f"imported: {path}")
    out, samples = cli.path_word(a.out), cli.path_word(Path(a.out) / "samples")
    print(f"next: hagan3d generate {out} --num 8 --out {samples}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
