"""Verdicts: what the results mean, one plain sentence each, at the top of a report.

A verdict on generated volumes has three states: different from real ones; no difference found, and one that matters
would have been; cannot tell, since one that matters could have been missed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hagan3d.evaluation.memorisation.results import Audit
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.power import Difference, State, joint_state
from hagan3d.evaluation.metrics.registry import metrics
from hagan3d.evaluation.metrics.voxels import Seams, Variety
from hagan3d.evaluation.report.results import FLOOR, GENERATED, Evaluation, GeometryCheck, Reconstruction

TEXTURE, SLICES = "sharpness and texture", "slice statistics"
LOST = "high-frequency power lost "
BLUR = "high_frequency_lost"  # begins the keys of the metrics whose sign says blurred or rough
VARIETY_MATTERS = 0.2  # less variety, as a share of that of the training volumes
SEAM_MATTERS = 0.05  # higher steps at window borders, as a share of those of real volumes
NAMED = 3  # metrics that a sentence names at most
SIGNS: Mapping[State, str] = {"good": "  ", "unclear": "? ", "bad": "! "}


@dataclass(frozen=True)
class Verdict:
    """One sentence, and whether it is good news, bad news, or that the volumes at hand cannot tell."""

    state: State
    text: str

    @classmethod
    def of(cls, good: bool, text: str) -> "Verdict":
        """Return a verdict on what needs no statistics."""
        return cls("good" if good else "bad", text)

    @property
    def good(self) -> bool:
        """Whether it is good news."""
        return self.state == "good"

    def __str__(self) -> str:
        return SIGNS[self.state] + self.text


def differences(results: Evaluation) -> dict[str, dict[str, Difference]]:
    """Return all metrics that decide, each against its floor, by kind of metric and by key."""
    sources: dict[str, tuple[str, Mapping[str, Mapping[str, Estimate]]]] = {
        TEXTURE: ("texture", results.texture),
        SLICES: ("voxels", results.voxels),
    }
    for name, columns in results.features.items():
        sources[_feature_title(name)] = ("features", {key: one.estimates for key, one in columns.items()})
    least = min(results.origin.subjects.values())
    return {
        title: {
            one.key: Difference.of(one, columns[GENERATED][one.key], columns[FLOOR][one.key], least)
            for one in metrics(needs)
            if one.in_verdict == "decides"
        }
        for title, (needs, columns) in sources.items()
    }


def power_values(results: Evaluation) -> dict[str, Any]:
    """Return the excess and the detectable difference of each deciding metric, as plain values for metrics.json."""
    return {title: {key: one.to_dict() for key, one in group.items()} for title, group in differences(results).items()}


def verdicts(results: Evaluation) -> list[Verdict]:
    """Return the verdicts: overall, by kind of metric, on variety, seams, reconstruction, geometry, memorisation."""
    groups, subjects = differences(results), results.origin.subjects
    found = {title: compared(title, list(group.values()), subjects) for title, group in groups.items()}
    sharpness = _sharpness(groups[TEXTURE])
    found[TEXTURE] = replace(found[TEXTURE], text=". ".join([*sharpness.values(), found[TEXTURE].text]))
    alike = found[TEXTURE].good and found[SLICES].good
    confirming = [TEXTURE, SLICES, *(_feature_title(e.name) for e in results.origin.extractors if e.confirms)]
    for title in set(found) - set(confirming):
        found[title] = found[title] if alike else _unconfirmed(found[title])
    variety = variety_verdict(results.variety, min(subjects.values()))
    rows = [_overall(found, confirming, variety, list(sharpness)), *found.values(), variety]
    rows += [] if results.seams is None else [_seams(results.seams, min(subjects.values()))]
    rows += [*_reconstruction(results.reconstruction), _geometry(results.geometry)]
    return rows + ([] if results.audit is None else audit_verdicts(results.audit))


def compared(title: str, group: Sequence[Difference], subjects: Mapping[str, int]) -> Verdict:
    """Return the verdict on metrics of one kind.

    Args:
        title: What was compared.
        group: The metrics that decide.
        subjects: Number of subjects of each set, by name.
    """
    state = joint_state([one.state for one in group])
    if state == "bad":
        apart = sorted((one for one in group if one.state == "bad"), key=lambda one: -one.in_errors)
        values = ", ".join(one.against_floor() for one in apart[:NAMED])
        most = apart[0].in_errors  # infinite if all volumes of a set are alike
        above = f"; {most:.0f} standard errors above the floor" if math.isfinite(most) else ""
        return Verdict(state, f"{title}: different from real volumes: {values}{above}")
    if state == "good":
        sizes = ", ".join(one.amount(one.detectable) for one in group)
        return Verdict(state, f"{title}: no difference found, and one of this size would have been: {sizes}")
    missed = [one for one in group if one.state == "unclear"]
    sizes = ", ".join(f"{one.amount(one.detectable)} ({one.matters:g} would matter)" for one in missed[:NAMED])
    return Verdict(state, f"{title}: cannot tell: {_too_few(subjects)} to see a difference below {sizes}")


def _too_few(subjects: Mapping[str, int]) -> str:
    name = min(subjects, key=lambda one: subjects[one])
    return f"too few {name} volumes ({subjects[name]}{' subjects' if name != 'generated' else ''})"


def _unconfirmed(verdict: Verdict) -> Verdict:
    """Take back good news from features that overlook blur or noise."""
    if not verdict.good:
        return verdict
    return Verdict(
        "unclear", f"{verdict.text}; no evidence by itself, since these features can overlook blur and noise"
    )


def _sharpness(group: Mapping[str, Difference]) -> dict[str, str]:
    """Return what the eye sees of the power of fine structures: blurred or too rough, and where."""
    found = [one for key, one in group.items() if key.startswith(BLUR) and one.state == "bad"]
    words = {}
    for word, much, sign in (("blurred", "is missing", 1), ("too rough", "is in excess", -1)):
        places = [
            f"{abs(one.value.value):.0f} % {one.title.removeprefix(LOST)}"
            for one in found
            if one.value.value * sign > 0
        ]
        if places:
            words[word] = f"{word}: power of structures below 4 voxels {much}, {', '.join(places)}"
    return words


def _overall(
    found: Mapping[str, Verdict], confirming: Sequence[str], variety: Verdict, words: Sequence[str]
) -> Verdict:
    """Return the verdict that comes first: bad if any metric finds a difference, good if all that can confirm do."""
    like = f"are {' and '.join(words)}, and " if words else ""
    states = {title: one.state for title, one in found.items()} | {"variety": variety.state}
    states = {title: one for title, one in states.items() if one == "bad" or title in (*confirming, "variety")}
    state = joint_state(list(states.values()))
    by = ", ".join(title for title, one in states.items() if one == state)
    texts: dict[State, str] = {
        "bad": f"generated volumes {like}differ from real ones in {by}",
        "unclear": f"cannot tell whether generated volumes differ from real ones: too few volumes for {by}",
        "good": f"no difference from real volumes found, where one that matters would have been, by {by}",
    }
    return Verdict(state, texts[state])


def audit_verdicts(audit: Audit) -> list[Verdict]:
    """Return the verdicts of the memorisation audit on generated volumes and on discriminators."""
    sets = "{generated} generated, {train} training and {held-out} held-out volumes".format(**audit.volumes)
    by = ", ".join(audit.generated_by)
    text = (
        f"signs of memorisation in generated volumes: {by}"
        if by
        else "no evidence of memorisation in generated volumes"
    )
    found = [Verdict.of(not by, f"{text} ({sets})")]
    seen = audit.volumes["train"]
    if not by and seen < audit.trained_on:
        text = f"{text}, but only {seen} of {audit.trained_on} training volumes were compared: raise --train-limit"
        found = [Verdict("unclear", f"{text} ({sets})")]
    if not audit.membership:
        return found
    best = max(audit.membership, key=lambda row: row.auc)
    values = f"AUC {best.auc:.2f}, members only {best.control_auc:.2f} +- {best.control_deviation:.2f}"
    if audit.discriminators_by:
        text = "the discriminators separate training from held-out volumes: do not share a checkpoint that holds them"
    else:
        text = "no evidence of membership in discriminator logits"
    return [*found, Verdict.of(not audit.discriminators_by, f"{text} ({values})")]


def variety_verdict(variety: Mapping[str, Sequence[Variety]], subjects: int) -> Verdict:
    """Return the verdict on variety, at the finest resolution with a standard error.

    Args:
        variety: Of generated and of held-out volumes, relative to training volumes.
        subjects: Number of subjects of the smallest set.
    """
    row, floor = (next(row for row in variety[name] if row.voxels) for name in ("generated", "held-out"))
    value, least = Estimate(row.ratio, row.error), Estimate(floor.ratio, floor.error)
    one = Difference("variety", "", "higher", VARIETY_MATTERS, value, least, subjects)
    text = f"variety {row.ratio:.2f} +- {row.error or 0.0:.2f} of that of training volumes at {row.voxels}^3 voxels "
    text += f"(held-out volumes: {floor.ratio:.2f})"
    if one.state == "bad":
        return Verdict("bad", f"too little {text}; generated volumes are too similar (mode collapse)")
    if one.state == "unclear":
        return Verdict("unclear", f"{text}: cannot tell, up to {one.detectable:.0%} less could have been missed")
    return Verdict("good", f"{text}: no difference found, and {one.detectable:.0%} less would have been")


def _seams(seams: Seams, subjects: int) -> Verdict:
    one = Difference("", "", "lower", SEAM_MATTERS, seams.ratio, Estimate(1.0, 0.0), subjects)
    text = f"intensity steps at window borders are {seams.ratio} times those of real volumes"
    if one.state == "bad" and one.excess > SEAM_MATTERS:
        return Verdict("bad", f"{text}: seams are visible")
    if one.detectable > SEAM_MATTERS:
        return Verdict(
            "unclear", f"{text}: cannot tell, steps up to {one.detectable:.0%} higher could have been missed"
        )
    return Verdict("good", text)


def _reconstruction(errors: Reconstruction | None) -> list[Verdict]:
    if errors is None or errors.mae_of_mean is None:
        return []
    text = f"reconstruction error of held-out volumes {errors.mae:.3f} (mean training volume: {errors.mae_of_mean:.3f})"
    return [Verdict.of(errors.mae < errors.mae_of_mean, text)]


def _geometry(rows: Sequence[GeometryCheck]) -> Verdict:
    wrong = [row.check for row in rows if not row.ok]
    if wrong:
        return Verdict.of(False, f"geometry differs from the store: {', '.join(wrong)}")
    return Verdict.of(True, "geometry as in the store")


def _feature_title(name: str) -> str:
    return f"features '{name}'"
