"""`hagan3d translate`: volumes of one modality or quality to another, with the uncertainty that the model states."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from hagan3d import cli
from hagan3d.checkpoint import TranslationModel, load_translation
from hagan3d.errors import InputError
from hagan3d.inference.devices import inference_device
from hagan3d.inference.memory import MEMORY, translation_depth
from hagan3d.inference.register_files import moving_and_fixed_of_files
from hagan3d.inference.source_volume import SourceVolume
from hagan3d.inference.translate_files import (
    Uncertainty,
    sources_of_files,
    sources_of_store,
    write_translations,
)
from hagan3d.inference.windowed_translation import Translator

DESCRIPTION = """Translate volumes by a trained model: NIfTI in the units of its targets, on the grid of each source.
A model that knows its uncertainty (UP-GAN) leaves sigma and the bounds of an interval beside each volume. The input
is a store, or files of any kind that `hagan3d prepare` reads."""
EXAMPLES = (
    "hagan3d translate runs/pet_ct --input new_pet/ --out ct/",
    "hagan3d translate runs/motion --input crops.h5 --split validation --simulate --out corrected/",
    "hagan3d translate runs/pet_ct --input pet/ --out ct/ --calibration evaluation/metrics.json --level 0.95",
    "hagan3d translate runs/mr_us --input pairs.csv --out moved/        # registration: id, source (moves), target",
    "hagan3d translate runs/t1_t2 --input t1.nii.gz --out t2/ --memory 4GB",
)
LONGEST = 128  # slices that are translated at once unless another depth is asked for


def main(argv: list[str]) -> None:
    """Parse, translate, say where the result is."""
    parser = cli.parser("translate", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--input", type=str, required=True, help="A store (.h5 or a folder of shards), or scans.")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--split", type=str, default="all", help="Part of a store: train, validation, test or all.")
    parser.add_argument("--simulate", type=bool, default=False, help="Spoil a store's volumes first, as in training.")
    parser.add_argument(
        "--depth", type=int, default=LONGEST, help="Slices translated at once, a multiple of 32; 0: all."
    )
    parser.add_argument("--memory", type=str | None, default=None, help=MEMORY)
    parser.add_argument("--overlap", type=int, default=32, help="Slices that neighbours share, a multiple of 32.")
    parser.add_argument("--level", type=float, default=0.9, help="Probability between the lower and the upper bound.")
    parser.add_argument(
        "--calibration", type=str | None, default=None, help="metrics.json of `hagan3d evaluate`: its scale of sigma."
    )
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Averaged weights, or the last.")
    parser.add_argument("--dtype", type=Literal["float32", "int16"], default="float32", help="Of the voxels written.")
    parser.add_argument("--format", type=Literal["nii.gz", "nii"], default="nii.gz", help="NIfTI, packed or not.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--force", action="store_true", help="Replace translations that are in --out already.")
    a = parser.parse_args(argv)
    out, path = Path(a.out), Path(a.input)
    if not a.force and (out / "translations.csv").exists():
        raise InputError(f"{out / 'translations.csv'}: is there already; give another --out, or --force to replace it")
    if not 0 < a.level < 1:
        raise InputError(f"--level {a.level}: want a probability above 0 and below 1")
    scale = 1.0 if a.calibration is None else scale_of(Path(a.calibration))
    model = load_translation(Path(a.run), a.weights, inference_device(a.device))
    depth = a.depth
    if a.memory is not None:
        depth = translation_depth(model.config, a.overlap, cli.parse_bytes("--memory", a.memory), model.device)
    translator = Translator(model.networks, depth, a.overlap)
    translator.windows(model.description.size[0])
    count, sources = chosen_sources(path, model, a.split, a.simulate)
    shown = iter(track(sources, "translate", total=count, console=Console(stderr=True)))
    wanted = {"dtype": a.dtype, "format": a.format}
    done = write_translations(model, translator, shown, out, Uncertainty(a.level, scale), **wanted)
    print(f"{cli.volumes(done)} translated by step {model.step} of {a.run}: {out} (translations.png, translations.csv)")


def chosen_sources(
    path: Path, model: TranslationModel, split: str, simulate: bool
) -> tuple[int, Iterator[SourceVolume]]:
    """Give what is to be translated, of a store or of files, and how many."""
    if is_store(path):
        return sources_of_store(path, model, split, simulate)
    if model.config.recipe == "registration":
        return moving_and_fixed_of_files(path, model)
    return sources_of_files(path, model.description)


def scale_of(path: Path) -> float:
    """Read the factor on sigma that an evaluation fitted.

    Raises:
        InputError: If the file is none of an evaluation of a model with uncertainty.
    """
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["calibration"]["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: want the metrics.json that `hagan3d evaluate` left of a translation with uncertainty"
        ) from error


def is_store(path: Path) -> bool:
    """Tell a store from scans: a .h5 file, or a folder that holds some."""
    return path.suffix == ".h5" or (path.is_dir() and any(path.glob("*.h5")))


if __name__ == "__main__":
    sys.exit(cli.run(main))
