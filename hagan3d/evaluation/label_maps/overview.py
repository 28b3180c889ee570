"""The overview of an evaluation of several channels or with label maps: links to the channels, and the labels."""

import html
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from hagan3d.data.label_maps import label_map_of
from hagan3d.data.pictures import Segmented, label_colour
from hagan3d.evaluation.features.summary import VolumeSet
from hagan3d.evaluation.label_maps.results import ChannelSummary, LabelComparison, Overview
from hagan3d.evaluation.metrics.power import Difference
from hagan3d.evaluation.metrics.registry import metrics, titles
from hagan3d.evaluation.report.figures import sheet_png
from hagan3d.evaluation.report.folder import REPORT
from hagan3d.evaluation.report.page import note, page, picture, table, verdict_list
from hagan3d.evaluation.report.results import FLOOR, GENERATED
from hagan3d.evaluation.report.verdict import Verdict, compared

SETS = ("generated", "held-out", "train")
LABEL_NOTES = (
    "Volumes in ml by the geometry of each real volume; of generated volumes by the mean geometry of training volumes. "
    "Means with their standard errors. Connected components: voxels that share a corner are connected.",
    "Distances: 1D Wasserstein; of volumes in standard deviations over training volumes; errors by bootstrap over "
    "subjects. Last column: the real-vs-real floor. Dice of disjoint random pairs, without pairs that both lack the "
    "label; higher than between real volumes: too little variety.",
)


def channel_summary(name: str, folder: str, results: Mapping[str, Any]) -> ChannelSummary:
    """Return the main numbers of a channel from its metrics.json."""
    extractor, columns = next(iter(results["features"].items()))
    values = {
        one.key: (float(columns[GENERATED][one.key]["value"]), float(columns[FLOOR][one.key]["value"]))
        for one in metrics("features")
        if one.in_verdict != "no"
    }
    variety = next(row["ratio"] for row in results["variety"]["generated"] if row["voxels"])
    return ChannelSummary(name, folder, extractor, values, float(variety), Verdict(**results["verdicts"][0]))


def label_verdicts(labels: Sequence[LabelComparison], subjects: Mapping[str, int]) -> list[Verdict]:
    """Return a verdict per label: whether its volumes are as far from held-out ones as training volumes are.

    Args:
        labels: The comparisons.
        subjects: Number of subjects of each set, by name.
    """
    found, least = [], min(subjects.values())
    for label in labels:
        group = [
            Difference.of(one, label.distances[GENERATED][one.key], label.distances[FLOOR][one.key], least)
            for one in metrics("labels")
            if one.in_verdict == "decides"
        ]
        one, real = (label.sets[name] for name in ("generated", "held-out"))
        title = (
            f"label {label.name}, {one.mean_ml.value:.3g} +- {one.deviation_ml:.2g} ml (held-out "
            f"{real.mean_ml.value:.3g} +- {real.deviation_ml:.2g})"
        )
        found.append(compared(title, group, subjects))
    return found


def overview_page(overview: Overview, sets: Mapping[str, VolumeSet], affine: np.ndarray, shown: int) -> str:
    """Return the overview as HTML.

    Args:
        overview: The results.
        sets: The sets of volumes, for pictures.
        affine: Index (d, h, w) to RAS mm ``[4, 4]``, for pictures.
        shown: Volumes per set in pictures.
    """
    origin = overview.origin
    head = (
        f"<h1>Evaluation of a generative model</h1><p>{html.escape(origin.run['checkpoint'])}, step "
        f"{origin.run['step']}: {origin.volumes['generated']} generated volumes compared with "
        f"{origin.volumes['held-out']} held-out and {origin.volumes['train']} training volumes of "
        f"{html.escape(origin.store['name'])}. Protocol {origin.protocol}.</p>"
    )
    verdicts = verdict_list(label_verdicts(overview.labels, origin.subjects))
    return page([head, verdicts, _channels(overview.channels), _labels(overview, sets, affine, shown)])


def _channels(channels: Sequence[ChannelSummary]) -> str:
    """Links to the reports of the channels with their overall verdicts, and their main numbers."""
    links = "".join(
        f'<li><a href="{quote(one.folder)}/{REPORT}">{html.escape(one.name)}</a>: '
        f'<span class="{one.verdict.state}">{html.escape(one.verdict.text)}</span></li>'
        for one in channels
    )
    names = titles("features")
    rows = [
        [
            one.name,
            one.extractor,
            *(f"{value:.3g} ({floor:.2g})" for value, floor in one.metrics.values()),
            f"{one.variety:.3f}",
        ]
        for one in channels
    ]
    header = ["channel", "features", *(f"{names[key]} (floor)" for key in channels[0].metrics), "variety"]
    return f"<h2>Image channels</h2><ul>{links}</ul>{table(header, rows)}"


def _labels(overview: Overview, sets: Mapping[str, VolumeSet], affine: np.ndarray, shown: int) -> str:
    """Tables of every label, and label maps of real and generated volumes."""
    if not overview.labels:
        return ""
    legend = ", ".join(
        f'<span style="color: rgb{label_colour(number)}">&#9632;</span> {html.escape(label.name)}'
        for number, label in enumerate(overview.labels, 1)
    )
    groups = {
        title: [
            Segmented(x[0], label_map_of(x, len(overview.channels)))
            for x in sets[name].volumes(range(min(shown, sets[name].count)))
        ]
        for name, title in (("held-out", "real, held-out"), ("generated", "generated"))
    }
    text = f"<h2>Label maps</h2><p>{legend}; on {html.escape(overview.channels[0].name)}.</p>"
    text += picture(sheet_png(groups, affine), "labels of real above those of generated volumes")
    return text + "".join(map(note, LABEL_NOTES)) + "".join(map(_label, overview.labels))


def _label(label: LabelComparison) -> str:
    """Tables of one label: its statistics in each set, and the distances between sets."""
    sets = [label.sets[name] for name in SETS]
    rows = [
        ["volume, ml", *(str(one.mean_ml) for one in sets)],
        ["standard deviation of the volume, ml", *(f"{one.deviation_ml:.4g}" for one in sets)],
        ["share of volumes without it", *(str(one.absent) for one in sets)],
        ["connected components", *(str(one.components) for one in sets)],
        ["Dice of two volumes", *(str(one.pair_dice or "-") for one in sets)],
    ]
    distances = [
        [title, *(str(values[key]) for values in label.distances.values())] for key, title in titles("labels").items()
    ]
    text = f"<h3>{html.escape(label.name)}</h3>{table(['', *SETS], rows)}{table(['', *label.distances], distances)}"
    if label.reconstruction_dice is None:
        return text
    return text + f"<p>Dice of reconstructions of held-out volumes: {label.reconstruction_dice}.</p>"
