"""Where should latents be sampled? Compares priors of one trained HA-GAN, without training it again.

The rows: the prior of the run, a Gaussian fitted to encoded volumes during training; the same, further from its mean;
the latents of encoded training volumes, drawn with replacement; and a Gaussian around each of these, of a fraction h of
the covariance, shrunk towards the mean so that the covariance stays (a mixture with a component per volume). 200
volumes of each against the held-out and the training volumes of a store, in its features (`hagan3d evaluate
--train-features`): errors of KID and MMD are jackknife errors over subjects.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import Model, load_model
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.self_supervised import load_features
from hagan3d.evaluation.metrics.distances import kid, precision_recall, rbf_mmd
from hagan3d.inference.encoding import inputs_of, latents
from hagan3d.inference.generation import latent
from hagan3d.networks.generative import GenerativeNetworks

COUNT = 200
LEAST_VARIANCE = 1e-4
Array = np.ndarray


def main() -> None:
    """Sample, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of a run without classes.")
    parser.add_argument("--store", type=Path, required=True, help="Its store, with held-out volumes and features.")
    a = parser.parse_args()
    torch.set_num_threads(1)
    model, store = load_model(a.run), Store(a.store)
    extractor = load_features(store)
    splits = np.array(store.splits)
    real = extractor.features(store.volume(int(i)).numpy()[0] for i in range(len(store)))
    train, held_out = real[splits == "train"], real[splits != "train"]
    generated, of = np.array([f"generated {i}" for i in range(COUNT)]), np.array(store.subjects)
    subjects, of_train = (generated, of[splits != "train"]), (generated, of[splits == "train"])
    encoded = np.stack([one.z for one in latents(model, inputs_of(a.store, model, "train")[1])])
    print(f"{'prior':32}{'KID held-out':>20}{'MMD held-out':>20}{'precision':>12}{'recall train':>14}{'held-out':>10}")
    for name, sample in priors(model, encoded):
        made = extractor.features(volumes(model.networks, sample))
        precision, recall = precision_recall(made, train, subjects=of_train)
        _, covered = precision_recall(made, held_out, subjects=subjects)
        distances = f"{kid(made, held_out, subjects)!s:>20}{rbf_mmd(made, held_out, subjects=subjects)!s:>20}"
        print(f"{name:32}{distances}{precision.value:12.2f}{recall.value:14.2f}{covered.value:10.2f}", flush=True)


def priors(model: Model, z: Array) -> Iterator[tuple[str, Array]]:
    """Yield samples ``[COUNT, latent_dim]`` of each prior; ``z`` are the latents of encoded training volumes."""

    def prior(factor: float) -> Array:
        return np.stack([latent(model, seed, None, factor) for seed in range(COUNT)])

    def mixture(h: float) -> Array:
        random = np.random.default_rng(0)
        chosen, noise = z[random.integers(0, len(z), COUNT)], random.standard_normal((COUNT, z.shape[1]))
        factor = np.linalg.cholesky(np.cov(z.T) + LEAST_VARIANCE * np.eye(z.shape[1]))
        mean = z.mean(0)
        return (mean + np.sqrt(1 - h * h) * (chosen - mean) + h * noise @ factor.T).astype(np.float32)

    yield "of the run", prior(1.0)
    for factor in (1.2, 1.5):
        yield f"of the run, {factor} x as far", prior(factor)
    for h in (0.0, 0.3, 0.6, 1.0):
        yield ("encoded volumes" if h == 0 else f"mixture, h {h}"), mixture(h)


def volumes(networks: GenerativeNetworks, z: Array) -> Iterator[Array]:
    """Generate volumes ``[D, H, W]`` from latents."""
    with torch.no_grad():
        for rows in torch.from_numpy(z).split(8):
            yield from networks.volume(rows)[:, 0].numpy()


if __name__ == "__main__":
    main()
