"""`hagan3d prepare`: files to a store."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hagan3d import cli
from hagan3d.config import Size, is_slice
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.errors import InputError, printable

if TYPE_CHECKING:  # so that --help is fast
    from hagan3d.data.preprocess.pipeline import Inspected, Prepared

CONFIG_SIDES = (32, 64, 128, 256, 512)  # sides of the cubes that the configs hagan_SIDE are for
DESCRIPTION = "Make a store: read, reorient, resample and scale volumes to [-1, 1]; write one HDF5 file for training."
EXAMPLES = (
    "hagan3d prepare --input scans/ --output lungs.h5 --size 128 128 128 --intensity window",
    "hagan3d prepare --input scans/ --output lungs.h5 --dry-run       # what would be read; writes nothing",
    "hagan3d prepare --input list.txt --output heads.h5 --labels participants.csv --class_column Sex",
    "hagan3d prepare --input scans/ --output lungs/ --shard 3/16     # one task of an array job",
    "hagan3d prepare --nnunet Dataset004_Hippocampus/ --output hippocampus.h5 --size 32 64 32",
    "hagan3d prepare --input cases.csv --output brains.h5 --label_names background tumour    # id, t1, t2, seg",
    "hagan3d prepare --pairs pairs.csv --output pairs.h5 --intensity window --source.units SUV",
    "hagan3d prepare --pairs pairs.csv --output flair.h5    # id, source_t1, source_t2, target_flair",
    "hagan3d prepare --pairs pairs.csv --output ct.h5 --label_names background bone    # id, source, target, seg",
    "hagan3d prepare --pairs t1/ t2/ --output t1t2.h5 --size 96 96 96    # equal names and subfolders in both",
    "hagan3d prepare --pairs crops/ labels/ --output maps.h5 --intensity labels --window 0 2   # label maps",
    "hagan3d prepare --domains pet/ ct/ --output unpaired.h5",
    "hagan3d prepare --domains pet/ ct/ --output own.h5 --size 64 96 96 --source.size 32 64 64    # a grid each",
    "hagan3d prepare --input images/ --output images.h5 --size 1 256 256    # PNG, TIFF or JPEG; of RGB: --channels 4d",
)


def main(arguments: list[str]) -> None:
    """Parse the command line, prepare, and report where the store is."""
    parser = cli.parser("prepare", DESCRIPTION, EXAMPLES)
    parser.add_argument("--input", nargs="+", help="Folders, lists of paths (.txt), volume files, or a CSV of cases.")
    parser.add_argument("--nnunet", help="Folder of an nnU-Net data set (dataset.json, imagesTr, labelsTr).")
    parser.add_argument(
        "--pairs",
        nargs="+",
        help="CSV (id, source or source_t1, ..., target, ..., seg, mask, subject), or two folders.",
    )
    parser.add_argument("--domains", nargs=2, help="Folders of the unpaired source and target domains.")
    parser.add_argument("--output", required=True, help="The .h5 file to write; with --shard a folder.")
    parser.add_argument("--dry_run", action="store_true", help="Check all files, print what would be read; no writing.")
    parser.add_class_arguments(PrepareConfig, as_group=False)
    parser.add_class_arguments(DomainConfig, "source")
    args = parser.instantiate(parser.parse_args(arguments))
    config = PrepareConfig(**{name: args[name] for name in PrepareConfig.__dataclass_fields__})
    from hagan3d.data.preprocess.inputs import find_inputs  # after parsing, so that --help is fast
    from hagan3d.data.preprocess.pipeline import inspect, prepare
    from hagan3d.data.store.store import Store

    inputs = find_inputs(args.input, args.pairs, args.domains, args.nnunet, config.label_names)
    if args.dry_run:
        _print_inspection(inspect(inputs, config, sources_as=args.source), config.skip_bad)
        return
    result = prepare(inputs, Path(args.output), config, sources_as=args.source)
    for line in result.left_out:
        print(printable(f"left out: {line}"), file=sys.stderr)
    _print_remarks(result.remarks)
    state = "is already there" if result.done_before else "is ready"
    print(f"{result.path} {state}: {cli.volumes(result.volumes)}; contact sheet: {result.sheet}")
    if config.shard is None and "train" in Store(result.path).splits:
        print(f"next: hagan3d train{_settings(result, config.size)} --out RUN")


def _print_inspection(found: "Inspected", skip_bad: bool) -> None:
    """Print what a preparation would read.

    Raises:
        InputError: If it would end with an error.
    """
    for case in found.cases:
        print(printable(str(case)))
    for line in found.grids:
        print(line)
    _print_remarks(found.remarks)
    if found.problems and not (skip_bad and found.cases):
        raise InputError("\n".join(found.problems))
    for line in found.problems:
        print(printable(f"left out: {line}"), file=sys.stderr)
    print(f"{cli.volumes(len(found.cases))} would be read; nothing was written")


def _print_remarks(remarks: Sequence[str]) -> None:
    from hagan3d.data.preprocess.facts import grouped

    for line in grouped(remarks):
        print(printable(line), file=sys.stderr)


def _settings(result: "Prepared", size: Size) -> str:
    """Return the settings of a run on a store: for volumes, the config for their size or the next smaller one."""
    store, sides = f" --data.store {cli.path_word(result.path)}", f" --data.size {' '.join(map(str, size))}"
    if result.sources:
        return store + sides + _channels(result)
    if is_slice(size):
        return store + sides + " --method METHOD" + _channels(result)  # HA-GAN takes volumes
    side = max(side for side in CONFIG_SIDES if side <= max(size))
    config = "hagan_32_labels" if result.labels and side == CONFIG_SIDES[0] else f"hagan_{side}"
    return f" --config {config}" + store + ("" if set(size) == {side} else sides) + _channels(result)


def _channels(result: "Prepared") -> str:
    """Return the settings of a run that follow from the channels and labels of a store."""
    if result.sources:
        counts = {
            "source_channels": result.sources,
            "target_channels": result.channels,
            "target_labels": result.labels,
        }
        method = " --method METHOD" + "".join(
            f" --METHOD.{name} {count}" for name, count in counts.items() if count > 1
        )
        size = result.source_size
        return method if size is None else f"{method} --data.source_size {' '.join(map(str, size))}"
    images, labels = (f" --data.channels {result.channels}", f" --data.labels {result.labels}")
    return (images if result.channels > 1 else "") + (labels if result.labels else "")


if __name__ == "__main__":
    sys.exit(cli.run(main))
