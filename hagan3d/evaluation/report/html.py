"""The report: one HTML file that needs nothing beside it."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.evaluation.features.summary import FEATURES, ssim_settings
from hagan3d.evaluation.report import figures
from hagan3d.evaluation.report.protocol import PAIRS, Measured, pair_name
from hagan3d.evaluation.report.verdict import audit_verdicts, verdicts

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .6rem 0; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { border-bottom: 1px solid #888; font-weight: 600; }
img { max-width: 100%; margin: .4rem 0; } .bad { color: #b00020; font-weight: 600; } .good { color: #1b7a3d; }
.note { color: #666; font-size: .9rem; } code { font-size: .85em; word-break: break-all; }
"""
MEASURES = (
    ("kid", "KID"),
    ("mmd", "MMD, RBF mixture"),
    ("fid_shrunk", "FID, shrunk covariance"),
    ("precision", "precision"),
    ("recall", "recall"),
)
VOXEL_MEASURES = (
    ("planes_fid", "2.5D FID of slice statistics"),
    ("slice_mean", "slice means, Wasserstein"),
    ("slice_deviation", "slice deviations, Wasserstein"),
    ("histogram", "intensity histogram, Wasserstein"),
)
PAIRS_IN_ROW = 5
AUDIT_HEADER = ("", "generated", "to compare with", "flagged at", "")
MEMBERSHIP_HEADER = (
    "logit",
    "AUC",
    "AUC, members only",
    "AUC, untrained",
    "true positives at 1 % false",
    "the same, members only",
    "",
)
AUDIT_NOTES = (
    "Not finding memorisation is no proof that there is none. Volumes are compared at 16^3 voxels, mirrored along W "
    "and shifted by up to 2 of these where that fits better; and in features, mirrored or not. Volumes of one subject "
    "are never compared with each other.",
    "Twin ratio: distance to the nearest training volume over that to the nearest one of another subject. Nearer: as "
    "many training as held-out volumes are looked at; compared with the same where subjects are called held-out at "
    "random. AuthPct: Alaa et al., ICML 2022. C_T: Meehan et al., AISTATS 2020; the z-score allows for volumes that "
    "repeat each other. Swapped: training and held-out volumes in each other's place; smooth or average volumes are "
    "close to both, copies only to the training volumes.",
    "Membership: AUC of telling training from held-out volumes by logits. Members only: the same between random parts "
    "of the training volumes, where there is nothing to tell: 0.5, and what chance does. Untrained: by fresh weights; "
    "away from 0.5, the held-out volumes are of another kind. With fewer than 100 held-out volumes, 1 % false "
    "positives are none.",
)


def report(measured: Measured, affine: np.ndarray, run: Path, shown: int) -> str:
    """Return the report as HTML.

    Args:
        measured: The numbers and the sets.
        affine: Index (d, h, w) to RAS mm ``[4, 4]``, for pictures.
        run: Folder of the run, for its loss curves.
        shown: Volumes of each kind in pictures.
    """
    metrics = measured.metrics
    parts = [_head(metrics), _verdicts(metrics), _contact_sheets(measured, affine, shown)]
    parts += [_features(metrics, name) for name in metrics["features"]]
    parts += [
        _classes(metrics),
        _voxels(metrics),
        _variety(measured, affine),
        _embedding(measured),
        _nearest(measured, affine, shown),
    ]
    parts += [
        _audit(measured, affine),
        _slices(measured),
        _checks(metrics),
        _losses(run),
        _protocol(metrics, measured.sets["train"].size),
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<meta charset="utf-8"><title>hagan3d evaluation</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'


def _png(data: bytes | None, alt: str) -> str:
    if data is None:
        return ""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; cells are text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _estimate(values: Mapping[str, float] | None) -> str:
    return "-" if values is None else f"{values['value']:.4g} +- {values['error']:.2g}"


def _head(metrics: Mapping[str, Any]) -> str:
    run, volumes = metrics["run"], metrics["volumes"]
    return (
        f"<h1>What the run is worth</h1><p>{html.escape(run['checkpoint'])}, step {run['step']}: "
        f"{volumes['generated']} generated volumes against {volumes['held-out']} held-out and {volumes['train']} "
        f"training volumes of {html.escape(metrics['store']['name'])}. Protocol {metrics['protocol']}.</p>"
    )


def _verdicts(metrics: Mapping[str, Any]) -> str:
    lines = [f'<li class="{"good" if v.good else "bad"}">{html.escape(v.text)}</li>' for v in verdicts(metrics)]
    notes = [*metrics["warnings"]]
    return f"<ul>{''.join(lines)}</ul>" + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)


