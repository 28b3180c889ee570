"""`hagan3d explore`: directions in the latent space of a model, walked along and measured."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from hagan3d import cli
from hagan3d.errors import InputError
from hagan3d.evaluation.settings import ExploreConfig

DESCRIPTION = """Explore the latent space of a run in one of four ways. --attribute: learn along which direction a
number known of real volumes (a column of the store or of --table, or what can be measured) changes, walk along it from
held-out volumes and from seeds, and measure on what is generated whether it does change. --pca: the directions in
which encoded volumes vary most. --between: from one volume to another. --truncations: towards the typical volume.
Leaves volumes, walk.csv, strip.png, walk.gif (segmented voxels in red) and explore.json."""
EXAMPLES = (
    "hagan3d explore runs/chests --store chests.h5 --attribute lung_volume_ml --out lungs/",
    "hagan3d explore runs/chests --store chests.h5 --attribute emphysema_percent --source generated --out emphysema/",
    "hagan3d explore runs/heads --store heads.h5 --attribute Age --table ages.csv --skip-missing --out age/",
    "hagan3d explore runs/crops --store crops.h5 --attribute label_1_ml --label-maps labels/ --out anterior/",
    "hagan3d explore runs/chests --store chests.h5 --pca 4 --out components/",
    "hagan3d explore runs/chests --store chests.h5 --between chest-007 chest-012 --steps 9 --out between/",
    "hagan3d explore runs/chests --store chests.h5 --truncations 0.3 0.6 1.0 --out truncation/",
)
MODES = ("attribute", "pca", "between", "truncations")


def main(argv: list[str]) -> None:
    """Parse, explore, say where the result is."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy comes in: many small regressions
    parser = cli.parser("explore", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str, help="Folder of a run (its newest checkpoint), or a checkpoint file.")
    parser.add_argument("--store", type=str, required=True, help="Store of real volumes, the size of the model's.")
    parser.add_argument("--attribute", type=str | None, default=None, help="Attribute to walk along.")
    parser.add_argument("--pca", type=int | None, default=None, help="Principal components to walk along.")
    parser.add_argument("--between", type=str, nargs=2, default=None, help="Ids of two volumes of the store.")
    parser.add_argument(
        "--truncations",
        type=list[float] | float | None,
        default=None,
        help="Factors on the distance of z from its mean.",
    )
    parser.add_argument("--out", type=str, required=True, help="Folder to write to.")
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Averaged weights, or the last.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--force", action="store_true", help="Replace an exploration that is in --out already.")
    parser.add_class_arguments(ExploreConfig, as_group=False)
    a = parser.instantiate(parser.parse_args(argv))
    config = ExploreConfig(**{name: a[name] for name in ExploreConfig.__dataclass_fields__})
    chosen = [name for name in MODES if a[name] is not None]
    if len(chosen) != 1:
        given = " and ".join(f"--{name}" for name in chosen) or "none"
        raise InputError(f"want one of {', '.join(f'--{name}' for name in MODES)}, got {given}")
    out = Path(a.out)
    if not a.force and (out / "explore.json").exists():
        raise InputError(f"{out / 'explore.json'}: is there already; give another --out, or --force to replace it")
    found = _explore(chosen[0], a[chosen[0]], Path(a.run), Path(a.store), out, config, a.weights, a.device)
    for line in describe(found):
        print(line)
    where = "component-1/ and on, explore.json" if chosen[0] == "pca" else "strip.png, walk.gif, walk.csv, explore.json"
    print(f"step {found['run']['step']} of {a.run} explored: {out} ({where})")


def _explore(
    mode: str, value: Any, run: Path, store_path: Path, out: Path, config: ExploreConfig, weights: str, device: str
) -> dict[str, Any]:
    from hagan3d.checkpoint import load_model
    from hagan3d.data.store.store import Store
    from hagan3d.evaluation.exploration import exploration
    from hagan3d.inference.devices import inference_device

    ways = {
        "attribute": exploration.explore_attribute,
        "pca": exploration.explore_components,
        "between": exploration.explore_between,
        "truncations": exploration.explore_truncations,
    }
    model, store = load_model(run, weights, inference_device(device), generate=True, encode=True), Store(store_path)
    return ways[mode](model, store, value, out, config, _bar)  # type: ignore[operator]


def _bar(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    return track(items, what, total=total, console=Console(stderr=True))


def describe(found: dict[str, Any]) -> list[str]:
    """Say in plain lines what an exploration found, given its explore.json."""
    if "mean_difference" in found:
        rows = ", ".join(f"{value:.4f} at {factor}" for factor, value in found["mean_difference"].items())
        return [f"mean difference between seeds (range 2) by factor on z: {rows}"]
    if "pca" in found:
        return [f"share of variance: {', '.join(f'{share:.1%}' for share in found['pca']['components'])}"]
    return [*_learned(found), *_measured(found)] if "walk" in found else []


def _learned(found: dict[str, Any]) -> list[str]:
    regression = found["regression"]
    return [
        f"latents tell {found['attribute']['name']}: R2 {_interval(regression['r2'])}, correlation "
        f"{_interval(regression['correlation'])}, {regression['volumes']} volumes",
        f"directions from halves of the subjects: cosine {_interval(regression['cosine_of_halves'])}; "
        f"latents are {found['length']:.3g} times as long as those of the prior",
    ]


def _measured(found: dict[str, Any]) -> list[str]:
    measure, unit = found["measure"], found["attribute"]["unit"]
    if "on_real_held_out" in measure:
        real = measure["on_real_held_out"]
        lines = [
            f"measured by {measure['segmenter']}: on {real['volumes']} real volumes correlation with the truth "
            f"{real['correlation']:.3f}, error {real['error']:.3g} {unit}"
        ]
    else:
        lines = [f"measured: {measure['name']}"]
    for name, verdict in found["walk"].items():
        lines.append(
            f"walks, {name}: intended and measured correlate {_interval(verdict['correlation'])}, monotone "
            f"{verdict['monotone']:.0%}, measured change per intended {verdict['slope']:.2f}"
        )
    walked, real = (" to ".join(f"{value:.4g}" for value in found["range"][name]) for name in ("walked", "real"))
    return [*lines, f"walked from {walked} {unit}; the same span of real volumes: {real}"]


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


if __name__ == "__main__":
    sys.exit(cli.run(main))
