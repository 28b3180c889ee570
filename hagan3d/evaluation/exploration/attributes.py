"""Attributes of real volumes: columns of the store or of a table, or measures of label maps or of the volumes."""

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

LEAST = 20  # minimum number of volumes with a value
THRESHOLDS = "thresholds in the volumes"  # origin of an attribute
UNITS = {"_ml": "ml", "_percent": "%", "_mm": "mm"}


@dataclass(frozen=True)
class Attribute:
    """A numeric attribute of volumes of a store."""

    name: str
    values: np.ndarray
    """``[N]``."""
    indices: np.ndarray
    """Indices of the volumes in the store ``[N]``."""
    origin: str
    """Source of the values."""

    @property
    def unit(self) -> str:
        """Unit by the suffix of the name: _ml, _percent or _mm; else empty."""
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
    """Return the values of an attribute: from the table, or else the store, the label maps, or the volumes.

    Args:
        store: The store.
        name: Name of a numeric column, or of a measure such as label_1_ml or, in CT, lung_volume_ml.
        indices: Indices of the volumes ``[N]``.
        table: CSV with ids and numeric columns.
        maps: Label maps of those volumes, from files.
        measured: Measures those volumes by thresholds.
        skip_missing: Whether to skip volumes without a value; else they are an error.

    Raises:
        InputError: If the attribute is unknown, constant, missing for some volumes, or available for too few.
    """
    columns, origin = dict(store.columns), f"{store.path}"
    if table is not None:
        columns, origin = _columns_of(table, store), f"{table}"
    measure = measure_of(name, store, maps)
    if name in columns:
        values = columns[name][indices]
    elif measure is not None and maps is not None:
        values, origin = np.array([maps.measured(int(i), measure) for i in indices]), "label maps"
    elif measure is not None and own_label_measure(name, store) is not None:
        values, origin = measure_label_maps(store, indices, measure), "label maps of the store"
    elif measure is not None and measured is not None:
        values, origin = measured(measure), THRESHOLDS
    else:
        raise InputError(f"--attribute {name}: unknown attribute; {_offered(columns, store, maps, origin)}")
    return _checked(Attribute(name, values, indices, origin), store, skip_missing)


def measure_of(name: str, store: Store, maps: LabelMaps | None) -> Measure | None:
    """Return the measure of a name, None where the store offers none of that name."""
    if maps is not None:
        return label_measure(name, {str(label): label for label in maps.labels})
    own = own_label_measure(name, store)
    return own or next((measure for measure in ct_measures(store) if measure.name == name), None)


def own_labels(store: Store) -> dict[str, int]:
    """Return the values of the labels of the label maps of a store by their names, without the background."""
    return {label: value for value, label in enumerate(store.label_names) if value}


def own_label_measure(name: str, store: Store) -> Measure | None:
    """Return the measure of the label maps of a store by its name, None for another name or without label maps."""
    return label_measure(name, own_labels(store)) if store.label_names else None


def measure_label_maps(store: Store, indices: np.ndarray, measure: Measure) -> np.ndarray:
    """Return the measure of the label maps of volumes of a store ``[N]``."""
    return np.array([measure(store.label_map(int(i)), store.affines[i]) for i in indices])


def ct_measures(store: Store) -> tuple[Measure, ...]:
    """Return the measures of `ChestCT` that the intensity window of a store allows.

    None unless the window is in Hounsfield units and includes emphysema and the body; bone only if it is included too.
    """
    lowest, highest = float(store.intervals[:, 0, 0].max()), float(store.intervals[:, 0, 1].min())
    if store.settings["channels"][0]["units"] != "HU" or lowest >= EMPHYSEMA_BELOW or highest <= BODY_ABOVE:
        return ()
    return tuple(measure for measure in CT_MEASURES if highest > BONE_ABOVE or measure.labels != (BONE,))


def _columns_of(table: Path, store: Store) -> dict[str, np.ndarray]:
    """Numeric columns of a table, one value for each volume of the store."""
    labels = read_labels(table, "class")
    rows, _, _ = match_rows(labels, store.ids)
    if not rows:
        raise InputError(f"{table}: has no id of {store.path}; expected ids such as {abbreviate(store.ids)}")
    return {
        name: np.array([rows[i].columns[name] if i in rows else math.nan for i in store.ids]) for name in labels.columns
    }


def _checked(attribute: Attribute, store: Store, skip_missing: bool) -> Attribute:
    finite = np.isfinite(attribute.values)
    if not finite.all() and not skip_missing:
        missing = [store.ids[i] for i in attribute.indices[~finite]]
        raise InputError(
            f"{attribute.origin}: {attribute.name} is missing for {abbreviate(missing)}; "
            "add the values, or use --skip-missing"
        )
    values, indices = attribute.values[finite], attribute.indices[finite]
    if len(values) < LEAST:
        raise InputError(
            f"{attribute.origin}: {attribute.name} has values for {len(values)} volumes; at least {LEAST} are needed"
        )
    if np.ptp(values) == 0:
        raise InputError(
            f"{attribute.origin}: {attribute.name} is {values[0]:g} for every volume; use an attribute that varies"
        )
    return Attribute(attribute.name, values, indices, attribute.origin)


def _offered(columns: dict[str, np.ndarray], store: Store, maps: LabelMaps | None, origin: str) -> str:
    """List the available attributes."""
    offers = [
        f"{origin} has {', '.join(columns)}" if columns else f"{origin} has no numeric column (add a CSV with --table)"
    ]
    labels = own_labels(store) if maps is None else {str(label): label for label in maps.labels}
    if labels:
        offers.append(f"label maps give {', '.join(f'label_{label}_ml' for label in labels)} and label_N_percent")
    elif measures := ct_measures(store):
        offers.append(f"thresholds give {', '.join(measure.name for measure in measures)}")
    return "; ".join(offers)