def _contact_sheets(measured: Measured, affine: np.ndarray, shown: int) -> str:
    groups = {
        f"{title}": figures.volumes_of(measured.sets[name], range(min(shown, measured.sets[name].count)))
        for name, title in (("held-out", "real, held-out"), ("generated", "generated"))
    }
    return "<h2>Real and generated</h2>" + _png(figures.sheet_png(groups, affine), "real above generated volumes")


def _features(metrics: Mapping[str, Any], name: str) -> str:
    found, extractor = metrics["features"][name], next(e for e in metrics["extractors"] if e["name"] == name)
    columns = [pair_name(a, b) for a, b in PAIRS]
    rows = [[title, *(_estimate(found[column][key]) for column in columns)] for key, title in MEASURES]
    rows.append(["FID, plain", *(f"{found[column]['fid']:.4g}" for column in columns)])
    warnings = [f'<p class="note">{html.escape(f"{c}: {w}")}</p>' for c in columns for w in found[c]["warnings"]]
    units = "in units of their deviation over training volumes; " if extractor["rescale"] else ""
    note = html.escape(f"{extractor['dim']} features per volume; {units}{extractor['note']}")
    text = f"<h2>Distances in the features '{html.escape(name)}'</h2><p class=note>{note}. Last column: the floor.</p>"
    return text + table(["", *columns], rows) + "".join(warnings)


def _classes(metrics: Mapping[str, Any]) -> str:
    found = metrics["classes"]
    if found is None:
        return ""
    names = [name for name in ("generated", "held-out", "train") if name in found]
    rows = [
        [title, *(_estimate(found[name].get(key)) for name in names)]
        for key, title in (("inception_score", "inception score"), ("accuracy", "of the class that is asked for"))
    ]
    text = f"<h2>Classes</h2><p class=note>By a classifier of {found['classes']} classes, learnt from the training "
    return (
        text
        + "volumes in the first features; it has seen those, so held-out ones are the floor.</p>"
        + table(["", *names], rows)
    )


def _voxels(metrics: Mapping[str, Any]) -> str:
    columns = [pair_name(a, b) for a, b in PAIRS]
    rows = [
        [title, *(_estimate(metrics["voxels"][column][key]) for column in columns)] for key, title in VOXEL_MEASURES
    ]
    return "<h2>Distances of voxel statistics</h2>" + table(["", *columns], rows)


def _variety(measured: Measured, affine: np.ndarray) -> str:
    variety, diversity = measured.metrics["variety"], measured.metrics["diversity"]
    rows = []
    for made, real in zip(variety["generated"], variety["held-out"], strict=True):
        label = "full" if made["voxels"] == 0 else f"{made['voxels']}^3"
        cells = [f"{row['ratio']:.3f}" + (f" +- {row['error']:.2g}" if row["error"] else "") for row in (made, real)]
        rows.append([label, *cells])
    text = "<h2>Variety</h2><p>Deviation of voxels over volumes, against that over training volumes.</p>"
    text += table(["resolution", "generated", "held-out (the floor)"], rows)
    text += f"<p>MS-SSIM of two generated volumes {_estimate(diversity['generated'])}, of two training volumes "
    text += f"{_estimate(diversity['real'])}; higher than real: too much alike.</p>"
    text += _png(figures.variety_png(variety), "variety against resolution")
    return text + _png(figures.deviation_png(measured.summaries, affine), "deviation of every voxel")


def _embedding(measured: Measured) -> str:
    name = measured.metrics["extractors"][0]["name"]
    return "<h2>Where the volumes lie</h2>" + _png(figures.embedding_png(measured.summaries, name), "embedding")


def _nearest(measured: Measured, affine: np.ndarray, shown: int) -> str:
    name = measured.metrics["extractors"][0]["name"]
    rows = {key: summary[FEATURES + name] for key, summary in measured.summaries.items()}
    made = rows["generated"][:shown]
    groups = {"generated": figures.volumes_of(measured.sets["generated"], range(len(made)))}
    lines = []
    for key in ("train", "held-out"):
        found, distances = figures.nearest(made, rows[key])
        groups[f"nearest real one, {key}"] = figures.volumes_of(measured.sets[key], found.tolist())
        lines.append([key, *(f"{distance:.3g}" for distance in distances)])
    text = f"<h2>Nearest real neighbours</h2><p>Column by column, in the features '{html.escape(name)}'.</p>"
    header = ["distance to", *(str(i + 1) for i in range(len(made)))]
    return text + _png(figures.sheet_png(groups, affine), "nearest neighbours") + table(header, lines)


