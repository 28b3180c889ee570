"""`hagan3d train`: train a model on a store, or on phantoms without a store; the same command again resumes."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.errors import InputError, is_out_of_memory
from hagan3d.run_settings import parse_run

DESCRIPTION = """Train a method on the volumes of a store, or, if it translates, on its pairs. The same line again
resumes where the run stopped. Without a store, phantoms of the thorax are made and trained on. Every setting can be
given in a YAML file (--config), on the command line, or both; the command line wins."""
EXAMPLES = (
    "hagan3d train --config hagan_128 --data.store lungs.h5 --out runs/lungs",
    "hagan3d train --config hagan_32 --data.store crops.h5 --out runs/crops --train.steps 2000",
    "hagan3d train --config upgan_32 --data.store crops.h5 --data.degrade.kind motion --out runs/motion",
    "hagan3d train    # phantoms at 32^3, to see it work",
    "hagan3d train --config hagan_256 --data.store heads.h5 --vram 12GB    # settings are changed until it fits",
    "hagan3d train --config hagan_64 --print_config > mine.yaml    # every setting with its value",
)
LESS_MEMORY = "use more train.accumulate or train.checkpointing; for a new run also a smaller train.batch_size"


def main(argv: list[str]) -> None:
    """Parse, train, print where the result is."""
    config, options = parse_run("train", DESCRIPTION, EXAMPLES, argv, add_options)
    vram = None if options.vram is None else cli.parse_bytes("--vram", options.vram)
    from hagan3d.engine.distributed import init_distributed
    from hagan3d.engine.training import default_folder, train

    out = Path(options.out) if options.out else default_folder(config)
    with init_distributed() as distributed:
        try:
            is_done = train(config, out, distributed, vram)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(f"out of memory: {LESS_MEMORY}") from error
    if not distributed.is_first:
        return
    if is_done:
        print(f"all {config.train.steps} steps are done: {out}")
        command = "translate {out} --input X --out Y" if config.translates else "generate {out} --num 8 --out {samples}"
        print(f"next: hagan3d {command.format(out=cli.path_word(out), samples=cli.path_word(out / 'samples'))}")
    else:
        raise cli.Stopped(f"stopped and saved: {out}; the same command again resumes")


def add_options(parser: cli.Parser) -> None:
    """Add the options of this command to the parser."""
    parser.add_argument(
        "--vram",
        type=str | None,
        default=None,
        help="Memory of the card to fit, such as 16GB: settings are changed as `hagan3d plan` advises, and printed.",
    )
    parser.add_argument("--out", type=str | None, default=None, help="Folder of the run. Default: runs/NAME_OF_STORE.")


if __name__ == "__main__":
    sys.exit(cli.run(main))
