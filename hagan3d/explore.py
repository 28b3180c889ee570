"""`hagan3d explore`: walks along directions in the latent space of a model."""

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal

from hagan3d import cli
from hagan3d.evaluation.settings import ExploreConfig

DESCRIPTION = """Explore the latent space of a run in one of four modes. --attribute: fit the direction along which an
attribute of real volumes (a column of the store or of --table, or a measure) changes, walk along it from held-out
volumes and from seeds, and measure on the generated volumes whether it changes. --pca: principal components of
encoded volumes. --between: interpolation between two volumes. --truncations: truncation towards the mean latent. Writes
volumes, walk.csv, strip.png, walk.gif (segmented voxels in red, label maps in colours) and explore.json."""
EXAMPLES = (
    "hagan3d explore runs/chests --store chests.h5 --attribute lung_volume_ml --out lungs/",
    "hagan3d explore runs/chests --store chests.h5 --attribute emphysema_percent --source generated --out emphysema/",
    "hagan3d explore runs/heads --store heads.h5 --attribute Age --table ages.csv --skip-missing --out age/",
    "hagan3d explore runs/crops --store crops.h5 --attribute label_1_ml --label-maps labels/ --out anterior/",
    "hagan3d explore runs/heads --store heads.h5 --attribute label_tumour_ml --out tumour/     # generated labels",
    "hagan3d explore runs/chests --store chests.h5 --pca 4 --out components/",
    "hagan3d explore runs/chests --store chests.h5 --between chest-007 chest-012 --steps 9 --out between/",
    "hagan3d explore runs/chests --store chests.h5 --truncations 0.3 0.6 1.0 --out truncation/",
)
MODES = ("attribute", "pca", "between", "truncations")


def main(argv: list[str]) -> None:
    """Parse, explore, print where the result is."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported: many small regressions
    parser = cli.parser("explore", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--store", type=str, required=True, help="Store of real volumes of the size of the model.")
    parser.add_argument("--attribute", type=str, default=None, help="Attribute to walk along.")
    parser.add_argument("--pca", type=int | None, default=None, help="Number of principal components to walk along.")
    parser.add_argument("--between", type=str, nargs=2, default=None, help="Ids of two volumes of the store.")
    parser.add_argument("--truncations", type=list[float] | float | None, default=None, help="Truncation factors.")
    parser.add_argument("--out", type=str, required=True, help="Output folder.")
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="EMA or raw weights.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Device.")
    parser.add_argument("--force", action="store_true", help="Replace another exploration in --out.")
    parser.add_class_arguments(ExploreConfig, as_group=False)
    a = parser.instantiate(parser.parse_args(argv))
    config = ExploreConfig(**{field.name: a[field.name] for field in fields(ExploreConfig)})
    from hagan3d.evaluation.progress import progress_bars
    from hagan3d.evaluation.run_exploration import run_exploration

    modes, options = {name: a[name] for name in MODES}, {name: a[name] for name in ("weights", "device", "force")}
    with progress_bars() as progress:
        lines = run_exploration(Path(a.run), Path(a.store), Path(a.out), modes, config, progress=progress, **options)
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(cli.run(main))
