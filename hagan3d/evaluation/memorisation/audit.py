"""The memorisation audit: are generated volumes copies of training volumes, and do the discriminators know those?

It can find evidence of memorisation. Where it finds none, that is no proof that there is none.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from hagan3d.checkpoint import Model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.summary import FEATURES, Summary, VolumeSet, blocks, feature_scale
from hagan3d.evaluation.memorisation.membership import (
    has_discriminators,
    logits_of,
    membership,
    score_names,
    untrained,
)
from hagan3d.evaluation.memorisation.nearest import (
    Distances,
    authenticity,
    data_copying,
    effective_count,
    nearer,
    twin_ratios,
)

SIDE = 16  # voxels per axis in which volumes are compared
SHIFT = 2  # of these voxels, the largest shift along each axis that is undone
ROUNDS = 200  # random parts behind each control
CLOSEST = 20  # pairs that are shown
LEAST_SUBJECTS = 3

CLEAR_Z = 3.0  # standard errors from what is expected, and from the swapped question
TWIN_MARGIN = 0.9  # of the lowest twin ratio of real volumes: what is below is closer than any two subjects are
TWIN_SHARE = 0.02  # of the generated volumes below that
TWIN_SOURCES = 3  # different training volumes that these are closest to: two alike may be chance, made again and again
TWIN_HALF = 0.5  # of the lowest twin ratio of real volumes: one generated volume below is enough
NEARER_SHARE = 0.55  # chance that the nearest real volume is a training one
AUC_ABOVE = 0.1  # by which the AUC of a discriminator exceeds 0.5 and that of an untrained one
THRESHOLDS = {
    "clear_z": CLEAR_Z,
    "twin_margin": TWIN_MARGIN,
    "twin_share": TWIN_SHARE,
    "twin_sources": TWIN_SOURCES,
    "twin_half": TWIN_HALF,
    "nearer_share": NEARER_SHARE,
    "auc_above": AUC_ABOVE,
}

Start = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True)
class Reals:
    """What the audit keeps of real volumes."""

    features: np.ndarray
    """Of each volume, and of the same mirrored along W ``[N, 2, dim]``."""
    logits: dict[str, np.ndarray]
    """``[N, 2]`` of D^H and D^L, by `trained` and `untrained`; empty where the checkpoint has no discriminators."""


def shifted_distances(x: np.ndarray, y: np.ndarray, mirror: bool = True) -> np.ndarray:
    """Root mean square difference of volumes at the shift, and mirrored along W or not, where it is least.

    Args:
        x: Volumes ``[M, D, H, W]``.
        y: Volumes ``[N, D, H, W]``.
        mirror: Whether to try mirrored volumes too.

    Returns:
        ``[M, N]``; each over the voxels that both have at a shift of up to `SHIFT` voxels along each axis. Symmetric.
    """
    best = np.full((len(x), len(y)), np.inf, dtype=np.float32)
    x, y = x.astype(np.float32), y.astype(np.float32)
    for one in (x, x[..., ::-1])[: 1 + mirror]:
        for shift in itertools.product(range(-SHIFT, SHIFT + 1), repeat=3):
            a, b = (_cut(v, sign * np.array(shift)) for v, sign in ((one, 1), (y, -1)))
            square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T
            np.minimum(best, square / a.shape[1], out=best)
    return np.sqrt(best.clip(0)).astype(np.float64)


def _cut(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Voxels that are left when ``x [N, D, H, W]`` is shifted against another, as rows."""
    sides = x.shape[1:]
    kept = tuple(slice(max(0, s), side + min(0, s)) for s, side in zip(shift, sides, strict=True))
    return x[(slice(None), *kept)].reshape(len(x), -1)


