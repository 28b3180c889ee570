"""A walk through the latent space of a chest model, in six steps, each a few calls.

    hagan3d demo                                                    # leaves runs/demo, a model of phantoms, in minutes
    python examples/latent_exploration.py --run runs/demo --store runs/demo/phantoms.h5 --out exploration/

`hagan3d explore` does all of this by one command each; here is what happens inside. Any run with encoders and any store
of its size will do; --attribute is a numeric column of the store that `ChestCT` can measure, such as lung_volume_ml.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hagan3d import cli
from hagan3d.checkpoint import Model, load_model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.attributes import ct_measures
from hagan3d.evaluation.exploration.directions import (
    AttributeDirection,
    Scale,
    attribute_direction,
    principal_directions,
)
from hagan3d.evaluation.exploration.exploration import (
    FIRST_SEED,
    encode_volumes,
    explore_between,
    length_of,
    seed_starts,
)
from hagan3d.evaluation.exploration.measurement import measure_volumes
from hagan3d.evaluation.exploration.measures import ChestCT, Measure, calibrate
from hagan3d.evaluation.exploration.walks import SegmenterReader, WalkStop, score_walks, volume_at, walk
from hagan3d.evaluation.settings import ExploreConfig

POSITIONS = np.linspace(-2, 2, 7)  # standard deviations


def main(argv: Sequence[str]) -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a run, with encoders")
    parser.add_argument("--store", type=Path, default=Path("runs/demo/phantoms.h5"), help="real volumes of its size")
    parser.add_argument("--attribute", default="lung_volume_ml", help="a numeric column of the store")
    parser.add_argument("--num", type=int, default=1000, help="volumes to generate for the direction")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    a = parser.parse_args(argv)
    if (a.out / "walk.csv").exists():
        raise InputError(f"{a.out}: holds a walk already; give another --out")
    model, store = load_model(a.run), Store(a.store)
    measure = measure_named(a.attribute, store)

    print("1. Encode real volumes, and ask what their latents tell")
    z, truth, subjects = real_latents(model, store, a.attribute)
    encoded = attribute_direction(z, Scale.of(truth).score(truth), subjects)
    tell(encoded, f"{a.attribute} of real volumes from their latents")
    print(f"   they are {length_of(model, z):.3g} times as long as latents that G was trained on")

    print("2. How well does a measure, without any truth, know the attribute of real volumes?")
    reader = calibrated(store, measure, a.attribute)
    real = reader.calibration
    print(f"   {measure.name} by {reader.segmenter.name}: correlation {real.correlation:.3f} on {real.volumes} volumes")

    print(f"3. Measure {a.num} generated volumes, and learn a direction from them: no encoder needed")
    drawn = seed_starts(model, a.num, first=FIRST_SEED)
    values = np.array([reader.read(volume_at(model, one.z, one.label), one.intervals, one.affine)[0] for one in drawn])
    if np.ptp(values) == 0:
        raise InputError(f"{a.run}: {a.attribute} is the same in all generated volumes; train on")
    scale = Scale.of(values)
    known = model.networks.prior_covariance().double().cpu().numpy()
    rows = np.stack([one.z for one in drawn])
    found = attribute_direction(rows, scale.score(values), np.arange(a.num), covariance=known)
    tell(found, f"{a.attribute} of generated volumes from their latents")

    print("4. Walk along it from three seeds, from two deviations below the middle to two above, and measure again")
    stops = [
        (start, [WalkStop(found.direction.move(start.z, t), t, float(scale.value(t))) for t in POSITIONS])
        for start in seed_starts(model, 3)
    ]
    frames = walk(model, stops, a.out, title=a.attribute, caption=caption(measure.unit), reader=reader)
    score = score_walks(frames)
    print(f"   intended and measured correlate {score.correlation.value:.3f}; monotone: {score.monotone:.0%} of walks")
    print(f"   {a.out}/strip.png, walk.gif, walk.csv, volumes/*.nii.gz")

    print("5. Without any attribute: where do encoded volumes vary most?")
    _, shares = principal_directions(z, 3)
    print(f"   components hold {', '.join(f'{share:.0%}' for share in shares)} of the variance")

    print("6. From the real volume with least to that with most")
    column = store.columns[a.attribute]
    ids = [store.ids[int(i)] for i in (np.nanargmin(column), np.nanargmax(column))]
    explore_between(model, store, ids, a.out / "between", ExploreConfig(steps=5))
    print(f"   {a.out}/between/strip.png")


def measure_named(name: str, store: Store) -> Measure:
    """Return the measure of chest CT of that name, of those that the intensity window of the store allows."""
    offered = {measure.name: measure for measure in ct_measures(store)}
    if name not in offered:
        raise InputError(f"--attribute {name}: of {store.path} can be measured: {', '.join(offered) or 'nothing'}")
    return offered[name]


def real_latents(model: Model, store: Store, attribute: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents ``[N, latent_dim]`` of the training volumes, their attribute and their subjects."""
    if attribute not in store.columns:
        raise InputError(f"{store.path}: no column {attribute}; it has {', '.join(store.columns) or 'none'}")
    train = known(store, store.indices("train"), attribute)
    encoded = encode_volumes(model, store, train)
    z = np.stack([encoded[store.ids[i]][1] for i in train])
    return z, store.columns[attribute][train], np.array(store.subjects)[train]


def known(store: Store, indices: np.ndarray, attribute: str) -> np.ndarray:
    """Return those of some volumes whose attribute is known."""
    return indices[np.isfinite(store.columns[attribute][indices])]


def calibrated(store: Store, measure: Measure, attribute: str) -> SegmenterReader:
    """Fit what thresholds measure to the truth on training volumes, and evaluate it on held-out ones."""
    chosen, segmenter = known(store, store.indices("all"), attribute), ChestCT()
    measured = measure_volumes(store, chosen, segmenter, measure)
    held_out = np.array([store.splits[i] != "train" for i in chosen])
    return SegmenterReader(segmenter, measure, calibrate(measured, store.columns[attribute][chosen], held_out))


def tell(found: AttributeDirection, what: str) -> None:
    """Print what a regression is worth."""
    r2, alike = found.regression.r2, found.agreement
    print(f"   {what}: R2 {r2.value:.3f} ({r2.low:.3f} to {r2.high:.3f})")
    print(f"   directions from halves of them: cosine {alike.value:.2f} ({alike.low:.2f} to {alike.high:.2f})")


def caption(unit: str) -> Callable[[WalkStop, float | None], list[str]]:
    """Make the lines below a stop."""
    return lambda stop, value: [
        f"{stop.position:+.2g} sd",
        f"want {stop.intended:.4g} {unit}",
        f"is {value:.4g} {unit}",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main))
