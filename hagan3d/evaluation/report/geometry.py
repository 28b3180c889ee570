"""Geometry checks: generated volumes have the size, orientation, spacing and intensity range of the store."""

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.summary import Summary
from hagan3d.evaluation.report.results import GeometryCheck


def check_geometry(model: Model, store: Store, generated: Summary) -> tuple[GeometryCheck, ...]:
    """Compare size, orientation, spacing and range of generated volumes with those of the store."""
    description, typical = model.description, store.description()
    spacings = np.array([spacing_of(affine) for affine in store.affines])
    spacing = np.array(description.voxel_spacing)
    least, most = spacings.min(axis=0), spacings.max(axis=0)
    tolerance = 1e-3 * spacings.max()
    inside = (spacing >= least - tolerance) & (spacing <= most + tolerance)
    lowest, highest = float(generated["range"][:, 0].min()), float(generated["range"][:, 1].max())
    in_range = bool(np.isfinite([lowest, highest]).all()) and lowest >= -1.001 and highest <= 1.001
    constant = int((generated["range"][:, 0] == generated["range"][:, 1]).sum())
    return (
        GeometryCheck("size", description.size == store.size, f"{list(description.size)} voxels"),
        GeometryCheck("orientation", description.orientation == typical.orientation, description.orientation),
        GeometryCheck("slices", description.axis == typical.axis, description.axis),
        GeometryCheck("spacing", bool(inside.all()), f"{_mm(spacing)} mm; store: {_mm(least)} to {_mm(most)} mm"),
        GeometryCheck("intensity rule", _rules(description) == _rules(typical), ", ".join(_rules(description))),
        GeometryCheck("range", in_range, f"{lowest:.3f} to {highest:.3f}; expected -1 to 1"),
        GeometryCheck("not constant", constant == 0, f"{constant} constant volumes"),
    )


def _rules(description: DataDescription) -> list[str]:
    return [channel.intensity for channel in description.channels]


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)
