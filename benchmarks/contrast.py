"""Two domains without pairs, whose true pairs are known: the volumes of a store, and the same in another contrast.

The map of intensities is that of a T1- to a T2-weighted head in outline: air stays dark, fluid becomes the brightest,
fat dark. It is not monotone: two intensities of the source may have one in the target, so going back takes anatomy.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from hagan3d.data.store.derived import record_of
from hagan3d.data.store.features import features_path
from hagan3d.data.store.format import to_float32, to_int16
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, Voxels, write_store
from hagan3d.evaluation.features.self_supervised import train_features
from hagan3d.evaluation.settings import FeatureTrainConfig

CURVE = ((-1.0, -1.0), (-0.8, -0.9), (-0.55, 0.9), (-0.1, 0.2), (0.3, -0.2), (1.0, -0.7))
"""Intensities of the source and of the target in [-1, 1], linear in between."""

FEATURE_STEPS = 300  # of the extractor in which sets are compared


def contrast_store(path: Path, folder: Path) -> Path:
    """Return a store of two domains, the volumes of a store and their other contrast, with features; made if needed.

    Args:
        path: The store, of one channel.
        folder: Where the store of domains is written.
    """
    made = folder / f"{path.stem}_contrast.h5"
    if not made.exists():
        store, count = Store(path), len(Store(path))
        made.parent.mkdir(parents=True, exist_ok=True)
        settings = {**store.settings, "shard": [1, 1], "domains": store.settings["channels"], "curve": CURVE}
        records = [of_domain(record_of(store, i), domain) for domain in ("source", "target") for i in range(count)]

        def voxels(i: int) -> Voxels:
            images = store.encoded(i % count).images
            return Voxels(images if i < count else to_int16(other_contrast(to_float32(images))))

        write_store(made, settings, records, voxels)
    if not features_path(Store(made), 0).exists():
        train_features(Store(made), FeatureTrainConfig(steps=FEATURE_STEPS, batch_size=8))
    return made


def other_contrast(x: np.ndarray) -> np.ndarray:
    """Map intensities in [-1, 1] to those of the other contrast."""
    return np.interp(x, *zip(*CURVE, strict=True)).astype(np.float32)


def of_domain(record: Record, domain: str) -> Record:
    """Return the record of a volume in a domain; the subject stays, which tells pairs."""
    content = hashlib.sha256(f"{domain} {record.hash}".encode()).hexdigest()
    return replace(record, id=f"{domain}_{record.id}", hash=content, domain=domain)
