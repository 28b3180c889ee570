"""`hagan3d prepare`: files to a store."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig

DESCRIPTION = "Make a store: read, reorient, resample and scale volumes to [-1, 1]; write one HDF5 file for training."
EXAMPLES = (
    "hagan3d prepare --input scans/ --output lungs.h5 --size 128 128 128 --intensity window",
    "hagan3d prepare --input list.txt --output heads.h5 --labels participants.csv --class_column Sex",
    "hagan3d prepare --input scans/ --output lungs/ --shard 3/16     # one task of an array job",
    "hagan3d prepare --pairs pairs.csv --output pairs.h5 --intensity window --source.units SUV",
    "hagan3d prepare --pairs t1/ t2/ --output t1t2.h5 --size 96 96 96    # equal names in both folders",
    "hagan3d prepare --pairs crops/ labels/ --output maps.h5 --intensity labels --window 0 2   # label maps",
    "hagan3d prepare --domains pet/ ct/ --output unpaired.h5",
)


def main(arguments: list[str]) -> None:
    """Parse the command line, prepare, and report where the store is."""
    parser = cli.parser("prepare", DESCRIPTION, EXAMPLES)
    parser.add_argument("--input", nargs="+", help="Folders, text files that list paths, or volume files.")
    parser.add_argument("--pairs", nargs="+", help="CSV (id, source, target, optional mask, subject), or two folders.")
    parser.add_argument("--domains", nargs=2, help="Folders of the unpaired source and target domains.")
    parser.add_argument("--output", required=True, help="The .h5 file to write; with --shard a folder.")
    parser.add_class_arguments(PrepareConfig, as_group=False)
    parser.add_class_arguments(DomainConfig, "source")
    args = parser.instantiate(parser.parse_args(arguments))
    config = PrepareConfig(**{name: args[name] for name in PrepareConfig.__dataclass_fields__})
    from hagan3d.data.preprocess.inputs import find_inputs  # after parsing, so that --help is fast
    from hagan3d.data.preprocess.pipeline import prepare

    inputs = find_inputs(args.input, args.pairs, args.domains)
    result = prepare(inputs, Path(args.output), config, sources_as=args.source)
    for line in result.left_out:
        print(f"left out: {line}", file=sys.stderr)
    state = "is already there" if result.done_before else "is ready"
    print(f"{result.path} {state}: {cli.volumes(result.volumes)}; contact sheet: {result.sheet}")
    if config.shard is None:
        size = " ".join(str(side) for side in config.size)
        print(f"next: hagan3d train --data.store {result.path} --data.size {size} --out RUN")


if __name__ == "__main__":
    sys.exit(cli.run(main))
