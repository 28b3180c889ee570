"""`hagan3d translate`: volumes of one modality or quality to another, with the uncertainty that the model predicts."""

import sys
from pathlib import Path
from typing import Literal

from hagan3d import cli
from hagan3d.errors import InputError

DESCRIPTION = """Translate volumes by a trained model: NIfTI in the units of its targets, on the grid of each source.
A model that predicts its uncertainty also writes sigma and the bounds of an interval for each volume; so do several
runs, passes with dropout, and mirrored or shifted sources, whose spread is added to it and written by itself, too. The
input is a store, or files of any kind that `hagan3d prepare` reads."""
EXAMPLES = (
    "hagan3d translate runs/pet_ct --input new_pet/ --out ct/",
    "hagan3d translate runs/motion --input crops.h5 --split validation --simulate --out corrected/",
    "hagan3d translate runs/pet_ct --input pet/ --out ct/ --calibration evaluation/metrics.json --level 0.95",
    "hagan3d translate runs/pet_ct_1 runs/pet_ct_2 runs/pet_ct_3 --input pet/ --out ct/ --augment flips    # ensemble",
    "hagan3d translate runs/mr_us --input pairs.csv --out moved/   # registration: id, source (moving), target (fixed)",
    "hagan3d translate runs/unpaired --input ct/ --out mr/ --direction b2a      # two domains: the other way round",
    "hagan3d translate runs/t1_t2 --input t1.nii.gz --out t2/ --memory 4GB",
)


def main(argv: list[str]) -> None:
    """Parse, translate, print where the result is."""
    parser = cli.parser("translate", DESCRIPTION, EXAMPLES)
    add_options(parser)
    a = parser.parse_args(argv)
    out = Path(a.out)
    if not a.force and (out / "translations.csv").exists():
        raise InputError(f"{out / 'translations.csv'}: exists already; use another --out, or --force to replace it")
    if not 0 < a.level < 1:
        raise InputError(f"--level {a.level}: must be above 0 and below 1")
    budget = None if a.memory is None else cli.parse_bytes("--memory", a.memory)
    from hagan3d.checkpoint import load_translation
    from hagan3d.inference.devices import inference_device
    from hagan3d.inference.directions import directed
    from hagan3d.inference.ensemble import EnsembleOptions, ensemble, ensemble_bytes_of
    from hagan3d.inference.inputs import check_translations_out
    from hagan3d.inference.translate_files import (
        Uncertainty,
        calibrated_scales,
        make_translator,
        sources_of,
        write_translations,
    )

    check_translations_out(Path(a.input), out)
    options = EnsembleOptions(a.samples, tuple(a.augment))
    device = inference_device(a.device)
    models = [directed(load_translation(Path(run), a.weights, device), a.direction) for run in a.run]
    model = models[0]
    scales = [] if a.calibration is None else calibrated_scales(Path(a.calibration), model.description)
    held = ensemble_bytes_of(models, options) if budget is not None else 0
    translator = ensemble(models, [make_translator(one, a.depth, a.overlap, budget, held) for one in models], options)
    count, sources = sources_of(Path(a.input), model, a.split, a.simulate)
    shown = cli.progress("translate", count)(sources)
    files = {"dtype": a.dtype, "format": a.format}
    done = write_translations(model, translator, shown, out, Uncertainty(a.level, scales), **files)
    runs = " ".join(a.run)
    print(f"{cli.volumes(done)} translated by step {model.step} of {runs}: {out} (translations.png, translations.csv)")


def add_options(parser: cli.Parser) -> None:
    """Add the options of this command to the parser."""
    cli.add_run_options(parser, several=True)
    cli.add_ensemble_options(parser)
    parser.add_argument("--input", type=str, required=True, help="A store (.h5 or a folder of shards), or scans.")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument(
        "--direction",
        type=Literal["a2b", "b2a", "cycle", "reconstruct"],
        default="a2b",
        help="a2b: source to target. Models of two domains also: b2a, cycle (a to b to a), reconstruct (a to a).",
    )
    parser.add_argument("--split", type=str, default="all", help="Part of a store: train, validation, test or all.")
    parser.add_argument("--simulate", type=bool, default=False, help="Degrade a store's volumes first, as in training.")
    parser.add_argument(
        "--depth",
        type=int | None,
        default=None,
        help="Slices per window, x32; 0: all. Of a slice model: slices at once. Default: 128; as in training with norm "
        "instance or attention.",
    )
    parser.add_argument("--memory", type=str | None, default=None, help=cli.MEMORY)
    parser.add_argument("--overlap", type=int, default=32, help="Slices that windows overlap, a multiple of 32.")
    parser.add_argument("--level", type=float, default=0.9, help="Probability between the lower and the upper bound.")
    parser.add_argument(
        "--calibration", type=str | None, default=None, help="metrics.json whose scale of sigma is used."
    )
    parser.add_argument("--dtype", type=Literal["float32", "int16"], default="float32", help="Type of the voxels.")
    parser.add_argument("--format", type=Literal["nii.gz", "nii"], default="nii.gz", help="NIfTI, compressed or not.")
    parser.add_argument("--force", action="store_true", help="Replace translations that are in --out already.")


if __name__ == "__main__":
    sys.exit(cli.run(main))
