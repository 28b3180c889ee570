"""Comparison of the label maps of generated and of real volumes, label by label."""

from collections.abc import Mapping

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.label_maps import dice, label_map_of, overlap_counts
from hagan3d.data.store.store import Store
from hagan3d.evaluation.exploration.measures import millilitres
from hagan3d.evaluation.features.summary import Summary, VolumeSet
from hagan3d.evaluation.label_maps.results import LabelComparison, LabelSet
from hagan3d.evaluation.metrics.compare import compare_summaries
from hagan3d.evaluation.metrics.estimate import Estimate, binomial_error, mean_error
from hagan3d.evaluation.progress import ProgressCallback, no_progress
from hagan3d.evaluation.report.reconstruction import reconstructions
from hagan3d.evaluation.report.results import PAIRS, pair_name
from hagan3d.evaluation.settings import EvaluateConfig


def compare_labels(
    model: Model,
    store: Store,
    sets: Mapping[str, VolumeSet],
    summaries: Mapping[str, Summary],
    config: EvaluateConfig,
    progress: ProgressCallback = no_progress,
) -> tuple[LabelComparison, ...]:
    """Compare the label maps of all sets.

    Args:
        model: The model; with an encoder, reconstructions of held-out volumes are compared too.
        store: The store.
        sets: The sets of the protocol.
        summaries: Their `LabelView`.
        config: Settings of the evaluation.
        progress: Shows progress.
    """
    voxel_ml = {name: _voxel_ml(model, store, volumes) for name, volumes in sets.items()}
    reconstructed = _reconstruction_dice(model, store, config, progress)
    comparisons = []
    for row, name in enumerate(store.label_names[1:]):
        arrays = {key: _arrays(summaries[key], row, voxel_ml[key]) for key in sets}
        unit = float(arrays["train"]["ml"].std()) or 1.0
        scaled = {key: one | {"volume": one["ml"] / unit} for key, one in arrays.items()}
        comparisons.append(
            LabelComparison(
                name,
                sets={key: label_set(one, sets[key].subject_numbers) for key, one in arrays.items()},
                distances={
                    pair_name(a, b): compare_summaries(
                        "labels", scaled[a], scaled[b], config, (sets[a].subject_numbers, sets[b].subject_numbers)
                    )
                    for a, b in PAIRS
                },
                reconstruction_dice=mean_of(reconstructed[:, row]),
            )
        )
    return tuple(comparisons)


def _voxel_ml(model: Model, store: Store, volumes: VolumeSet) -> np.ndarray:
    """Millilitres per voxel of each volume ``[N]``: by its own geometry, of generated volumes by the typical one."""
    if "indices" not in volumes.identity:
        return np.full(volumes.count, millilitres(model.description.affine_array))
    return np.array([millilitres(store.affines[i]) for i in volumes.identity["indices"]])


def _arrays(summary: Summary, row: int, voxel_ml: np.ndarray) -> Summary:
    """Values of one label per volume ``[N]``, and per pair of volumes."""
    own = {name: summary[name][:, row] for name in ("voxels", "components", "pair_dice")}
    return own | {"ml": own["voxels"] * voxel_ml}


def label_set(arrays: Summary, subjects: np.ndarray) -> LabelSet:
    """Describe one label in one set: `ml`, `voxels`, `components` of each volume ``[N]``, `pair_dice` of each pair.

    ``subjects`` are those of the volumes, for standard errors.
    """
    absent = float((arrays["voxels"] == 0).mean())
    mean_ml, components = (
        Estimate(float(each.mean()), mean_error(each, subjects))
        for each in (arrays["ml"], arrays["components"].astype(np.float64))
    )
    return LabelSet(
        mean_ml=mean_ml,
        deviation_ml=float(arrays["ml"].std(ddof=1)),
        absent=Estimate(absent, binomial_error(absent, len(np.unique(subjects)))),
        components=components,
        pair_dice=mean_of(arrays["pair_dice"]),
        pairs=int(np.isfinite(arrays["pair_dice"]).sum()),
    )


def mean_of(values: np.ndarray) -> Estimate | None:
    """Return the mean of values ``[N]`` and its standard error; NaN values are left out; None without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    return Estimate(float(finite.mean()), float(finite.std(ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else None)


def _reconstruction_dice(model: Model, store: Store, config: EvaluateConfig, progress: ProgressCallback) -> np.ndarray:
    """Dice of each label between held-out volumes and their reconstructions ``[N, labels - 1]``."""
    images, labels = len(store.channels), len(store.label_names)
    rows = [
        dice(*overlap_counts(label_map_of(reconstruction, images), label_map_of(real, images), labels))
        for reconstruction, real in reconstructions(model, store, config, progress)
    ]
    return np.array(rows).reshape(-1, labels - 1)
