"""The door `hagan3d prepare`: files to a store."""

import sys

from hagan3d import cli
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.errors import InputError


def main(arguments: list[str]) -> None:
    """Parse, prepare, say where the store is."""
    parser = cli.parser(
        "prepare",
        "Make a store of volumes: read, orient, resample, scale to [-1, 1] and write one HDF5 file for training.",
        [
            "hagan3d prepare --input scans/ --output lungs.h5 --size 128 128 128 --intensity window",
            "hagan3d prepare --input list.txt --output heads.h5 --labels participants.csv --class_column Sex",
            "hagan3d prepare --input scans/ --output lungs/ --shard 3/16     # one task of an array job",
            "hagan3d prepare --pairs pairs.csv --output pairs.h5 --intensity window --source.units SUV",
            "hagan3d prepare --pairs t1/ t2/ --output t1t2.h5 --size 96 96 96    # equal names in both folders",
            "hagan3d prepare --pairs crops/ labels/ --output maps.h5 --intensity labels --window 0 2   # maps",
            "hagan3d prepare --domains pet/ ct/ --output unpaired.h5",
        ],
    )
    parser.add_argument("--input", nargs="+", help="Folders, text files that list paths, or volumes.")
    parser.add_argument("--pairs", nargs="+", help="A CSV (id, source, target, perhaps mask, subject) or two folders.")
    parser.add_argument("--domains", nargs=2, help="Folders of sources and of targets that are not paired.")
    parser.add_argument("--output", required=True, help="The .h5 file to write; with --shard a folder.")
    parser.add_class_arguments(PrepareConfig, as_group=False)
    parser.add_class_arguments(DomainConfig, "source")
    args = parser.instantiate(parser.parse_args(arguments))
    names = PrepareConfig.__dataclass_fields__
    config = PrepareConfig(**{name: args[name] for name in names})
    if sum(given is not None for given in (args.input, args.pairs, args.domains)) != 1:
        raise InputError("want one of --input, --pairs and --domains")
    from hagan3d.data.preprocess.pairing import find_domains, find_pairs
    from hagan3d.data.preprocess.pipeline import prepare  # after parsing, so that --help is instant

    found = find_pairs(args.pairs) if args.pairs else find_domains(args.domains) if args.domains else None
    made = prepare(found or args.input, args.output, config, sources_as=args.source)
    for line in made.left_out:
        print(f"left out: {line}", file=sys.stderr)
    state = "is already there" if made.done_before else "is ready"
    print(f"{made.path} {state}: {cli.volumes(made.volumes)}; look at {made.sheet}")
    if config.shard is None:
        size = " ".join(str(side) for side in config.size)
        print(f"next: hagan3d train --data.store {made.path} --data.size {size} --out RUN")


if __name__ == "__main__":
    sys.exit(cli.run(main))
