"""What do the features of a run say of clinical measurements? Regression on them, beside baselines.

    python examples/feature_regression.py --run runs/lungs --store lungs.h5 --columns lung_volume_ml --out regression/
    python examples/feature_regression.py --quick --out quick/          # on phantoms, in seconds, to see it work

The store needs numeric columns (`hagan3d prepare --labels table.csv`) and held-out volumes. The script

1. encodes every real volume: `E, latent` is what `hagan3d encode` writes; `E, map` is A, the map of features that E^H
   makes, averaged over the eight octants of the volume;
2. gathers what E must beat: the same encoder before any training, the histogram of intensities, and the latent of a
   variational autoencoder of MONAI of the same size, trained on the same volumes for the same processor time
   (--vae-minutes: give what the run took);
3. regresses each column on each of them, by ridge and by gradient boosting, their settings chosen by inner folds that
   keep the volumes of a subject together;
4. prints R2 twice, each with its 95 % interval over resampled subjects: `all`, from outer folds over all volumes, the
   training volumes of the run among them; and `held out`, of volumes that neither the run nor the regression has seen.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import VarAutoEncoder
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score
from torch import Tensor
from torch.nn import functional as F

from hagan3d import cli
from hagan3d import train as train_door
from hagan3d.checkpoint import Model, load_model
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.regression import RegressionMethod, cross_validate, fit, resampled, ridge
from hagan3d.inference.encoding import inputs_of_store, latents
from hagan3d.methods.registry import make_generative_networks

BINS = 64  # of the histogram over [-1, 1]
OCTANTS = 2  # boxes per axis that A is averaged over
VAE_CHANNELS = (32, 64, 128)  # of its three levels
VAE_NOISE = 0.1  # deviation of a voxel that counts as well made, in units of the [-1, 1] range
BATCH = 8  # volumes per step of the autoencoder
LEAVES = (4, 12)  # of a tree, among which inner folds choose
MEAN = "mean"

Features = dict[str, np.ndarray]
"""Rows ``[N, d]`` by name."""


def main(argv: list[str]) -> None:
    """Gather features, regress, print the table and write it with a picture."""
    a = parse(argv)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    if a.quick:
        a.store, a.run = phantom_run(out)
        a.columns, a.vae_minutes, a.trees, a.rounds = ["lung_volume_ml"], 1e-3, 2, 20
    store, model = Store(a.store), load_model(Path(a.run), encode=True)
    chosen = store.indices("all", generated=False)
    targets = {name: target(store, name, chosen) for name in a.columns or store.columns}
    features = of_run(model, store, chosen)
    features |= {"untrained E, latent": of_run(untrained(model), store, chosen)["E, latent"]}
    features |= {"histogram": histograms(store, chosen)}
    features |= {"VAE, latent": of_vae(vae(store, model, a.vae_minutes, out / "vae.pt"), store, chosen)}
    rows, shown = regress(features, targets, store, chosen, a.trees, a.rounds)
    write(rows, out / "regression.csv")
    draw(shown, rows, out / "regression.png")
    print(f"{len(rows)} rows: {out / 'regression.csv'}, {out / 'regression.png'}")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="Folder of a run with encoders, or a checkpoint.")
    parser.add_argument("--store", help="The store that it was trained on.")
    parser.add_argument("--out", required=True, help="Folder to write to; the autoencoder there is used again.")
    parser.add_argument("--columns", nargs="+", help="Numeric columns to predict. Default: all of the store.")
    parser.add_argument("--vae-minutes", type=float, default=10.0, help="Processor time to train the autoencoder.")
    parser.add_argument("--trees", type=int, default=60, help="Of gradient boosting.")
    parser.add_argument("--rounds", type=int, default=1000, help="Resamplings behind each interval.")
    parser.add_argument("--quick", action="store_true", help="A few phantoms and a few steps, to see it work.")
    a = parser.parse_args(argv)
    if not a.quick and not (a.run and a.store):
        raise InputError("want --run and --store, or --quick to see it work on phantoms")
    return a


def phantom_run(out: Path) -> tuple[Path, Path]:
    """Make a store of 20 phantoms, and a tiny run that was trained on it for one step."""
    store, run = out / "phantoms.h5", out / "run"
    if not store.exists():
        write_phantoms(out / "phantoms", 20, (32, 32, 32))
        labels = str(out / "phantoms" / "attributes.csv")
        settings = PrepareConfig(size=(32, 32, 32), intensity="window", labels=labels, validation=0.4, workers=1)
        prepare(out / "phantoms" / "volumes", store, settings, progress=False)
    small = "--train.steps 1 --train.batch_size 2 --data.size 32 32 32 --data.subvolume_depth 16 --hagan.channels 64"
    small += " --hagan.d_channels 64 --hagan.latent_dim 8 --log.preview_every 0 --train.device cpu"
    train_door.main(["--config", "hagan_32", "--data.store", str(store), "--out", str(run), *small.split()])
    return store, run


def target(store: Store, name: str, chosen: np.ndarray) -> np.ndarray:
    """Look up a column ``[N]``; NaN where it is not known."""
    if name not in store.columns:
        raise InputError(f"{store.path}: no numeric column {name!r}; it has {', '.join(store.columns) or 'none'}")
    values = store.columns[name][chosen]
    for which, part in split(store, chosen).items():
        known = values[part][np.isfinite(values[part])]
        if len(known) < 4 or np.ptp(known) == 0:
            raise InputError(
                f"{store.path}: column {name!r} has {len(known)} values among {which} volumes, or one only"
            )
    return values


def split(store: Store, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Tell training volumes from held-out ones: masks ``[N]``."""
    is_train = np.array([store.splits[i] == "train" for i in chosen])
    return {"training": is_train, "held-out": ~is_train}


