"""What the numbers say, in plain sentences: the first thing in a report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_VARIETY = 0.8  # of the training volumes'
CLEAR = 5.0  # standard errors
ALIKE = 2.0  # standard errors


@dataclass(frozen=True)
class Verdict:
    """One sentence."""

    good: bool
    text: str


def verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Judge variety, distance, seams, reconstruction and geometry of a measured run."""
    return [
        *_variety(metrics),
        *(_distance(name, found) for name, found in metrics["features"].items()),
        *_coverage(metrics),
        *_seams(metrics["seams"]),
        *_reconstruction(metrics["reconstruction"]),
        *_geometry(metrics["geometry"]),
        *(audit_verdicts(metrics["audit"]) if "audit" in metrics else []),
    ]


def audit_verdicts(audit: Mapping[str, Any]) -> list[Verdict]:
    """Say what the memorisation audit found, of generated volumes and of the discriminators."""
    verdict, volumes = audit["verdict"], audit["volumes"]
    sets = f"{volumes['generated']} generated, {volumes['train']} training and {volumes['held-out']} held-out volumes"
    by = ", ".join(verdict["generated_by"])
    text = (
        f"signs of memorisation in generated volumes: {by}"
        if by
        else "no evidence of memorisation in generated volumes"
    )
    found = [Verdict(not by, f"{text} ({sets})")]
    if verdict["discriminators_by"] is None:
        return found
    best = max(audit["membership"], key=lambda row: row["auc"])
    numbers = f"AUC {best['auc']:.2f}, members only {best['control_auc']:.2f} +- {best['control_deviation']:.2f}"
    told = bool(verdict["discriminators_by"])
    text = "the discriminators tell training volumes from held-out ones: hand out no checkpoint that holds them"
    return [
        *found,
        Verdict(not told, f"{text if told else 'no evidence of membership in discriminator logits'} ({numbers})"),
    ]


def _variety(metrics: Mapping[str, Any]) -> list[Verdict]:
    row = next(row for row in metrics["variety"]["generated"] if row["voxels"])
    floor = next(row for row in metrics["variety"]["held-out"] if row["voxels"])
    numbers = f"variety {row['ratio']:.2f} +- {row['error']:.2f} of real volumes at {row['voxels']}^3"
    low = row["ratio"] + CLEAR * row["error"] < 1 and row["ratio"] < LEAST_VARIETY
    if low:
        text = (
            f"too little variety: {numbers} (held-out ones: {floor['ratio']:.2f}); generated volumes are too much alike"
        )
        return [Verdict(False, text)]
    return [Verdict(True, f"{numbers} (held-out ones: {floor['ratio']:.2f})")]


def _distance(name: str, found: Mapping[str, Any]) -> Verdict:
    made, floor = found["generated vs held-out"], found["train vs held-out"]
    numbers, above = [], 0.0
    for key, title in (("mmd", "MMD"), ("kid", "KID")):
        error = (made[key]["error"] ** 2 + floor[key]["error"] ** 2) ** 0.5
        above = max(above, (made[key]["value"] - floor[key]["value"]) / error if error else 0.0)
        numbers.append(f"{title} {made[key]['value']:.3g} (floor {floor[key]['value']:.2g})")
    text = f"features '{name}': {', '.join(numbers)}, recall {made['recall']['value']:.2f} (floor "
    text += f"{floor['recall']['value']:.2f}): "
    if above <= ALIKE:
        m, n = made["volumes"]
        return Verdict(True, f"{text}not told from real ones by {m} against {n} volumes")
    return Verdict(False, f"{text}{above:.0f} standard errors above the floor")


def _coverage(metrics: Mapping[str, Any]) -> list[Verdict]:
    coverage = metrics["coverage"]
    text = f"{coverage['share']:.0%} of the slices cover the means of real ones (floor {coverage['floor']:.0%})"
    return [Verdict(coverage["share"] >= coverage["floor"], text)]


def _seams(seams: Mapping[str, Any] | None) -> list[Verdict]:
    if seams is None:
        return []
    ratio = seams["ratio"]
    seen = ratio["value"] > 1.05 and ratio["value"] - CLEAR * ratio["error"] > 1
    text = f"steps at window borders are {ratio['value']:.2f} +- {ratio['error']:.2f} times those of real volumes"
    return [Verdict(not seen, text + (": seams show" if seen else ""))]


def _reconstruction(made: Mapping[str, Any] | None) -> list[Verdict]:
    if made is None or "mae_of_mean" not in made:
        return []
    better = made["mae"] < made["mae_of_mean"]
    text = f"the encoder makes held-out volumes again with an error of {made['mae']:.3f} (the mean volume: "
    return [Verdict(better, f"{text}{made['mae_of_mean']:.3f})")]


def _geometry(rows: Any) -> list[Verdict]:
    wrong = [row["check"] for row in rows if not row["ok"]]
    return [
        Verdict(False, f"geometry: wrong {', '.join(wrong)}") if wrong else Verdict(True, "geometry as in the store")
    ]
