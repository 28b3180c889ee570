"""The door `hagan3d phantoms`: made-up chest CTs to try everything on."""

import sys

from hagan3d import cli
from hagan3d.config import Size


def main(arguments: list[str]) -> None:
    """Parse, make phantoms, say where they are."""
    parser = cli.parser(
        "phantoms",
        "Make chest CTs of patients that do not exist, with label maps and a table of what is true of them.",
        ["hagan3d phantoms --out phantoms/ --num 96 --size 64 64 64"],
    )
    parser.add_argument("--out", required=True, help="Folder to write to.")
    parser.add_argument("--num", type=int, default=96, help="How many; emphysema goes round its five grades.")
    parser.add_argument("--size", type=Size, default=(64, 64, 64), help="Voxels D, H, W, multiples of 8.")
    parser.add_argument("--seed", type=int, default=0, help="Of the first patient; the others follow it.")
    parser.add_argument("--workers", type=int, default=2, help="Processes.")
    args = parser.parse_args(arguments)
    from hagan3d.data.phantoms.thorax import write_phantoms  # after parsing, so that --help is instant

    out = write_phantoms(args.out, args.num, tuple(args.size), args.seed, args.workers, progress=True)
    print(f"{out}: {args.num} phantoms in volumes/, their label maps in labels/, the truth in attributes.csv")
    options = f"--input {out}/volumes --labels {out}/attributes.csv --intensity window"
    print(f"next: hagan3d prepare {options} --output STORE.h5")


if __name__ == "__main__":
    sys.exit(cli.run(main))
