"""The report of an evaluated run: one HTML file with embedded pictures."""

import html
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hagan3d.config import Size
from hagan3d.evaluation.features.summary import FEATURES, ssim_settings
from hagan3d.evaluation.metrics.classes import ClassScores
from hagan3d.evaluation.metrics.estimate import Estimate
from hagan3d.evaluation.metrics.power import FALSE_ALARM, MISSED
from hagan3d.evaluation.metrics.registry import titles
from hagan3d.evaluation.report import figures
from hagan3d.evaluation.report.audit_section import audit_section
from hagan3d.evaluation.report.page import bullets, note, page, picture, table, verdict_list
from hagan3d.evaluation.report.results import COLUMNS, EvaluatedRun, Evaluation, Origin
from hagan3d.evaluation.report.verdict import SLICES, TEXTURE, differences, verdicts

RECONSTRUCTION_TITLES = (
    ("mae", "mean absolute error, range -1 to 1"),
    ("psnr_db", "PSNR, dB"),
    ("ms_ssim", "MS-SSIM"),
    ("mae_of_mean", "for comparison: mean absolute error of the mean training volume"),
)


POWER_HEADER = ("metric", "generated", "floor", "excess", "detectable", "matters", "")


def report(run: EvaluatedRun, affine: np.ndarray, folder: Path, shown: int) -> str:
    """Return the report as HTML.

    Args:
        run: The results, and the sets for pictures.
        affine: Index (d, h, w) to RAS mm ``[4, 4]``, for pictures.
        folder: Folder of the run, for its loss curves.
        shown: Volumes per set in pictures.
    """
    results = run.results
    return page(
        [
            _head(results.origin),
            _verdicts(results),
            _contact_sheets(run, affine, shown),
            _texture(run),
            _power(results),
            *(_features(results, name) for name in results.features),
            _classes(results.classes),
            _voxels(results),
            _variety(run, affine),
            _embedding(run),
            _nearest(run, affine, shown),
            audit_section(run, affine),
            _slices(run),
            _geometry(results),
            _reconstruction(results),
            _losses(folder),
            _protocol(results, run.sets["train"].size),
        ]
    )


def _head(origin: Origin) -> str:
    volumes = origin.volumes
    channel = f", channel {html.escape(origin.settings.channel)}" if origin.settings.channel else ""
    return (
        f"<h1>Evaluation of a generative model{channel}</h1><p>{html.escape(origin.run['checkpoint'])}, step "
        f"{origin.run['step']}: {volumes['generated']} generated volumes compared with {volumes['held-out']} "
        f"held-out and {volumes['train']} training volumes of {html.escape(origin.store['name'])}. "
        f"Protocol {origin.protocol}.</p>"
    )


def _verdicts(results: Evaluation) -> str:
    return verdict_list(verdicts(results)) + "".join(note(text) for text in results.warnings)


def _contact_sheets(run: EvaluatedRun, affine: np.ndarray, shown: int) -> str:
    groups = {
        title: run.images(name, range(min(shown, run.sets[name].count)))
        for name, title in (("held-out", "real, held-out"), ("generated", "generated"))
    }
    return "<h2>Real and generated</h2>" + picture(figures.sheet_png(groups, affine), "real above generated volumes")


def _texture(run: EvaluatedRun) -> str:
    text = "<h2>Sharpness and texture</h2>" + _estimates("texture", run.results.texture)
    text += note(
        "High-frequency power: above 0.25 cycles per voxel (dotted), structures below 4 voxels; positive: blurred, "
        "negative: noisy or too rough. Gradient magnitudes in octaves (1: a factor of two), local entropy of 4^3 "
        "blocks in bits. Last column: the real-vs-real floor. Picture: means, and bands that hold 90 % of the volumes."
    )
    return text + picture(figures.texture_png(run.summaries), "power spectra, gradient magnitudes, local entropy")