def _audit(measured: Measured, affine: np.ndarray) -> str:
    audit = measured.metrics.get("audit")
    if audit is None:
        return ""
    lines = [f'<p class="{"good" if v.good else "bad"}">{html.escape(v.text)}</p>' for v in audit_verdicts(audit)]
    lines += [f'<p class="note">{html.escape(text)}</p>' for text in AUDIT_NOTES]
    for name, found in audit["spaces"].items():
        title = f"features '{found['extractor']}'" if "extractor" in found else name
        lines.append(f"<h3>In {html.escape(title)}</h3>" + table(AUDIT_HEADER, _audit_rows(found, audit["thresholds"])))
    lines += ["<h3>Membership by discriminator logits</h3>", _membership(audit), "<h3>The closest pairs</h3>"]
    return "<h2>Memorisation audit</h2>" + "".join(lines) + _pairs(measured, affine)


def _audit_rows(found: Mapping[str, Any], limits: Mapping[str, float]) -> list[list[str]]:
    twins, near, copying = found["twins"], found["nearer"], found["data_copying"]
    authentic, far, z = found["authenticity"], found["distances"], limits["clear_z"]
    rows = [
        [
            "twins: share below the limit of twin ratios",
            f"{twins['share']:.1%}, of {twins['sources']} training volumes; lowest ratio {twins['lowest']:.2f}",
            f"limit {twins['limit']:.2f}; lowest of real volumes {twins['lowest_real']:.2f}",
            f">= {limits['twin_share']:.0%} of {limits['twin_sources']}, or a ratio {limits['twin_half']:.0%} of real",
        ],
        [
            "nearer: chance that the nearest is a training volume",
            f"{near['share']:.3f}",
            f"{near['expected']:.3f} +- {near['deviation']:.2g}",
            f">= {limits['nearer_share']:g} and {z:g} deviations ({near['z']:.1f})",
        ],
        [
            "AuthPct, %",
            _estimate(authentic["made"]),
            f"held-out: {_estimate(authentic['floor'])}",
            f"z <= -{z:g} ({authentic['z']:.1f}) and against swapped ({authentic['excess_z']:.1f})",
        ],
        [
            "C_T",
            f"{copying['value']:.2f}, z {copying['z']:.1f}",
            f"swapped: {copying['swapped']:.2f}",
            f"z <= -{z:g} and against swapped ({copying['excess_z']:.1f})",
        ],
    ]
    for row, name in zip(rows, ("twins", "nearer", "AuthPct", "C_T"), strict=True):
        row.append("FLAGGED" if name in found["flagged"] else "no")
    rows.insert(0, ["generated volumes that do not repeat others", f"{found['independent']:.1f}", "", "", ""])
    medians = f"{far['made_train']:.3g}; to held-out: {far['made_held']:.3g}"
    return [
        ["median distance to nearest training", medians, f"held-out to training: {far['held_train']:.3g}", "", ""],
        *rows,
    ]


def _membership(audit: Mapping[str, Any]) -> str:
    if audit["membership"] is None:
        return "<p>Not asked: the checkpoint holds no discriminators.</p>"
    rows = [
        [
            {"d_h": "D^H", "d_l": "D^L"}.get(row["score"], row["score"]),
            f"{row['auc']:.3f}",
            f"{row['control_auc']:.3f} +- {row['control_deviation']:.2g}",
            f"{row['untrained_auc']:.3f}",
            f"{row['true_positives']:.1%}",
            f"{row['control_true_positives']:.1%}",
            "FLAGGED" if row["flagged"] else "no",
        ]
        for row in audit["membership"]
    ]
    return table(MEMBERSHIP_HEADER, rows)


def _pairs(measured: Measured, affine: np.ndarray) -> str:
    pairs = measured.metrics["audit"]["pairs"]
    text = (
        "<p>Column by column a generated volume and its nearest training volume (mirrored where that fits better), "
        "those first that stand out most: lowest ratio of the distance to the nearest training volume to that to the "
        "nearest one of another subject. Distances of voxels.</p>"
    )
    for first in range(0, len(pairs), PAIRS_IN_ROW):
        some = pairs[first : first + PAIRS_IN_ROW]
        made = figures.volumes_of(measured.sets["generated"], [pair["generated"] for pair in some])
        train = figures.volumes_of(measured.sets["train"], [pair["train"] for pair in some])
        turned = [x[..., ::-1] if pair["mirrored"] else x for x, pair in zip(train, some, strict=True)]
        numbers = f"{first + 1} to {first + len(some)}"
        groups = {f"generated, pairs {numbers}": made, "nearest training volume": turned}
        text += _png(figures.sheet_png(groups, affine), f"closest pairs {numbers}")
    header = ["pair", "generated", "training", "ratio", "distance", "to held-out", "mirrored"]
    lines = [
        [
            *(str(number) for number in (i + 1, pair["generated"], pair["train"])),
            *(f"{pair[key]:.3g}" for key in ("ratio", "distance", "held_out")),
            "yes" if pair["mirrored"] else "no",
        ]
        for i, pair in enumerate(pairs)
    ]
    return text + table(header, lines)


