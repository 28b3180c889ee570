"""Attributes of real volumes: a column of the store or of a table, or measured on label maps or on the volumes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hagan3d.data.preprocess.metadata import abbreviate, match_rows, read_labels
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.measures import (
    BODY_ABOVE,
    BONE,
    BONE_ABOVE,
    CT_MEASURES,
    EMPHYSEMA_BELOW,
    Measure,
    label_measure,
)
from hagan3d.evaluation.exploration.segmentation import LabelMaps

LEAST = 20  # volumes with a value that a direction is looked for in
UNITS = {"_ml": "ml", "_percent": "%", "_mm": "mm"}


@dataclass(frozen=True)
class Attribute:
    """A number known of each of some volumes of a store."""

    name: str
    values: np.ndarray
    """``[N]``."""
    indices: np.ndarray
    """Of those volumes in the store ``[N]``."""
    origin: str
    """Where the values are from."""

    @property
    def unit(self) -> str:
        """Unit as the name tells it: _ml, _percent or _mm; else empty."""
        return next((unit for ending, unit in UNITS.items() if self.name.endswith(ending)), "")


def find_attribute(
    store: Store,
    name: str,
    indices: np.ndarray,
    *,
    table: Path | None = None,
    maps: LabelMaps | None = None,
    measured: Callable[[Measure], np.ndarray] | None = None,
    skip_missing: bool = False,
) -> Attribute:
    """Find the values of an attribute: in the table, else the store, else on label maps, else on the volumes.

    Args:
        store: The store.
        name: Of a numeric column, or of a measure such as label_1_ml or, in CT, lung_volume_ml.
        indices: Volumes that it is wanted for ``[N]``.
        table: CSV with ids and numeric columns.
        maps: Label maps of those volumes.
        measured: Measures those volumes by thresholds.
        skip_missing: Whether volumes without a value are left out; else they are an error.

    Raises:
        InputError: If there is no such attribute, it is missing for some volumes, constant, or known of too few.
    """
    columns, origin = dict(store.columns), f"{store.path}"
    if table is not None:
        columns, origin = _columns_of(table, store), f"{table}"
    measure = measure_of(name, store, maps)
    if name in columns:
        values = columns[name][indices]
    elif measure is not None and maps is not None:
        values, origin = np.array([maps.measured(int(i), measure) for i in indices]), "label maps"
    elif measure is not None and measured is not None:
        values, origin = measured(measure), "thresholds in the volumes"
    else:
        raise InputError(f"--attribute {name}: no such attribute; {_offered(columns, store, maps, origin)}")
    return _usable(Attribute(name, values, indices, origin), store, skip_missing)


def measure_of(name: str, store: Store, maps: LabelMaps | None) -> Measure | None:
    """Return the measure of that name, None where the store offers none."""
    if maps is not None:
        return label_measure(name, maps.known)
    return next((measure for measure in ct_measures(store) if measure.name == name), None)


def ct_measures(store: Store) -> tuple[Measure, ...]:
    """Return what `ChestCT` can measure in the intensity window of a store.

    Nothing unless it holds Hounsfield units from emphysema to the body's wall, and bone where it reaches so far.
    """
    lowest, highest = float(store.lo.max()), float(store.hi.min())
    if store.settings["units"] != "HU" or lowest >= EMPHYSEMA_BELOW or highest <= BODY_ABOVE:
        return ()
    return tuple(measure for measure in CT_MEASURES if highest > BONE_ABOVE or measure.labels != (BONE,))


def _columns_of(table: Path, store: Store) -> dict[str, np.ndarray]:
    """Numeric columns of a table, a value for each volume of the store."""
    labels = read_labels(table, "class")
    rows, _, _ = match_rows(labels, store.ids)
    if not rows:
        raise InputError(f"{table}: holds no id of {store.path}, whose first are {abbreviate(store.ids)}")
    return {
        name: np.array([rows[i].columns[name] if i in rows else math.nan for i in store.ids]) for name in labels.columns
    }


def _usable(found: Attribute, store: Store, skip_missing: bool) -> Attribute:
    known = np.isfinite(found.values)
    if not known.all() and not skip_missing:
        missing = [store.ids[i] for i in found.indices[~known]]
        raise InputError(
            f"{found.origin}: {found.name} is missing for {abbreviate(missing)}; "
            "fill it in, or leave them out by --skip-missing"
        )
    values, indices = found.values[known], found.indices[known]
    if len(values) < LEAST:
        raise InputError(f"{found.origin}: {found.name} is known of {len(values)} volumes, want at least {LEAST}")
    if np.ptp(values) == 0:
        raise InputError(f"{found.origin}: {found.name} is {values[0]:g} for every volume; want one that varies")
    return Attribute(found.name, values, indices, found.origin)


def _offered(columns: dict[str, np.ndarray], store: Store, maps: LabelMaps | None, origin: str) -> str:
    """Say which attributes there are."""
    have = [f"{origin} has {', '.join(columns)}" if columns else f"{origin} has no numeric column (--table, CSV, may)"]
    if maps is not None:
        have.append(f"label maps give {', '.join(f'label_{label}_ml' for label in maps.known)} and label_N_percent")
    elif measures := ct_measures(store):
        have.append(f"thresholds give {', '.join(measure.name for measure in measures)}")
    return "; ".join(have)