def _power(results: Evaluation) -> str:
    """Which difference could have been seen, for each metric that decides."""
    states = {"good": "no difference found", "unclear": "cannot tell", "bad": "different"}
    rows = [
        [
            ("" if title in (TEXTURE, SLICES) else f"{title}: ") + ", ".join(filter(None, (one.title, one.unit))),
            *(f"{value:.3g}" for value in (one.value.value, one.floor.value, one.excess, one.detectable, one.matters)),
            states[one.state],
        ]
        for title, group in differences(results).items()
        for one in group.values()
    ]
    least = min(results.origin.subjects.values())
    text = "<h2>What could have been seen</h2>" + table(POWER_HEADER, rows)
    return text + note(
        f"Excess: by how much generated volumes are worse than the floor. Different: by t quantiles of {least - 1} "
        f"degrees of freedom, with one false alarm in {1 / FALSE_ALARM:.0f}. Detectable: the excess that is found "
        f"in {1 - MISSED:.0%} of repetitions with these numbers of subjects. Where it is above the one that matters, "
        "and no difference was found, the data cannot tell."
    )


def _features(results: Evaluation, name: str) -> str:
    columns = results.features[name]
    extractor = next(one for one in results.origin.extractors if one.name == name)
    units = "in units of their standard deviation over training volumes; " if extractor.rescale else ""
    text = f"<h2>Distances in the features '{html.escape(name)}'</h2>"
    text += note(f"{extractor.dim} features per volume; {units}{extractor.note}. Last column: the real-vs-real floor.")
    text += _estimates("features", {column: columns[column].estimates for column in COLUMNS})
    warnings = [note(f"{column}: {line}") for column in COLUMNS for line in columns[column].warnings]
    return text + "".join(warnings)


def _voxels(results: Evaluation) -> str:
    return "<h2>Distances of voxel statistics</h2>" + _estimates("voxels", results.voxels)