def mirrored_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of features ``[M, dim]`` to the nearer of a volume and its mirror image ``[N, 2, dim]``: ``[M, N]``."""
    return np.minimum(cdist(x, y[:, 0]), cdist(x, y[:, 1]))


def _distances(
    made: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    plain: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> Distances:
    """All distances of a space; ``plain`` takes from a real volume what stands for it as it is."""

    def among(x: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.where(own[:, None] == own[None], np.inf, measure(plain(x), x))

    return Distances(
        made_train=measure(made, train),
        made_held=measure(made, held),
        held_train=measure(plain(held), train),
        train_held=measure(plain(train), held),
        train_train=among(train, groups[0]),
        held_held=among(held, groups[1]),
        train_groups=groups[0],
        held_groups=groups[1],
    )


def voxel_space(
    made: np.ndarray, train: np.ndarray, held: np.ndarray, groups: tuple[np.ndarray, np.ndarray]
) -> Distances:
    """Distances of volumes ``[N, SIDE, SIDE, SIDE]``, see `shifted_distances`."""
    return _distances(made, train, held, groups, shifted_distances)


def feature_space(
    made: np.ndarray, train: np.ndarray, held: np.ndarray, groups: tuple[np.ndarray, np.ndarray]
) -> Distances:
    """Distances of features; generated ``[M, dim]``, real ones ``[N, 2, dim]`` as they are and mirrored."""
    return _distances(made, train, held, groups, mirrored_distances, lambda x: x[:, 0])


def pooled(summary: Summary) -> np.ndarray:
    """Volumes of a summary at ``[N, SIDE, SIDE, SIDE]``."""
    return blocks(summary["small"], (SIDE,) * 3)


def judge_space(d: Distances) -> dict[str, Any]:
    """Ask all questions in one space.

    Returns:
        Plain values: `independent` (see `effective_count`), `distances` (medians), `twins`, `nearer`, `authenticity`,
        `data_copying`, and `flagged`: the names of the measures that show memorisation.
    """
    ratios = twin_ratios(d.made_train, d.train_groups)
    real = np.concatenate([twin_ratios(d.held_train, d.train_groups), twin_ratios(d.train_train, d.train_groups)])
    limit = TWIN_MARGIN * float(real.min())
    columns = {"made_train": d.made_train, "made_held": d.made_held, "held_train": d.held_train}
    found: dict[str, Any] = {
        "independent": effective_count(d),
        "distances": {name: float(np.median(values.min(axis=1))) for name, values in columns.items()},
        "twins": {
            "limit": limit,
            "lowest_real": float(real.min()),
            "lowest": float(ratios.min()),
            "share": float((ratios < limit).mean()),
            "count": int((ratios < limit).sum()),
            "sources": len(set(d.made_train.argmin(axis=1)[ratios < limit].tolist())),
        },
        "nearer": nearer(d, ROUNDS),
        "authenticity": authenticity(d),
        "data_copying": data_copying(d),
    }
    return {**found, "flagged": flagged_measures(found)}


def flagged_measures(found: dict[str, Any]) -> list[str]:
    """Return the measures of one space beyond their thresholds."""
    twins, near = found["twins"], found["nearer"]

    def clear(row: dict[str, float]) -> bool:
        return row["z"] <= -CLEAR_Z and row["excess_z"] <= -CLEAR_Z

    many = twins["share"] >= TWIN_SHARE and twins["sources"] >= TWIN_SOURCES
    checks = {
        "twins": many or twins["lowest"] < TWIN_HALF * twins["lowest_real"],
        "nearer": near["share"] >= NEARER_SHARE and near["z"] >= CLEAR_Z,
        "AuthPct": clear(found["authenticity"]),
        "C_T": clear(found["data_copying"]),
    }
    return [name for name, beyond in checks.items() if beyond]


def audit(
    model: Model,
    store: Store,
    sets: dict[str, VolumeSet],
    summaries: dict[str, Summary],
    extractor: Extractor,
    start: Start = lambda name, total: lambda count: None,
) -> dict[str, Any]:
    """Audit a measured run.

    Args:
        model: The run, with its discriminators if they are to be asked.
        store: The store that it was trained on.
        sets: The sets of the protocol, see `volume_sets`.
        summaries: Their summaries, features as they are compared.
        extractor: Whose features span the feature space.
        start: Begins a piece of work.

    Returns:
        Plain values, as under `audit` in metrics.json.

    Raises:
        InputError: If the training or held-out volumes are of too few subjects.
    """
    groups = subject_groups(store, sets)
    judges = _judges(model)
    reals = {name: _look(sets[name], extractor, judges, model, start) for name in ("train", "held-out")}
    if extractor.rescale:
        mean, scale = feature_scale(reals["train"].features[:, 0])
        reals = {name: Reals((one.features - mean) / scale, one.logits) for name, one in reals.items()}
    done = start("audit", 2)
    names = ("generated", "train", "held-out")
    small = {name: pooled(summaries[name]) for name in names}
    voxel = voxel_space(small["generated"], small["train"], small["held-out"], groups)
    spaces = {"voxels": judge_space(voxel)}
    done(1)
    made = summaries["generated"][FEATURES + extractor.name]
    feature = feature_space(made, reals["train"].features, reals["held-out"].features, groups)
    spaces["features"] = {"extractor": extractor.name, **judge_space(feature)}
    done(1)
    asked = _membership(score_names(model.networks), reals, groups[0]) if judges else None
    return {
        "thresholds": THRESHOLDS,
        "volumes": {name: sets[name].count for name in names},
        "spaces": spaces,
        "membership": asked,
        "pairs": closest_pairs(voxel, small["generated"], small["train"]),
        "verdict": judgement(spaces, asked),
    }


def subject_groups(store: Store, sets: dict[str, VolumeSet]) -> tuple[np.ndarray, np.ndarray]:
    """Number the subjects of the training and of the held-out volumes.

    Raises:
        InputError: If there are too few.
    """
    number = {subject: i for i, subject in enumerate(sorted(set(store.subjects)))}
    found = []
    for name in ("train", "held-out"):
        groups = np.array([number[store.subjects[i]] for i in sets[name].identity["indices"]])
        if len(set(groups.tolist())) < LEAST_SUBJECTS:
            raise InputError(
                f"{store.path}: the {name} volumes are of {len(set(groups.tolist()))} subjects, --audit wants at least "
                f"{LEAST_SUBJECTS}"
            )
        found.append(groups)
    return found[0], found[1]


def _judges(model: Model) -> dict[str, Any]:
    if not has_discriminators(model):
        return {}
    return {"trained": model.networks, "untrained": untrained(model)}


def _look(volumes: VolumeSet, extractor: Extractor, judges: dict[str, Any], model: Model, start: Start) -> Reals:
    """Read the volumes of a set once."""
    done = start(f"audit: {volumes.name}", volumes.count)
    features, logits = [], []
    for x in _each(volumes):
        features.append(extractor.of_batch(np.stack([x, x[..., ::-1]])))
        logits.append([logits_of(nets, [x], model.device)[0] for nets in judges.values()])
        done(1)
    columns = np.array(logits).reshape(len(features), len(judges), len(model.networks.discriminators))
    return Reals(np.stack(features).astype(np.float64), {name: columns[:, i] for i, name in enumerate(judges)})


def _each(volumes: VolumeSet) -> Iterator[np.ndarray]:
    return volumes.read(0, volumes.count)


def _membership(names: list[str], reals: dict[str, Reals], groups: np.ndarray) -> list[dict[str, Any]]:
    """Rows of `membership`, each with the AUC of untrained discriminators beside it."""
    trained, fresh = (
        membership(names, reals["train"].logits[name], reals["held-out"].logits[name], groups, ROUNDS)
        for name in ("trained", "untrained")
    )
    rows = [{**row, "untrained_auc": other["auc"]} for row, other in zip(trained, fresh, strict=True)]
    return [{**row, "flagged": member_flagged(row)} for row in rows]


def member_flagged(row: dict[str, Any]) -> bool:
    """Whether a discriminator tells training volumes from held-out ones beyond both controls."""
    return bool(row["z"] >= CLEAR_Z and row["auc"] - max(0.5, row["untrained_auc"]) >= AUC_ABOVE)


def closest_pairs(d: Distances, made: np.ndarray, train: np.ndarray) -> list[dict[str, Any]]:
    """List the generated volumes that stand out most by closeness to one training volume, lowest twin ratio first.

    Args:
        d: Distances in voxel space.
        made: Volumes ``[M, SIDE, SIDE, SIDE]``.
        train: The same of training volumes.

    Returns:
        Rows of `generated` and `train` (indices in their sets), `ratio`, `distance`, `held_out` (distance to the
        nearest held-out volume) and `mirrored`.
    """
    ratios = twin_ratios(d.made_train, d.train_groups)
    rows = []
    for i in np.argsort(ratios, kind="stable")[:CLOSEST]:
        j = int(d.made_train[i].argmin())
        plain = float(shifted_distances(made[i : i + 1], train[j : j + 1], mirror=False)[0, 0])
        row = {"generated": int(i), "train": j, "ratio": float(ratios[i]), "distance": float(d.made_train[i, j])}
        row |= {"held_out": float(d.made_held[i].min()), "mirrored": bool(plain > d.made_train[i, j] + 1e-6)}
        rows.append(row)
    return rows


def judgement(spaces: dict[str, dict[str, Any]], asked: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Put the flags together.

    Returns:
        `flagged`: whether anything is; `generated_by`, `discriminators_by`: by which measures generated volumes and
        discriminators are (the latter null where they were not asked).
    """
    made = [f"{measure} ({name})" for name, found in spaces.items() for measure in found["flagged"]]
    judges = None if asked is None else [row["score"] for row in asked if row["flagged"]]
    return {"flagged": bool(made or judges), "generated_by": made, "discriminators_by": judges}
