"""`hagan3d phantoms`: synthetic volumes with label maps and ground truth."""

import shlex
import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.config import Size

KINDS = ("thorax", "head", "pet")


def main(arguments: list[str]) -> None:
    """Parse the command line, write phantoms, and report where they are."""
    parser = cli.parser(
        "phantoms",
        "Write synthetic volumes (NIfTI) with label maps and a table of their ground-truth attributes.",
        [
            "hagan3d phantoms --out phantoms/ --num 96 --size 64 64 64",
            "hagan3d phantoms --kind head --out heads/ --num 96    # an nnU-Net data set: T1, T1c, T2, FLAIR, tumour",
            "hagan3d phantoms --kind pet --out petct/ --num 96    # pairs of a PET and a CT, with lesions",
        ],
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="thorax",
        help="thorax: chest CTs. head: four MR contrasts with a tumour. pet: PET and CT of chests with lesions.",
    )
    parser.add_argument("--out", required=True, help="Folder to write to.")
    parser.add_argument(
        "--num", type=int, default=96, help="Number of phantoms; chests cycle through 5 emphysema grades."
    )
    parser.add_argument("--size", type=Size, default=(64, 64, 64), help="Voxels D, H, W, multiples of 8.")
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of the first patient; the next ones have seed + 1, ..."
    )
    parser.add_argument("--workers", type=int, default=2, help="Number of processes.")
    args = parser.parse_args(arguments)
    from hagan3d.data.phantoms.head import write_heads  # after parsing, so that --help is fast
    from hagan3d.data.phantoms.pet import write_pet_phantoms
    from hagan3d.data.phantoms.thorax import write_phantoms

    write = {"thorax": write_phantoms, "head": write_heads, "pet": write_pet_phantoms}[args.kind]
    out = write(args.out, args.num, tuple(args.size), args.seed, workers=args.workers, progress=True)
    print("\n".join({"thorax": _thorax_lines, "head": _head_lines, "pet": _pet_lines}[args.kind](out, args.num)))


def _thorax_lines(out: Path, num: int) -> list[str]:
    """Return what was written and what to run next, for chests."""
    from hagan3d.data.phantoms.anatomy import LABEL_NAMES

    volumes, table, cases = (cli.path_word(out / name) for name in ("volumes", "attributes.csv", "cases.csv"))
    return [
        f"{out}: {num} phantoms in volumes/, label maps in labels/, ground truth in attributes.csv",
        f"next: hagan3d prepare --input {volumes} --labels {table} --intensity window --output STORE.h5",
        f"with label maps: the same with --input {cases} --label_names {shlex.join(LABEL_NAMES)}",
    ]


def _head_lines(out: Path, num: int) -> list[str]:
    """Return the same for heads."""
    table = cli.path_word(out / "attributes.csv")
    return [
        f"{out}: {num} heads, a data set in the form of nnU-Net; ground truth in attributes.csv",
        f"next: hagan3d prepare --nnunet {cli.path_word(out)} --labels {table} --output STORE.h5",
    ]


def _pet_lines(out: Path, num: int) -> list[str]:
    """Return the same for PET/CT."""
    from hagan3d.data.phantoms.pet import LABEL_NAMES

    pairs, labelled = (cli.path_word(out / name) for name in ("pairs.csv", "labelled_pairs.csv"))
    options = "--intensity window --source.intensity window --source.window 0 8 --source.units SUV"
    return [
        f"{out}: {num} PET/CTs in pet/ and ct/, label maps in labels/, ground truth in attributes.csv",
        f"next: hagan3d prepare --pairs {pairs} {options} --output STORE.h5",
        f"with label maps: the same with --pairs {labelled} --label_names {shlex.join(LABEL_NAMES)}",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main))