@torch.no_grad()
def of_run(model: Model, store: Store, chosen: np.ndarray) -> Features:
    """Step 1: encode volumes."""
    wanted = set(chosen.tolist())
    _, inputs = inputs_of_store(store.path, model.description, "all")
    made = latents(model, (item for i, item in enumerate(inputs) if i in wanted))
    maps = []
    for i in chosen:
        slabs = store.volume(int(i))[None].to(model.device).split(model.config.data.depth, dim=2)
        a = torch.cat([model.networks.e_h(slab) for slab in slabs], dim=2)
        maps.append(F.adaptive_avg_pool3d(a, OCTANTS).flatten().cpu().numpy())
    return {"E, latent": np.stack([done.z for done in made]), "E, map": np.stack(maps)}


def untrained(model: Model) -> Model:
    """Give a model of the same encoders with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = model.config
        networks = make_generative_networks(config, model.num_classes)
    return Model(networks.to(model.device).eval(), config, model.description, 0, model.path)


def histograms(store: Store, chosen: np.ndarray) -> np.ndarray:
    """Share of the voxels in each of 64 bins ``[N, 64]``."""
    rows = [np.histogram(store.channel(int(i)).numpy(), BINS, (-1, 1))[0] for i in chosen]
    return np.stack(rows) / np.prod(store.size)


def vae(store: Store, model: Model, minutes: float, path: Path) -> VarAutoEncoder:
    """Step 2: train an autoencoder on the training volumes for so much processor time, unless its file is there.

    Raises:
        InputError: If the file is there and was made otherwise.
    """
    torch.manual_seed(0)
    net = VarAutoEncoder(
        3, (1, *store.size), 1, model.config.method.latent_dim, VAE_CHANNELS, (2, 2, 2), norm="BATCH", use_sigmoid=False
    )
    made_by = {"store": store.store_fingerprint, "latent_dim": model.config.method.latent_dim, "minutes": minutes}
    if path.exists():
        found = torch.load(path, weights_only=True)
        if found.get("made_by") != made_by:
            raise InputError(f"{path}: was made by {found.get('made_by')}, not by {made_by}; give another --out")
        net.load_state_dict(found["weights"])
        return net.eval()
    train, random = store.indices("train", generated=False), np.random.default_rng(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    begin, step = time.process_time(), 0
    while time.process_time() - begin < 60 * minutes or not step:
        x = torch.stack([store.volume(int(i)) for i in random.choice(train, BATCH)])
        loss = vae_loss(x, *net(x)[:3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (net, model.networks.e_h, model.networks.e_g)]
    print(f"VAE: {sizes[0]:.1f} million weights (E^H and E^G: {sum(sizes[1:]):.1f}), {step} steps, loss {loss:.0f}")
    torch.save({"made_by": made_by, "weights": net.state_dict()}, path)
    return net.eval()


def vae_loss(x: Tensor, again: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Negative evidence lower bound of a volume, up to a constant.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, equation 10.
    """
    likelihood = ((x - again) ** 2).flatten(1).sum(1) / (2 * VAE_NOISE**2)
    divergence = (mean**2 + logvar.exp() - 1 - logvar).sum(1) / 2
    return (likelihood + divergence).mean()


