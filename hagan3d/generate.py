"""`hagan3d generate`: new volumes from a trained model. It needs neither the store nor training code."""

import json
import sys
from pathlib import Path
from typing import Literal

from hagan3d import cli
from hagan3d.config.bounds import MOST_TRUNCATION
from hagan3d.errors import InputError

DESCRIPTION = """Generate volumes of the size of the training data, however large, in its units, orientation and
position; a contact sheet (samples.png) and a table with seed, class and latent of each (samples.csv)."""
EXAMPLES = (
    "hagan3d generate runs/lungs --num 8 --out volumes/",
    "hagan3d generate runs/lungs --seeds 0-99,200 --truncation 0.8 --dtype int16 --out volumes/",
    "hagan3d generate runs/lungs --num 20 --class-name severe --out severe/",
    "hagan3d generate runs/lungs512 --num 4 --memory 1GB --format h5 --out volumes/",
)

UNFINISHED = ".unfinished.json"  # what a command depends on that has not ended, or was killed


def options() -> cli.Parser:
    """Return the options of the command."""
    parser = cli.parser("generate", DESCRIPTION, EXAMPLES)
    cli.add_run_options(parser)
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--num", type=int, default=8, help="Number of volumes, with seeds 0, 1, ...")
    parser.add_argument("--seeds", type=str, default=None, help="Seeds instead of --num, such as 0-99,200.")
    parser.add_argument(
        "--class_name",
        type=str,
        default=None,
        help="Class of all. Default: that of each seed, seed modulo classes.",
    )
    parser.add_argument("--truncation", type=float, default=1.0, help=cli.TRUNCATION)
    parser.add_argument("--dtype", type=Literal["float32", "int16"], default="float32", help="Type of the voxels.")
    parser.add_argument("--format", type=cli.Format, default="nii.gz", help="NIfTI, compressed or not, or HDF5.")
    parser.add_argument("--memory", type=str | None, default=None, help=cli.MEMORY)
    parser.add_argument("--force", action="store_true", help="Replace volumes that are in --out already.")
    return parser


def main(argv: list[str]) -> None:
    """Parse, generate, print where the result is."""
    a = options().parse_args(argv)
    seeds, out = range(a.num) if a.seeds is None else cli.parse_seeds(a.seeds), Path(a.out)
    if not seeds:
        raise InputError(f"--num {a.num}: must be at least 1")
    if not 0 < a.truncation <= MOST_TRUNCATION:
        raise InputError(f"--truncation {a.truncation:g}: must be above 0, at most {MOST_TRUNCATION}")
    if not a.force:
        _check_out(out)
    budget = None if a.memory is None else cli.parse_bytes("--memory", a.memory)
    from hagan3d.checkpoint import load_model
    from hagan3d.data.io.files import write_text
    from hagan3d.inference.devices import inference_device
    from hagan3d.inference.generation import SAMPLES, class_index, generate, remove_others, seeds_of
    from hagan3d.inference.memory import window_depth

    model = load_model(Path(a.run), a.weights, inference_device(a.device), generate=True)
    asked = {key: value for key, value in vars(a).items() if key not in ("out", "force", "debug", "device")}
    checkpoint = {"name": model.path.name, "written": model.path.stat().st_mtime_ns}
    command = json.dumps(asked | {"checkpoint": checkpoint}, sort_keys=True)
    if not a.force:
        _check_out(out, command)
    depth = None if budget is None else window_depth(model, budget)
    label = None if a.class_name is None else class_index(model, a.class_name)
    how = {"label": label, "truncation": a.truncation, "dtype": a.dtype, "format": a.format, "depth": depth}
    replaced = seeds_of(out / SAMPLES)
    write_text(out / UNFINISHED, command)
    paths = generate(model, seeds, out, progress=cli.progress("generate", len(seeds)), **how)
    remove_others(out, replaced, paths)
    (out / UNFINISHED).unlink()
    print(f"{cli.volumes(len(seeds))} from step {model.step} of {a.run}: {out} (samples.png, samples.csv)")


def _check_out(out: Path, command: str | None = None) -> None:
    """Raise InputError if a folder holds volumes that are not those of a killed command: of ``command``, if given."""
    volumes = any(file for ending in ("nii*", "h5") for file in out.glob(f"volume-*.{ending}"))
    if not volumes and not any((out / name).exists() for name in ("samples.csv", "samples.png", "labels.json")):
        return
    marker = out / UNFINISHED
    if not marker.is_file() or (command is not None and marker.read_text(encoding="utf-8") != command):
        raise InputError(
            f"{out}: holds generated volumes or their table; use another --out, or --force to replace them"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
