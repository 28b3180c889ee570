"""The report of a translating run: one HTML file with embedded pictures."""

import html
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hagan3d.data.pictures import contact_sheet
from hagan3d.evaluation.metrics.registry import Metric, badness, metrics, titles
from hagan3d.evaluation.report import figures
from hagan3d.evaluation.report.page import bullets, note, page, picture, table, verdict_list
from hagan3d.evaluation.report.verdict import Verdict
from hagan3d.evaluation.translation.calibration import CALIBRATION_NOTES, PIT_BINS, Calibration
from hagan3d.evaluation.translation.registration import TITLES as MISALIGNMENT
from hagan3d.evaluation.translation.results import (
    SOURCE,
    TRANSLATED,
    ChannelEvaluation,
    EvaluatedPairs,
    LabelDice,
    PairEvaluation,
    ShownCase,
    Spread,
)

GOOD_DICE = 0.7  # threshold of a good overlap
COVERAGE_RANGE = (0.85, 0.95)  # accepted coverage of the 90 % interval
VISIBLE_SEAM = 1.1  # ratio of steps at window borders to steps elsewhere
NOTES = (
    "MAE in intensity units of the target; where volumes have their own intensity windows, by that of the target.",
    "PSNR: data range 2, that of [-1, 1]. NMSE: sum of squared errors over that of x + 1.",
    "SSIM: MONAI, Gaussian window of 11 voxels and standard deviation 1.5, valid convolution, on x + 1, data range 2.",
    "Predictions are clamped to [-1, 1] for the errors, but not for calibration.",
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


def pair_verdicts(results: PairEvaluation) -> list[Verdict]:
    """Return the verdicts on errors, uncertainty, registration and seams; of label maps on their overlap."""
    overlap = [dice_verdict(results.dice)] if results.dice else []
    if results.is_label_map:
        return overlap
    found = [
        replace(verdict, text=f"{name}: {verdict.text}") if len(results.channels) > 1 else verdict
        for name, channel in results.channels.items()
        for verdict in _channel_verdicts(channel)
    ]
    if results.misalignment:
        before, after = (results.misalignment[when]["distance_mm"].mean for when in ("before", "after"))
        found.append(Verdict.of(after < before, f"mean registration error {after:.2f} mm, before {before:.2f} mm"))
    return found + overlap


def _channel_verdicts(channel: ChannelEvaluation) -> list[Verdict]:
    """Return the verdicts on one target channel."""
    found = [_error_verdict(channel), *_uncertainty(channel.calibration)]
    if channel.seam_ratio is not None:
        text = f"intensity steps at window borders are {channel.seam_ratio:.2f} times those elsewhere"
        found.append(Verdict.of(channel.seam_ratio < VISIBLE_SEAM, text))
    return found


def _error_verdict(channel: ChannelEvaluation) -> Verdict:
    """Errors in the mask; good if the deciding metrics improve on the degraded source, where that is comparable."""
    translated = channel.summary[TRANSLATED]["mask"]
    source = channel.summary.get(SOURCE, {}).get("mask")
    good, parts = True, []
    for one in metrics("pair"):
        if one.in_verdict == "no":
            continue
        unit = _unit(one, channel.units)
        part = f"{one.title} {translated[one.key].mean:.4g} {unit}".strip()
        if source is not None and one.in_verdict == "decides":
            before, after = source[one.key].mean, translated[one.key].mean
            gain = after - before
            good = good and badness(after, one.better) < badness(before, one.better)
            part += f" ({gain:+.2f} {unit} against the source)"
        parts.append(part)
    return Verdict.of(good, f"in the mask: {', '.join(parts)}")


def _unit(one: Metric, units: str) -> str:
    return (units or "intensity units") if one.unit == "intensity" else one.unit


def _uncertainty(calibration: Mapping[str, Any] | None) -> list[Verdict]:
    if calibration is None:
        return []
    name = "scaled" if "scaled" in calibration else "as predicted"
    covered, (low, high) = calibration[name]["coverage"]["0.9"], COVERAGE_RANGE
    plain = calibration["as predicted"]  # a global scale does not change the order of the voxels
    grows = plain["ause"] < plain["ause_random"]
    order = f"AUSE {plain['ause']:.3f}, random {plain['ause_random']:.3f}"
    return [
        Verdict.of(low <= covered <= high, f"coverage of the 90 % interval: {covered:.1%} of the targets ({name})"),
        Verdict.of(grows, f"errors {'increase' if grows else 'do not increase'} with predicted sigma ({order})"),
    ]


def pair_report(evaluated: EvaluatedPairs, affine: np.ndarray, folder: Path) -> str:
    """Return the report as HTML.

    Args:
        evaluated: Results and pictures.
        affine: Index (d, h, w) to RAS mm ``[4, 4]``, for pictures.
        folder: Folder of the run, for its loss curves.
    """
    losses = figures.losses_png(folder / "metrics.jsonl")
    return page(
        [
            _head(evaluated.results),
            _errors(evaluated.results),
            _calibration(evaluated),
            _worst(evaluated, affine),
            "" if losses is None else "<h2>Training</h2>" + picture(losses, "loss curves"),
            _protocol(evaluated.results),
        ]
    )


def _head(results: PairEvaluation) -> str:
    origin = results.origin
    kind = "" if origin["degrade"] == "none" else f", simulated degradation: {origin['degrade']}"
    kind += "" if origin["passes"] == "one" else f"; mean of {origin['passes']}"
    return (
        f"<h1>Translation by {html.escape(origin['method'])}, step {origin['step']}</h1><p class=note>"
        f"{html.escape(origin['run'])}; {len(results.rows)} held-out volumes of "
        f"{html.escape(origin['store']['path'])}{kind}; {html.escape(origin['split'])}.</p>"
        f"{verdict_list(pair_verdicts(results))}"
    )


def _errors(results: PairEvaluation) -> str:
    overlap = dice_table(results.dice) if results.dice else ""
    if results.is_label_map:
        return overlap
    tables = "".join(_heading(name, results) + _error_table(channel) for name, channel in results.channels.items())
    mask = note(f"Mask: {results.mask}.")
    return "<h2>Errors</h2>" + tables + mask + overlap + _misalignment(results.misalignment)


def _heading(name: str, results: PairEvaluation) -> str:
    """Return the name of a target channel as a heading, if there are several."""
    return f"<h3>{html.escape(name)}</h3>" if len(results.channels) > 1 else ""


def _error_table(channel: ChannelEvaluation) -> str:
    names = titles("pair")
    units = channel.units or "intensity units"
    rows = [
        [f"{name}, {where}", *(str(values[key]) for key in names)]
        for name, regions in channel.summary.items()
        for where, values in regions.items()
    ]
    return table(["", *(title.replace("intensity", units) for title in names.values())], rows)


def _misalignment(rows: Mapping[str, Mapping[str, Spread]] | None) -> str:
    """Errors before and after registration."""
    if not rows:
        return ""
    lines = [[when, *(str(values[key]) for key in MISALIGNMENT)] for when, values in rows.items()]
    text = note(
        "Mean absolute errors of rotations and translations; mean distance of 9^3 points to their true positions."
    )
    return "<h2>Misalignment</h2>" + table(["", *MISALIGNMENT.values()], lines) + text


def dice_verdict(dice: Mapping[str, LabelDice]) -> Verdict:
    """Return the verdict on the overlap of labels."""
    each = ", ".join(f"{value.mean:.3f} for label {label}" for label, value in dice.items())
    return Verdict.of(min(value.mean for value in dice.values()) > GOOD_DICE, f"Dice {each}")


def dice_table(dice: Mapping[str, LabelDice]) -> str:
    """Return the overlap of each label as HTML."""
    rows = [
        [label, str(Spread(one.mean, one.deviation, one.volumes)), f"{one.least:.3f}", str(one.volumes)]
        for label, one in dice.items()
    ]
    text = note("Over volumes whose target or prediction contains the label.")
    return "<h2>Overlap</h2>" + table(["label", "Dice", "minimum", "volumes"], rows) + text


def _calibration(evaluated: EvaluatedPairs) -> str:
    results, text = evaluated.results, "<h2>Uncertainty</h2>"
    if not evaluated.calibration:
        return text + "<p>This model predicts no uncertainty.</p>"
    for name, channel in results.channels.items():
        if channel.calibration is None:
            text += _heading(name, results) + note("No voxel lies inside the masks.")
            continue
        text += _heading(name, results) + _channel_calibration(channel, evaluated.calibration[name])
    return text


def _channel_calibration(channel: ChannelEvaluation, accumulated: Mapping[str, Calibration]) -> str:
    calibration, names = channel.calibration, list(accumulated)
    assert calibration is not None
    rows = [[title, *(f"{calibration[name][key]:.4g}" for name in names)] for key, title in CALIBRATION_ROWS]
    for level in calibration[names[0]]["coverage"]:
        inside = [f"{calibration[name]['coverage'][level]:.1%}" for name in names]
        rows.append([f"coverage of the {float(level):.0%} interval", *inside])
    scales = ", ".join(f"{scale:.3f}" for scale in calibration["scales"])
    text = f"<p>Scale of sigma: {calibration['scale']:.3f} (fitted: {scales}).</p>"
    text += table(["in the mask", *names], rows)
    text += picture(error_against_sigma_png(accumulated), "error against sigma")
    return text + picture(pit_png(accumulated), "probability integral transform")


def error_against_sigma_png(calibrations: Mapping[str, Calibration], bins: int = 20) -> bytes:
    """Draw the root mean squared error of bins of equal mass against their predicted sigma."""

    def draw(figure: Any) -> None:
        axes, ends = figure.subplots(), []
        for name, calibration in calibrations.items():
            _, sigma, error = calibration.groups(bins).T
            axes.plot(sigma, error, marker="o", markersize=3, color=COLOURS[name], label=name, linewidth=1)
            ends += [*sigma, *error]
        axes.plot([0, max(ends)], [0, max(ends)], color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="predicted sigma", ylabel="root mean squared error", xlim=(0, None), ylim=(0, None))
        axes.set_title("error against sigma, range -1 to 1; dotted: calibrated", fontsize=9)
        axes.legend(frameon=False, fontsize=8)

    return figures.figure_png(draw, 4.6, 3.6)


def pit_png(calibrations: Mapping[str, Calibration], bars: int = 40) -> bytes:
    """Draw the histogram of the probability integral transform (PIT): the predicted CDF at the target."""

    def draw(figure: Any) -> None:
        axes, edges = figure.subplots(), np.linspace(0, 1, bars + 1)
        for name, calibration in calibrations.items():
            share = calibration.pit.reshape(bars, PIT_BINS // bars).sum(1) / calibration.voxels * bars
            axes.stairs(share, edges, color=COLOURS[name], label=name)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="predicted CDF at the target", ylabel="density", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)

    return figures.figure_png(draw, 4.6, 3.6)


def _worst(evaluated: EvaluatedPairs, affine: np.ndarray) -> str:
    text = "<h2>Worst cases</h2>" if evaluated.worst else ""
    for case in evaluated.worst:
        text += f"<h3>{html.escape(case.id)}</h3>" + picture(_case_png(case, affine), case.id)
    return text


def _case_png(case: ShownCase, affine: np.ndarray) -> bytes:
    """Draw a case as cells of three planes side by side."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.png"
        contact_sheet(list(case.volumes.values()), np.array([affine] * len(case.volumes)), list(case.volumes), path)
        return path.read_bytes()


def _protocol(results: PairEvaluation) -> str:
    has_uncertainty = any(channel.calibration is not None for channel in results.channels.values())
    origin, lines = results.origin, [*NOTES, *(CALIBRATION_NOTES if has_uncertainty else ())]
    return (
        f"<h2>Protocol {origin['protocol']}</h2>{bullets(lines)}<p class=note>store "
        f"<code>{origin['store']['fingerprint']}</code><br>versions "
        f"<code>{html.escape(json.dumps(origin['versions']))}</code></p>"
    )
