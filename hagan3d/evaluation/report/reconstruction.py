"""Reconstructions of held-out volumes by the encoder and the generator of a model, and their errors."""

import math
from collections.abc import Iterator

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.summary import Summary, similarity
from hagan3d.evaluation.progress import ProgressCallback
from hagan3d.evaluation.report.results import Reconstruction
from hagan3d.evaluation.settings import EvaluateConfig
from hagan3d.inference.encoding import has_encoder, inputs_of_store, latents


def reconstructions(
    model: Model, store: Store, config: EvaluateConfig, progress: ProgressCallback
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the reconstruction and the real volume ``[C, D, H, W]`` of held-out volumes; none without an encoder.

    A conditional model reconstructs those alone that have a class of its own.
    """
    if not has_encoder(model):
        return
    splits = [split for split in ("validation", "test") if split in store.splits]
    held_out = [item for split in splits for item in inputs_of_store(store.path, model.description, split)[1]]
    chosen = [item for item in held_out if item.label >= 0 or not model.num_classes][: config.reconstructions]
    advance = progress("reconstruction", len(chosen))
    for item in latents(model, chosen, reconstruct=True):
        assert item.reconstruction is not None
        yield item.reconstruction, item.input.x
        advance(1)


def reconstruction_errors(
    model: Model, store: Store, train: Summary, config: EvaluateConfig, channel: int, progress: ProgressCallback
) -> Reconstruction | None:
    """Return the mean errors of an image channel, next to those of the mean training volume; None without any."""
    mean = train["total"] / len(train["small"]) if train["total"].size else None
    rows = [
        _errors(reconstruction[channel], real[channel], mean)
        for reconstruction, real in reconstructions(model, store, config, progress)
    ]
    if not rows:
        return None
    mae, psnr_db, ms_ssim, mae_of_mean = (float(np.mean(column)) for column in zip(*rows, strict=True))
    return Reconstruction(len(rows), mae, psnr_db, ms_ssim, None if mean is None else mae_of_mean)


def _errors(reconstruction: np.ndarray, real: np.ndarray, mean: np.ndarray | None) -> tuple[float, float, float, float]:
    """MAE, PSNR and MS-SSIM of a reconstruction, and the MAE of the mean training volume (NaN without it)."""
    square = float(((reconstruction - real).astype(np.float64) ** 2).mean())
    return (
        float(np.abs(reconstruction - real).mean()),
        10 * math.log10(4 / max(square, 1e-12)),
        float(similarity(reconstruction[None], real[None])[0]),
        math.nan if mean is None else float(np.abs(mean - real).mean()),
    )
