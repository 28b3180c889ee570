"""`hagan3d evaluate`: measures how good a trained model is, in numbers and pictures."""

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal

from hagan3d import cli
from hagan3d.errors import InputError
from hagan3d.evaluation.settings import EvaluateConfig, FeatureTrainConfig

DESCRIPTION = """Evaluate a run on the held-out volumes of its store: KID, MMD, FID, precision and recall in features,
voxel statistics, variety, seams, reconstruction, geometry; with --audit also memorisation of training volumes. A
translating run is evaluated on held-out pairs: voxel errors, and calibration of its uncertainty; between two domains
without pairs by distances between sets, in both directions, and by errors of volumes translated there and back. Writes
report.html (one file, for a browser) and metrics.json; of a model with several image channels or label maps, also a
folder of its name for each channel. The same command again resumes. Nothing is downloaded."""
EXAMPLES = (
    "hagan3d evaluate --store lungs.h5 --train-features           # once per store, takes minutes",
    "hagan3d evaluate runs/lungs --store lungs.h5 --out evaluation/",
    "hagan3d evaluate runs/lungs --store lungs.h5 --out evaluation/ --audit",
    "hagan3d evaluate runs/lungs --store lungs.h5 --medicalnet resnet_10.pth --out evaluation/",
    "hagan3d evaluate runs/pet_ct --store pairs.h5 --out evaluation/     # a translating run: held-out pairs",
)
OPTIONS = ("weights", "device", "audit", "depth", "overlap", "force", "samples")


def options() -> cli.Parser:
    """Return the options of the command."""
    parser = cli.parser("evaluate", DESCRIPTION, EXAMPLES)
    what = "Folder of a run, or a checkpoint file. Several translating ones of one task: their mean."
    parser.add_argument("run", type=str, nargs="*", help=what)
    cli.add_ensemble_options(parser)
    parser.add_argument("--store", type=str, required=True, help="The store, with held-out volumes.")
    parser.add_argument("--out", type=str | None, default=None, help="Output folder.")
    parser.add_argument("--train_features", type=bool, default=False, help="Train the extractor of the store first.")
    parser.add_argument("--audit", type=bool, default=False, help="Run the memorisation audit.")
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="EMA or raw weights.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Device.")
    parser.add_argument(
        "--depth",
        type=int | None,
        default=None,
        help="Slices per window of a translation, x32; 0: all. Default: as of translate.",
    )
    parser.add_argument("--overlap", type=int, default=32, help="Slices shared by adjacent windows, x32.")
    parser.add_argument("--force", action="store_true", help="Replace another evaluation in --out.")
    parser.add_class_arguments(EvaluateConfig, as_group=False)
    parser.add_class_arguments(FeatureTrainConfig, "feature_training")
    return parser


def main(argv: list[str]) -> None:
    """Parse, evaluate, print where the report is."""
    # before NumPy is imported: thousands of small matrices, which several threads slow down
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = options()
    a = parser.instantiate(parser.parse_args(argv))
    config = EvaluateConfig(**{field.name: a[field.name] for field in fields(EvaluateConfig)})
    if bool(a.run) != (a.out is not None) or not (a.run or a.train_features):
        raise InputError("a run and --out must be given together, or --train-features alone")
    from hagan3d.evaluation.progress import progress_bars

    with progress_bars() as progress:
        lines = []
        if a.run and a.train_features:
            from hagan3d.evaluation.run_evaluation import check_sets

            check_sets(Path(a.run[0]), Path(a.store), config)
        if a.train_features:
            from hagan3d.evaluation.features.self_supervised import train_store_features

            lines += train_store_features(Path(a.store), a.feature_training, a.device, progress, a.channel)
        if a.run:
            from hagan3d.evaluation.run_evaluation import EvaluateOptions, run_evaluation

            given = {name: a[name] for name in OPTIONS} | {"augment": tuple(a.augment)}
            how = EvaluateOptions(**given, further=tuple(map(Path, a.run[1:])))
            lines += run_evaluation(Path(a.run[0]), Path(a.store), Path(a.out), config, how, progress)
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(cli.run(main))
