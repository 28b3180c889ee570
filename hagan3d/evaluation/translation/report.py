"""The report on a translating run: one HTML file that needs nothing beside it."""

import base64
import html
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.pictures import contact_sheet
from hagan3d.evaluation.report import figures
from hagan3d.evaluation.report.html import STYLE, table
from hagan3d.evaluation.report.verdict import Verdict
from hagan3d.evaluation.translation.calibration import PIT_BINS, PROTOCOL, Calibration
from hagan3d.evaluation.translation.measure import MEASURES, Case, MeasuredPairs
from hagan3d.evaluation.translation.registration import TITLES as MISALIGNMENT

TITLES = {"mae": "MAE", "mae_percent": "MAE, % of range", "psnr_db": "PSNR, dB", "ssim": "SSIM", "nmse": "NMSE"}
GOOD_DICE = 0.7  # from here on an overlap is called good
WANTED_COVERAGE = (0.85, 0.95)  # of the 90 % interval
NOTES = (
    "MAE in target units; where volumes have intervals of their own, each by that of its target.",
    "PSNR: range 2, that of [-1, 1]. NMSE: sum of squared errors over that of x + 1.",
    "SSIM: MONAI, Gaussian window of 11 voxels and deviation 1.5, valid convolution, on x + 1 with range 2.",
    "Predictions are cut off at [-1, 1] before they are compared, but not for calibration.",
    "+-: standard deviation over volumes.",
)
CALIBRATION_ROWS = (
    ("rmse", "root mean squared error"),
    ("sigma", "root mean predicted variance"),
    ("uce", "UCE"),
    ("ence", "ENCE"),
    ("ks", "KS of the PIT"),
    ("ause", "AUSE"),
    ("ause_random", "AUSE of a random order"),
)
COLOURS = {"as predicted": "#c0392b", "scaled": "#1f6fb2"}


def pair_verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Return what the numbers say, in plain sentences."""
    if metrics.get("dice"):
        return [dice_verdict(metrics["dice"])]
    made, found = metrics["summary"]["translated"]["mask"], []
    error = f"{made['mae']['mean']:.4g} {metrics['units']}" if metrics["units"] else ""
    error = error or f"{made['mae_percent']['mean']:.2f} % of the range"
    text = f"mean error {error}, PSNR {made['psnr_db']['mean']:.2f} dB in the mask"
    source = metrics["summary"].get("source as it is")
    if source is None:
        found.append(Verdict(True, text))
    else:
        gain = made["psnr_db"]["mean"] - source["mask"]["psnr_db"]["mean"]
        found.append(Verdict(gain > 0, f"{text}, {gain:+.2f} dB against the source as it is"))
    found += _uncertainty(metrics.get("calibration"))
    if metrics.get("misalignment"):
        before, after = (metrics["misalignment"][when]["distance_mm"]["mean"] for when in ("before", "after"))
        found.append(Verdict(after < before, f"points are {after:.2f} mm from their place, before {before:.2f} mm"))
    if metrics["seam_ratio"] is not None:
        ratio = metrics["seam_ratio"]
        found.append(Verdict(ratio < 1.1, f"steps at borders of windows are {ratio:.2f} times those elsewhere"))
    return found


def _uncertainty(calibration: Mapping[str, Any] | None) -> list[Verdict]:
    if calibration is None:
        return []
    name = "scaled" if "scaled" in calibration else "as predicted"
    covered, (low, high) = calibration[name]["coverage"]["0.9"], WANTED_COVERAGE
    made = calibration["as predicted"]  # one factor changes no order
    grows = made["ause"] < made["ause_random"]
    order = f"AUSE {made['ause']:.3f}, random {made['ause_random']:.3f}"
    return [
        Verdict(low <= covered <= high, f"{covered:.1%} of the targets lie in the 90 % interval ({name})"),
        Verdict(grows, f"errors {'grow' if grows else 'do not grow'} with sigma ({order})"),
    ]


def pair_report(measured: MeasuredPairs, affine: np.ndarray, run: Path) -> str:
    """Return the report as HTML.

    Args:
        measured: The numbers and pictures.
        affine: Index (d, h, w) to RAS mm ``[4, 4]``, for pictures.
        run: Folder of the run, for its loss curves.
    """
    metrics = measured.metrics
    parts = [_head(metrics), _errors(metrics), _calibration(measured), _worst(measured, affine)]
    losses = figures.losses_png(run / "metrics.jsonl")
    parts += ["" if losses is None else "<h2>Training</h2>" + picture(losses, "loss curves"), _protocol(metrics)]
    head = f'<meta charset="utf-8"><title>hagan3d evaluation</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n{chr(10).join(parts)}\n</html>\n'


def picture(data: bytes, alt: str) -> str:
    """Return a PNG as HTML."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _head(metrics: Mapping[str, Any]) -> str:
    lines = "".join(
        f'<li class="{"good" if verdict.good else "bad"}">{html.escape(verdict.text)}</li>'
        for verdict in pair_verdicts(metrics)
    )
    kind = "" if metrics["degrade"] == "none" else f", simulated sources: {metrics['degrade']}"
    return (
        f"<h1>Translation by {html.escape(metrics['method'])}, step {metrics['step']}</h1><p class=note>"
        f"{html.escape(metrics['run'])}; {metrics['volumes']} held-out volumes of "
        f"{html.escape(metrics['store']['path'])}{kind}; {metrics['split']}.</p><ul>{lines}</ul>"
    )