@torch.no_grad()
def of_vae(net: VarAutoEncoder, store: Store, chosen: np.ndarray) -> np.ndarray:
    """Mean latents ``[N, latent_dim]``."""
    return np.stack([net(store.volume(int(i))[None])[1][0].numpy() for i in chosen])


def methods(name: str, trees: int) -> list[RegressionMethod]:
    """Step 3: how to regress; the mean needs no features."""
    if name == MEAN:
        return [RegressionMethod("-", DummyRegressor())]
    boosted = HistGradientBoostingRegressor(max_iter=trees, random_state=0)
    return [ridge(), RegressionMethod("gradient boosting", boosted, {"max_leaf_nodes": LEAVES})]


def regress(
    features: Features, targets: dict[str, np.ndarray], store: Store, chosen: np.ndarray, trees: int, rounds: int
) -> tuple[list[dict[str, object]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Regress every column on every set of features.

    Returns:
        Rows of the table, and what was measured and predicted of held-out volumes of the first column, by title.
    """
    rows: list[dict[str, object]] = []
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    first = next(iter(targets))
    for column, values in targets.items():
        known = np.isfinite(values)
        print(f"{column}: {known.sum()} volumes, {(known & split(store, chosen)['held-out']).sum()} of them held out")
        for name in (MEAN, *features):
            x = features[name] if name != MEAN else np.zeros((len(chosen), 1))
            for method in methods(name, trees):
                row, asked = measure(x, values, store, chosen, method, rounds)
                rows.append({"column": column, "features": name, "regression": method.name, **row})
                print(line(rows[-1]), flush=True)
                if column == first and method.name == "ridge":
                    shown[name] = asked
    return rows, shown


def measure(
    x: np.ndarray, values: np.ndarray, store: Store, chosen: np.ndarray, method: RegressionMethod, rounds: int
) -> tuple[dict[str, object], tuple[np.ndarray, np.ndarray]]:
    """Step 4: R2 from outer folds over all volumes, and of held-out volumes after a fit on the training ones."""
    x, known, subjects = x.astype(float), np.isfinite(values), np.array(store.subjects)[chosen]
    found = cross_validate(x[known], values[known], subjects[known], method, rounds=rounds).r2
    parts = split(store, chosen)
    train, held_out = parts["training"] & known, parts["held-out"] & known
    model = fit(x[train], values[train], subjects[train], method)
    truth, predicted = values[held_out], model.predict(x[held_out])
    asked = resampled(r2_score, truth, predicted, subjects[held_out], rounds)
    row = {
        f"{name}{end}": getattr(value, end.strip() or "value")
        for name, value in (("all", found), ("held out", asked))
        for end in ("", " low", " high")
    }
    return row, (truth, predicted)


def line(row: dict[str, object]) -> str:
    """Write a row for a person to read."""
    cells = [
        f"R2 {name} {row[name]:6.3f} [{row[f'{name} low']:.3f}, {row[f'{name} high']:.3f}]"
        for name in ("all", "held out")
    ]
    return f"  {row['features']:<20}{row['regression']:<18}{'   '.join(cells)}"


def write(rows: list[dict[str, object]], path: Path) -> None:
    """Write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(shown: dict[str, tuple[np.ndarray, np.ndarray]], rows: list[dict[str, object]], path: Path) -> None:
    """Draw what ridge regression predicted of the held-out volumes against what is true."""
    from matplotlib.figure import Figure

    column = str(rows[0]["column"])
    figure = Figure(figsize=(3 * len(shown), 3.4), layout="constrained")
    axes = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, (truth, predicted)) in zip(axes, shown.items(), strict=True):
        axis.plot([truth.min(), truth.max()], [truth.min(), truth.max()], color="0.7", zorder=0)
        axis.scatter(truth, predicted, s=8)
        axis.set(title=f"{name}: R2 {r2_score(truth, predicted):.3f}", xlabel=f"{column}, true")
    axes[0].set_ylabel(f"{column}, predicted by ridge")
    figure.suptitle("Held-out volumes")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(cli.run(main))
