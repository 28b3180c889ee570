"""The door `hagan3d prepare`: files to a store."""

import sys

from hagan3d import cli
from hagan3d.data.config import PrepareConfig


def main(arguments: list[str]) -> None:
    """Parse, prepare, say where the store is."""
    parser = cli.parser(
        "prepare",
        "Make a store of volumes: read, orient, resample, scale to [-1, 1] and write one HDF5 file for training.",
        [
            "hagan3d prepare --input scans/ --output lungs.h5 --size 128 128 128 --intensity window",
            "hagan3d prepare --input list.txt --output heads.h5 --labels participants.csv --class_column Sex",
            "hagan3d prepare --input scans/ --output lungs/ --shard 3/16     # one task of an array job",
        ],
    )
    parser.add_argument("--input", nargs="+", required=True, help="Folders, text files that list paths, or volumes.")
    parser.add_argument("--output", required=True, help="The .h5 file to write; with --shard a folder.")
    parser.add_class_arguments(PrepareConfig, as_group=False)
    args = parser.instantiate(parser.parse_args(arguments))
    names = PrepareConfig.__dataclass_fields__
    config = PrepareConfig(**{name: args[name] for name in names})
    from hagan3d.data.prepare import prepare  # after parsing, so that --help is instant

    made = prepare(args.input, args.output, config)
    for line in made.left_out:
        print(f"left out: {line}", file=sys.stderr)
    state = "is already there" if made.done_before else "is ready"
    print(f"{made.path} {state}: {made.volumes} volumes; look at {made.sheet}")
    if config.shard is None:
        size = " ".join(str(side) for side in config.size)
        print(f"next: hagan3d train --data.store {made.path} --data.size {size} --out RUN")


if __name__ == "__main__":
    sys.exit(cli.run(main))