def _errors(metrics: Mapping[str, Any]) -> str:
    if metrics.get("dice"):
        return dice_table(metrics["dice"])
    units = metrics["units"]
    header = ["", *(f"MAE, {units}" if key == "mae" and units else TITLES[key] for key in MEASURES)]
    rows = [
        [f"{name}, {where}", *(_spread(values[key]) for key in MEASURES)]
        for name, places in metrics["summary"].items()
        for where, values in places.items()
    ]
    note = f"<p class=note>Mask: {html.escape(metrics['mask'])}.</p>"
    return "<h2>Errors</h2>" + table(header, rows) + note + _misalignment(metrics.get("misalignment"))


def _misalignment(found: Mapping[str, Any] | None) -> str:
    """Errors of registrations, before and after."""
    if not found:
        return ""
    rows = [[when, *(_spread(values[key]) for key in MISALIGNMENT)] for when, values in found.items()]
    note = "<p class=note>Mean absolute errors of turns and shifts; mean distance of 9^3 points from their place.</p>"
    return "<h2>Misalignment</h2>" + table(["", *MISALIGNMENT.values()], rows) + note


def dice_verdict(dice: Mapping[str, Mapping[str, float]]) -> Verdict:
    """Return what the overlap of labels says, in one sentence."""
    each = ", ".join(f"{value['mean']:.3f} for label {label}" for label, value in dice.items())
    return Verdict(min(value["mean"] for value in dice.values()) > GOOD_DICE, f"Dice {each}")


def dice_table(dice: Mapping[str, Mapping[str, float]]) -> str:
    """Return the overlap of each label as HTML."""
    rows = [[label, _spread(value), f"{value['least']:.3f}", str(value["volumes"])] for label, value in dice.items()]
    note = "<p class=note>Over volumes in which a label is, or was found; of the others it says nothing.</p>"
    return "<h2>Overlap</h2>" + table(["label", "Dice", "least", "volumes"], rows) + note


def _spread(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.4g} +- {value['deviation']:.2g}"


def _calibration(measured: MeasuredPairs) -> str:
    calibration = measured.metrics.get("calibration")
    if calibration is None:
        return "<h2>Uncertainty</h2><p>This model states none.</p>"
    names = list(measured.calibration)
    rows = [[title, *(f"{calibration[name][key]:.4g}" for name in names)] for key, title in CALIBRATION_ROWS]
    for level in calibration[names[0]]["coverage"]:
        inside = [f"{calibration[name]['coverage'][level]:.1%}" for name in names]
        rows.append([f"coverage of the {float(level):.0%} interval", *inside])
    scales = ", ".join(f"{scale:.3f}" for scale in calibration["scales"])
    text = f"<h2>Uncertainty</h2><p>Factor on sigma: {calibration['scale']:.3f} (fitted: {scales}).</p>"
    text += table(["in the mask", *names], rows)
    text += picture(error_against_sigma_png(measured.calibration), "error against sigma")
    return text + picture(pit_png(measured.calibration), "probability integral transform")


def error_against_sigma_png(found: Mapping[str, Calibration], bins: int = 20) -> bytes:
    """Draw the root mean squared error of bins of equal mass against the sigma that was predicted for them."""

    def draw(figure: Any) -> None:
        axes, ends = figure.subplots(), []
        for name, calibration in found.items():
            _, sigma, error = calibration.groups(bins).T
            axes.plot(sigma, error, marker="o", markersize=3, color=COLOURS[name], label=name, linewidth=1)
            ends += [*sigma, *error]
        axes.plot([0, max(ends)], [0, max(ends)], color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="predicted sigma", ylabel="root mean squared error", xlim=(0, None), ylim=(0, None))
        axes.set_title("errors against sigma, range -1 to 1; dotted: calibrated", fontsize=9)
        axes.legend(frameon=False, fontsize=8)

    return figures.figure_png(draw, 4.6, 3.6)


def pit_png(found: Mapping[str, Calibration], bars: int = 40) -> bytes:
    """Draw how often the predicted CDF at the target took each value."""

    def draw(figure: Any) -> None:
        axes, edges = figure.subplots(), np.linspace(0, 1, bars + 1)
        for name, calibration in found.items():
            share = calibration.pit.reshape(bars, PIT_BINS // bars).sum(1) / calibration.voxels * bars
            axes.stairs(share, edges, color=COLOURS[name], label=name)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="predicted probability of a value below the target", ylabel="density", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)

    return figures.figure_png(draw, 4.6, 3.6)


def _worst(measured: MeasuredPairs, affine: np.ndarray) -> str:
    text = "<h2>Worst cases</h2>" if measured.worst else ""
    for case in measured.worst:
        text += f"<h3>{html.escape(case.id)}</h3>" + picture(_case_png(case, affine), case.id)
    return text


def _case_png(case: Case, affine: np.ndarray) -> bytes:
    """Show a case as cells of three planes side by side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.png"
        contact_sheet(list(case.volumes.values()), np.array([affine] * len(case.volumes)), list(case.volumes), path)
        return path.read_bytes()


def _protocol(metrics: Mapping[str, Any]) -> str:
    notes = (*NOTES, *(PROTOCOL if "calibration" in metrics else ()))
    items = "".join(f"<li>{html.escape(line)}</li>" for line in notes)
    return (
        f"<h2>Protocol {metrics['protocol']}</h2><ul>{items}</ul><p class=note>store "
        f"<code>{metrics['store']['fingerprint']}</code><br>versions "
        f"<code>{html.escape(json.dumps(metrics['versions']))}</code></p>"
    )
