"""Verdicts: what the results mean, one plain sentence each, at the top of a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hagan3d.evaluation.memorisation.results import Audit
from hagan3d.evaluation.metrics.compare import FeatureComparison
from hagan3d.evaluation.metrics.registry import Metric, metrics
from hagan3d.evaluation.metrics.voxels import Seams, Variety
from hagan3d.evaluation.report.results import FLOOR, GENERATED, Evaluation, GeometryCheck, Reconstruction

LEAST_VARIETY = 0.8  # of that of the training volumes
CLEAR = 5.0  # standard errors
ALIKE = 2.0  # standard errors


@dataclass(frozen=True)
class Verdict:
    """One sentence, and whether it is good news."""

    good: bool
    text: str

    def __str__(self) -> str:
        return f"{'  ' if self.good else '! '}{self.text}"


def verdicts(results: Evaluation) -> list[Verdict]:
    """Return the verdicts on variety, feature distances, slices, seams, reconstruction, geometry and memorisation."""
    found = [
        variety_verdict(results.variety),
        *(_distance(name, columns) for name, columns in results.features.items()),
        _coverage(results.coverage.share, results.coverage_floor),
    ]
    found += [] if results.seams is None else [_seams(results.seams)]
    found += _reconstruction(results.reconstruction)
    found += [_geometry(results.geometry)]
    return found + ([] if results.audit is None else audit_verdicts(results.audit))


def audit_verdicts(audit: Audit) -> list[Verdict]:
    """Return the verdicts of the memorisation audit on generated volumes and on discriminators."""
    sets = "{generated} generated, {train} training and {held-out} held-out volumes".format(**audit.volumes)
    by = ", ".join(audit.generated_by)
    text = (
        f"signs of memorisation in generated volumes: {by}"
        if by
        else "no evidence of memorisation in generated volumes"
    )
    found = [Verdict(not by, f"{text} ({sets})")]
    if not audit.membership:
        return found
    best = max(audit.membership, key=lambda row: row.auc)
    values = f"AUC {best.auc:.2f}, members only {best.control_auc:.2f} +- {best.control_deviation:.2f}"
    if audit.discriminators_by:
        text = "the discriminators separate training from held-out volumes: do not share a checkpoint that holds them"
    else:
        text = "no evidence of membership in discriminator logits"
    return [*found, Verdict(not audit.discriminators_by, f"{text} ({values})")]


def variety_verdict(variety: Mapping[str, Sequence[Variety]]) -> Verdict:
    """Return the verdict on variety, at the finest resolution with a standard error."""
    row, floor = (next(row for row in variety[name] if row.voxels) for name in ("generated", "held-out"))
    error = row.error or 0.0
    values = f"variety {row.ratio:.2f} +- {error:.2f} of that of real volumes at {row.voxels}^3 voxels "
    values += f"(held-out volumes: {floor.ratio:.2f})"
    if row.ratio + CLEAR * error < 1 and row.ratio < LEAST_VARIETY:
        return Verdict(False, f"too little variety: {values}; generated volumes are too similar (mode collapse)")
    return Verdict(True, values)


def _distance(extractor: str, columns: Mapping[str, FeatureComparison]) -> Verdict:
    """Compare the deciding metrics with the real-vs-real floor."""
    generated, floor = columns[GENERATED], columns[FLOOR]
    parts, above = [], 0.0
    for one in metrics("features"):
        if one.in_verdict == "no":
            continue
        value, least = generated.estimates[one.key], floor.estimates[one.key]
        parts.append(f"{one.title.partition(',')[0]} {value.value:.3g} (floor {least.value:.2g})")
        if one.in_verdict == "decides":
            above = max(above, _standard_errors_worse(one, generated, floor))
    text = f"features '{extractor}': {', '.join(parts)}: "
    if above <= ALIKE:
        m, n = generated.volumes
        return Verdict(True, f"{text}no significant difference from real volumes ({m} against {n} volumes)")
    return Verdict(False, f"{text}{above:.0f} standard errors above the floor")


def _standard_errors_worse(one: Metric, generated: FeatureComparison, floor: FeatureComparison) -> float:
    a, b = generated.estimates[one.key], floor.estimates[one.key]
    error = math.hypot(a.error or 0.0, b.error or 0.0)
    return one.sign * (a.value - b.value) / error if error else 0.0


def _coverage(share: float, floor: float) -> Verdict:
    text = f"mean intensities of real volumes are covered in {share:.0%} of the slices (floor {floor:.0%})"
    return Verdict(share >= floor, text)


def _seams(seams: Seams) -> Verdict:
    ratio = seams.ratio
    visible = ratio.value > 1.05 and ratio.value - CLEAR * (ratio.error or 0.0) > 1
    text = f"intensity steps at window borders are {ratio.value:.2f} +- {ratio.error:.2f} times those of real volumes"
    return Verdict(not visible, text + (": seams are visible" if visible else ""))


def _reconstruction(errors: Reconstruction | None) -> list[Verdict]:
    if errors is None or errors.mae_of_mean is None:
        return []
    text = f"reconstruction error of held-out volumes {errors.mae:.3f} (mean training volume: {errors.mae_of_mean:.3f})"
    return [Verdict(errors.mae < errors.mae_of_mean, text)]


def _geometry(rows: Sequence[GeometryCheck]) -> Verdict:
    wrong = [row.check for row in rows if not row.ok]
    if wrong:
        return Verdict(False, f"geometry differs from the store: {', '.join(wrong)}")
    return Verdict(True, "geometry as in the store")