def _estimates(needs: str, columns: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A table of all registered metrics of one kind of input."""
    rows = [[title, *(str(values[key]) for values in columns.values())] for key, title in titles(needs).items()]
    return table(["", *columns], rows)


def _classes(scores: ClassScores | None) -> str:
    if scores is None:
        return ""
    names = [name for name in ("generated", "held-out", "train") if name in scores.sets]
    rows = [
        ["inception score", *(str(scores.sets[name].inception_score) for name in names)],
        ["classified as their class", *(str(scores.sets[name].accuracy or "-") for name in names)],
    ]
    text = f"By a classifier of {scores.num_classes} classes, trained on the features of the training volumes; "
    return "<h2>Classes</h2>" + note(text + "held-out volumes are the floor.") + table(["", *names], rows)


def _variety(run: EvaluatedRun, affine: np.ndarray) -> str:
    variety, diversity = run.results.variety, run.results.diversity
    rows = []
    for pair in zip(variety["generated"], variety["held-out"], strict=True):
        label = "full" if pair[0].voxels == 0 else f"{pair[0].voxels}^3"
        cells = [f"{row.ratio:.3f}" + (f" +- {row.error:.2g}" if row.error else "") for row in pair]
        rows.append([label, *cells])
    similar = [one.estimate if one else "-" for one in (diversity.generated, diversity.real)]
    text = "<h2>Variety</h2><p>Standard deviation of voxels over volumes, relative to that of training volumes.</p>"
    text += table(["resolution", "generated", "held-out (the floor)"], rows)
    text += f"<p>MS-SSIM between generated volumes {similar[0]}, between training volumes {similar[1]}; "
    text += "higher than between training volumes: too little variety.</p>"
    text += picture(figures.variety_png(variety), "variety against resolution")
    return text + picture(figures.deviation_png(run.summaries, affine), "standard deviation of every voxel")


def _embedding(run: EvaluatedRun) -> str:
    name = run.results.origin.extractors[0].name
    return "<h2>Embedding of the features</h2>" + picture(figures.embedding_png(run.summaries, name), "embedding")


def _nearest(run: EvaluatedRun, affine: np.ndarray, shown: int) -> str:
    name = run.results.origin.extractors[0].name
    rows = {key: summary[FEATURES + name] for key, summary in run.summaries.items()}
    generated = rows["generated"][:shown]
    groups = {"generated": run.images("generated", range(len(generated)))}
    lines = []
    for key in ("train", "held-out"):
        indices, distances = figures.nearest(generated, rows[key])
        groups[f"nearest real volume, {key}"] = run.images(key, indices.tolist())
        lines.append([key, *(f"{distance:.3g}" for distance in distances)])
    text = "<h2>Nearest real neighbours</h2>"
    text += f"<p>One column per generated volume, in the features '{html.escape(name)}'.</p>"
    header = ["distance to", *(str(i + 1) for i in range(len(generated)))]
    return text + picture(figures.sheet_png(groups, affine), "nearest neighbours") + table(header, lines)


def _slices(run: EvaluatedRun) -> str:
    coverage, seams = run.results.coverage, run.results.seams
    text = (
        f"<h2>Intensities, slices and seams</h2><p>{coverage.share:.0%} of the slices are covered (by training "
        f"volumes: {run.results.coverage_floor:.0%}): the slice means of at least 80% of the held-out volumes are "
        f"within the range of the generated volumes. Least covered: slice {coverage.worst}, with "
        f"{coverage.worst_share:.0%} of the held-out volumes.</p>"
    )
    if seams is None:
        text += "<p>One window is the whole volume: there are no seams.</p>"
    else:
        text += (
            f"<p>Intensity steps across window borders relative to steps elsewhere: generated {seams.generated:.3f}, "
            f"real {seams.real:.3f}; ratio {seams.ratio} (1: no seams).</p>"
        )
    text += picture(figures.histogram_png(run.summaries), "histograms of intensity")
    return text + picture(figures.slices_png(run.summaries), "mean intensity of slices")


def _geometry(results: Evaluation) -> str:
    rows = [[row.check, "ok" if row.ok else "WRONG", row.found] for row in results.geometry]
    return "<h2>Geometry</h2>" + table(["check", "", "value"], rows)


def _reconstruction(results: Evaluation) -> str:
    errors = results.reconstruction
    if errors is None:
        return ""
    values = [(title, getattr(errors, key)) for key, title in RECONSTRUCTION_TITLES]
    rows = [[title, f"{value:.4g}"] for title, value in values if value is not None]
    return f"<h2>Reconstruction of held-out volumes ({errors.volumes})</h2>" + table(["", ""], rows)


def _losses(folder: Path) -> str:
    data = figures.losses_png(folder / "metrics.jsonl")
    return "" if data is None else "<h2>Training</h2>" + picture(data, "loss curves")


def _protocol(results: Evaluation, size: Size) -> str:
    origin, fidelity = results.origin, results.fidelity
    ssim = ssim_settings(size)
    check = fidelity
    if not isinstance(fidelity, str):
        check = (
            f"generated vs held-out in '{origin.extractors[0].name}': FID {fidelity.fid:.6g}, KID "
            f"{fidelity.kid_mean:.6g}, precision {fidelity.precision:.4g}, recall {fidelity.recall:.4g}"
        )
    lines = [
        "KID: unbiased, polynomial kernel (x.y / dim + 1)^3, all pairs.",
        "MMD: unbiased, mean of five RBF kernels; bandwidths 1/4, 1/2, 1, 2 and 4 median distances of the reference.",
        "FID, shrunk covariance: Ledoit-Wolf; biased upwards for small sets.",
        f"Precision and recall: {origin.settings.neighbours} nearest neighbours.",
        f"MS-SSIM: Gaussian window of {ssim['kernel_size']}, {len(ssim['weights'])} scales, disjoint random pairs.",
        "2.5D FID: mean, standard deviation, steps and quarter means of eight slices in each of three planes.",
        "Spectra: mean squared Fourier coefficients of at most 64 x 64 lines per axis or 32 slices, Hann window.",
        "Gradients: forward differences in [-1, 1] per voxel, at least 1/64. Local entropy: 32 grey levels.",
        "Errors of KID and MMD: jackknife over subjects; of variety and seams: sandwich estimator over subjects; of "
        "precision and recall: binomial; others by bootstrap over subjects. MS-SSIM: of x + 1, data range 2.",
        "Intervals: 1.96 standard errors on each side. The floor: training volumes compared with held-out ones.",
        "Real volumes in a random order that the seed determines; nothing was downloaded.",
    ]
    weights = "".join(f"<li>{html.escape(e.name)}: <code>{e.sha256}</code></li>" for e in origin.extractors)
    values = origin.to_dict()
    return (
        f"<h2>Protocol {origin.protocol}</h2>{bullets(lines)}<p>By torch-fidelity, for comparison: "
        f"{html.escape(str(check))}.</p><p>SHA-256 of the extractors:</p><ul>{weights}</ul>"
        f"<p class=note>store <code>{origin.store['fingerprint']}</code><br>"
        f"settings <code>{html.escape(json.dumps(values['settings']))}</code><br>"
        f"versions <code>{html.escape(json.dumps(origin.versions))}</code></p>"
    )
