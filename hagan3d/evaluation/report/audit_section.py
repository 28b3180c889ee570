"""The section of a report on memorisation."""

import html

import numpy as np

from hagan3d.evaluation.memorisation.results import THRESHOLDS, Audit, ClosestPair, SpaceAudit
from hagan3d.evaluation.report import figures
from hagan3d.evaluation.report.page import note, picture, table
from hagan3d.evaluation.report.results import EvaluatedRun
from hagan3d.evaluation.report.verdict import audit_verdicts

PAIRS_IN_ROW = 5
AUDIT_HEADER = ("", "generated", "for comparison", "flagged at", "")
MEMBERSHIP_HEADER = (
    "logit",
    "AUC",
    "AUC, members only",
    "AUC, untrained",
    "TPR at 1 % FPR",
    "TPR, members only",
    "",
)
AUDIT_NOTES = (
    "The audit cannot prove that a model memorised nothing. Volumes are compared at 16^3 voxels, at the best "
    "match over mirroring along W and shifts of up to 2 voxels; and in features, mirrored or not. Volumes of one "
    "subject are never compared with each other.",
    "Twin ratio: distance to the nearest training volume over that to the nearest one of another subject. Nearer: the "
    "probability that the nearest real volume is a training volume, among as many training as held-out volumes; "
    "compared with a random assignment of subjects. AuthPct: Alaa et al., ICML 2022. C_T: Meehan et al., AISTATS 2020; "
    "the z-score accounts for repeated volumes. Swapped: training and held-out volumes exchanged; smooth or average "
    "volumes are close to both sets, copies only to the training volumes.",
    "Membership: AUC of separating training from held-out volumes by discriminator logits. Members only: the same "
    "between random parts of the training volumes; expected 0.5, the spread is sampling error. Untrained: the same by "
    "discriminators with fresh weights; away from 0.5, the held-out volumes come from another distribution. With fewer "
    "than 100 held-out volumes, 1 % FPR allows no false positive.",
)


def audit_section(run: EvaluatedRun, affine: np.ndarray) -> str:
    """Return the section on memorisation as HTML; nothing without an audit."""
    audit = run.results.audit
    if audit is None:
        return ""
    lines = [f'<p class="{v.state}">{html.escape(v.text)}</p>' for v in audit_verdicts(audit)]
    lines += [note(text) for text in AUDIT_NOTES]
    for name, space in audit.spaces.items():
        title = f"features '{space.extractor}'" if space.extractor else name
        lines.append(f"<h3>In {html.escape(title)}</h3>" + table(AUDIT_HEADER, _space_rows(space)))
    lines += ["<h3>Membership inference by discriminator logits</h3>", _membership(audit), "<h3>The closest pairs</h3>"]
    return "<h2>Memorisation audit</h2>" + "".join(lines) + _pairs(run, audit.pairs, affine)


def _space_rows(space: SpaceAudit) -> list[list[str]]:
    """One row per test, with the values that it compares and its threshold."""
    t, far, twins, near = THRESHOLDS, space.distances, space.twins, space.nearer
    authentic, copying = space.authenticity, space.data_copying
    medians = f"{far.generated_train:.3g}; to held-out: {far.generated_held:.3g}"
    tests = {
        "twins": [
            "twins: share below the limit of twin ratios",
            f"{twins.share:.1%}, of {twins.sources} training volumes; lowest ratio {twins.lowest:.2f}",
            f"limit {twins.limit:.2f}; lowest of real volumes {twins.lowest_real:.2f}",
            f">= {t.twin_share:.0%} of {t.twin_sources}, or a ratio below {t.twin_half:.0%} of the lowest real one",
        ],
        "nearer": [
            "nearer: probability that the nearest is a training volume",
            f"{near.share:.3f}",
            f"{near.expected:.3f} +- {near.deviation:.2g}",
            f">= {t.nearer_share:g} and {t.clear_z:g} standard deviations ({near.z:.1f})",
        ],
        "AuthPct": [
            "AuthPct, %",
            str(authentic.generated),
            f"held-out: {authentic.floor}",
            f"z <= -{t.clear_z:g} ({authentic.z:.1f}) and against swapped ({authentic.excess_z:.1f})",
        ],
        "C_T": [
            "C_T",
            f"{copying.value:.2f}, z {copying.z:.1f}",
            f"swapped: {copying.swapped:.2f}",
            f"z <= -{t.clear_z:g} and against swapped ({copying.excess_z:.1f})",
        ],
    }
    return [
        ["median distance to the nearest training volume", medians, f"held-out: {far.held_train:.3g}", "", ""],
        ["effective number of independent generated volumes", f"{space.independent:.1f}", "", "", ""],
        *([*cells, "FLAGGED" if space.flags[name] else "no"] for name, cells in tests.items()),
    ]


def _membership(audit: Audit) -> str:
    if audit.membership is None:
        return "<p>Not tested: the checkpoint holds no discriminators.</p>"
    rows = [
        [
            {"d_h": "D^H", "d_l": "D^L"}.get(row.score, row.score),
            f"{row.auc:.3f}",
            f"{row.control_auc:.3f} +- {row.control_deviation:.2g}",
            f"{row.untrained_auc:.3f}",
            f"{row.true_positives:.1%}",
            f"{row.control_true_positives:.1%}",
            "FLAGGED" if row.flagged else "no",
        ]
        for row in audit.membership
    ]
    return table(MEMBERSHIP_HEADER, rows)


def _pairs(run: EvaluatedRun, pairs: list[ClosestPair], affine: np.ndarray) -> str:
    text = (
        "<p>One column per generated volume, above its nearest training volume (mirrored where that matches better), "
        "in the order of their twin ratios, lowest first. Distances of voxels.</p>"
    )
    for first in range(0, len(pairs), PAIRS_IN_ROW):
        some = pairs[first : first + PAIRS_IN_ROW]
        generated = run.images("generated", [pair.generated for pair in some])
        train = run.images("train", [pair.train for pair in some])
        train = [x[..., ::-1] if pair.mirrored else x for x, pair in zip(train, some, strict=True)]
        numbers = f"{first + 1} to {first + len(some)}"
        groups = {f"generated, pairs {numbers}": generated, "nearest training volume": train}
        text += picture(figures.sheet_png(groups, affine), f"closest pairs {numbers}")
    header = ["pair", "generated", "training", "ratio", "distance", "to held-out", "mirrored"]
    lines = [
        [
            *(str(number) for number in (i + 1, pair.generated, pair.train)),
            *(f"{value:.3g}" for value in (pair.ratio, pair.distance, pair.held_out)),
            "yes" if pair.mirrored else "no",
        ]
        for i, pair in enumerate(pairs)
    ]
    return text + table(header, lines)