def _slices(measured: Measured) -> str:
    coverage, seams = measured.metrics["coverage"], measured.metrics["seams"]
    text = (
        f"<h2>Intensities, slices and seams</h2><p>{coverage['share']:.0%} of the slices are covered (by training "
        f"volumes: {coverage['floor']:.0%}): at least 80% of the held-out volumes have a mean there that lies within "
        "those of generated volumes. Least covered: "
        f"slice {coverage['worst']}, with {coverage['worst_share']:.0%}.</p>"
    )
    if seams is None:
        text += "<p>One window is the whole volume: there are no seams.</p>"
    else:
        text += (
            f"<p>Steps across window borders over steps elsewhere: generated {seams['generated']:.3f}, real "
            f"{seams['real']:.3f}; ratio {_estimate(seams['ratio'])} (1: no seam).</p>"
        )
    text += _png(figures.histogram_png(measured.summaries), "histograms of intensity")
    return text + _png(figures.slices_png(measured.summaries), "mean intensity of slices")


def _checks(metrics: Mapping[str, Any]) -> str:
    rows = [[row["check"], "ok" if row["ok"] else "WRONG", row["found"]] for row in metrics["geometry"]]
    text = "<h2>Geometry</h2>" + table(["check", "", "found"], rows)
    made = metrics["reconstruction"]
    if made is not None:
        names = {"mae": "mean absolute error, range -1 to 1", "psnr_db": "PSNR, dB", "ms_ssim": "MS-SSIM"}
        names["mae_of_mean"] = "for comparison: error of the mean training volume"
        lines = [[title, f"{made[key]:.4g}"] for key, title in names.items() if key in made]
        text += f"<h2>Held-out volumes made again by the encoder ({made['volumes']})</h2>" + table(["", ""], lines)
    return text


def _losses(run: Path) -> str:
    data = figures.losses_png(run / "metrics.jsonl")
    return "" if data is None else "<h2>Training</h2>" + _png(data, "loss curves")


def _protocol(metrics: Mapping[str, Any], size: tuple[int, int, int]) -> str:
    ssim, fidelity = ssim_settings(size), metrics["fidelity"]
    if "missing" in fidelity:
        check = html.escape(fidelity["missing"])
    else:
        check = (
            f"generated vs held-out in '{html.escape(fidelity['extractor'])}': FID {fidelity['fid']:.6g}, KID "
            f"{fidelity['kid_mean']:.6g}, precision {fidelity['precision']:.4g}, recall {fidelity['recall']:.4g}"
        )
    lines = [
        "KID: unbiased, polynomial kernel (x.y / dim + 1)^3, all pairs; error: jackknife over both sets.",
        "MMD: unbiased, mean of five Gaussian kernels of 1/4, 1/2, 1, 2 and 4 median distances of the reference.",
        "FID: Gaussians with Ledoit-Wolf covariance, error by bootstrap over volumes; biased upwards in small sets.",
        f"Precision and recall: {metrics['settings']['neighbours']} nearest neighbours.",
        f"MS-SSIM: Gaussian window {ssim['kernel_size']}, {len(ssim['weights'])} scales, disjoint random pairs.",
        "2.5D FID: mean, deviation, steps and quarter means of eight slices in each of three planes.",
        "Intervals: 1.96 standard errors on each side. The floor: training volumes against held-out ones.",
        "Real volumes in a random order fixed by the seed; nothing was downloaded.",
    ]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    weights = "".join(f"<li>{html.escape(e['name'])}: <code>{e['sha256']}</code></li>" for e in metrics["extractors"])
    settings = html.escape(json.dumps(metrics["settings"]))
    return (
        f"<h2>Protocol {metrics['protocol']}</h2><ul>{items}</ul><p>By torch-fidelity, for comparison: {check}.</p>"
        f"<p>SHA-256 of the extractors:</p><ul>{weights}</ul>"
        f"<p class=note>store <code>{metrics['store']['fingerprint']}</code><br>settings <code>{settings}</code><br>"
        f"versions <code>{html.escape(json.dumps(metrics['versions']))}</code></p>"
    )
