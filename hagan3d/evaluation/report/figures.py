"""Pictures of a report, as PNG bytes."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from hagan3d.data.pictures import comparison_sheet
from hagan3d.evaluation.features.summary import BINS, FEATURES, MOST_FULL, Summary
from hagan3d.evaluation.features.texture import (
    ENTROPY_BINS,
    GRADIENT_BINS,
    GREY_LEVELS,
    HIGH_FREQUENCY,
    LEAST_GRADIENT,
    OCTAVES,
    SPECTRA,
    band_middles,
)
from hagan3d.evaluation.metrics.estimate import NORMAL_95
from hagan3d.evaluation.metrics.voxels import Variety

COLOURS = {"generated": "#c0392b", "held-out": "#1f6fb2", "train": "#7f8c8d"}
MOST_POINTS = 150  # of each set in the embedding
ELLIPSE = 2.0  # standard deviations


def embedding(points: np.ndarray, dimensions: int = 2) -> np.ndarray:
    """Embed points ``[N, dim]`` in few dimensions by classical multidimensional scaling (MDS).

    From the eigenvectors of the doubly centred matrix of squared distances. The sign of each axis is that of its
    largest entry.

    Source: Torgerson, Psychometrika 17, 1952.
    """
    squared = cdist(points, points, "sqeuclidean")
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimensions)])
    return vectors * np.sqrt(values.clip(0))


def figure_png(draw: Callable[[Any], None], width: float = 6.0, height: float = 3.6) -> bytes:
    """Draw on a matplotlib figure (size in inches) and return it as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def embedding_png(summaries: Mapping[str, Summary], name: str) -> bytes:
    """Draw the embedding of real and generated features, with an ellipse of two standard deviations around each set."""
    from matplotlib.patches import Ellipse

    rows = {key: summaries[key][FEATURES + name][:MOST_POINTS] for key in ("train", "held-out", "generated")}
    placed = np.split(embedding(np.concatenate(list(rows.values()))), np.cumsum([len(v) for v in rows.values()])[:-1])

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for key, xy in zip(rows, placed, strict=True):
            axes.scatter(*xy.T, s=10, alpha=0.6, color=COLOURS[key], label=f"{key} ({len(xy)})", linewidths=0)
            values, vectors = np.linalg.eigh(np.cov(xy.T))
            width, height = 2 * ELLIPSE * np.sqrt(values.clip(0))
            angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
            axes.add_patch(Ellipse(xy.mean(axis=0), width, height, angle=angle, fill=False, color=COLOURS[key]))
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[], title=f"features '{name}', classical MDS; ellipses: 2 standard deviations")
        axes.legend(frameon=False, fontsize=8)

    return figure_png(draw, 6.0, 4.6)


def histogram_png(summaries: Mapping[str, Summary]) -> bytes:
    """Draw the intensity histograms of all sets."""
    middles = (np.arange(BINS) + 0.5) * 2 / BINS - 1

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for key, summary in summaries.items():
            axes.plot(middles, summary["histogram"].mean(axis=0), color=COLOURS[key], label=key, linewidth=1.2)
        axes.set(xlabel="intensity, -1 to 1", ylabel="share of voxels", yscale="log")
        axes.legend(frameon=False, fontsize=8)

    return figure_png(draw)


def slices_png(summaries: Mapping[str, Summary]) -> bytes:
    """Draw the mean intensity of each slice with its standard deviation over volumes."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for key in ("held-out", "generated"):
            rows = summaries[key]["slice_mean"]
            mean, deviation, number = rows.mean(axis=0), rows.std(axis=0), np.arange(rows.shape[1])
            axes.plot(number, mean, color=COLOURS[key], label=key)
            axes.fill_between(number, mean - deviation, mean + deviation, color=COLOURS[key], alpha=0.2, linewidth=0)
        axes.set(xlabel="slice along D", ylabel="mean intensity, +- 1 standard deviation")
        axes.legend(frameon=False, fontsize=8)

    return figure_png(draw)


def texture_png(summaries: Mapping[str, Summary]) -> bytes:
    """Draw power spectra, gradient magnitudes and local entropy of all sets: means, and bands of 90 % of volumes."""
    magnitude = LEAST_GRADIENT * 2 ** ((np.arange(GRADIENT_BINS) + 0.5) * OCTAVES / GRADIENT_BINS)
    entropy = (np.arange(ENTROPY_BINS) + 0.5) * np.log2(GREY_LEVELS) / ENTROPY_BINS
    panels: list[tuple[str, np.ndarray, str, Any]] = [
        *((f"power spectrum, {name}", band_middles(), "spectra", i) for i, name in enumerate(SPECTRA)),
        ("gradient magnitude", magnitude, "gradient_magnitude", slice(None)),
        ("local entropy", entropy, "local_entropy", slice(None)),
    ]

    def draw(figure: Any) -> None:
        for axes, (title, x, key, row) in zip(figure.subplots(2, 3).ravel(), panels, strict=True):
            for name in ("train", "held-out", "generated"):
                values = summaries[name][key][:, row]
                low, high = np.quantile(values, (0.05, 0.95), axis=0)
                axes.plot(x, values.mean(axis=0), color=COLOURS[name], label=name, linewidth=1.2)
                axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=7)
            if key == "spectra":
                axes.set(yscale="log", xlabel="cycles per voxel")
                axes.axvline(HIGH_FREQUENCY, color="black", linewidth=0.8, linestyle=":")
            elif key == "gradient_magnitude":
                axes.set(xscale="log", ylim=(0, None), xlabel="per voxel, range -1 to 1", ylabel="share of voxels")
            else:
                axes.set(ylim=(0, None), xlabel="bits", ylabel="share of 4^3 blocks")
        figure.axes[0].legend(frameon=False, fontsize=7)

    return figure_png(draw, 9.0, 5.2)


def variety_png(variety: Mapping[str, Sequence[Variety]]) -> bytes:
    """Draw variety against resolution."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for key, rows in variety.items():
            labels = ["full" if row.voxels == 0 else f"{row.voxels}^3" for row in rows]
            ratios, errors = [row.ratio for row in rows], [NORMAL_95 * (row.error or 0.0) for row in rows]
            axes.errorbar(labels, ratios, errors, color=COLOURS[key], label=key, marker="o", capsize=3)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(ylim=(0, None), xlabel="resolution", ylabel="variety (training volumes: 1)")
        axes.legend(frameon=False, fontsize=8)

    return figure_png(draw)


def losses_png(path: Path) -> bytes | None:
    """Draw the loss curves of a metrics.jsonl; None without the file."""
    if not path.is_file():
        return None
    rows = list(_complete_rows(path))
    names = sorted({name for row in rows for name, value in row.items() if "/" in name and isinstance(value, float)})
    groups = sorted({name.split("/")[0] for name in names})
    if not groups:
        return None

    def draw(figure: Any) -> None:
        for axes, group in zip(np.atleast_1d(figure.subplots(1, len(groups))), groups, strict=True):
            for name in (name for name in names if name.split("/")[0] == group):
                points = [(row["step"], row[name]) for row in rows if name in row]
                axes.plot(*zip(*points, strict=True), linewidth=0.8, label=name.split("/", 1)[1])
            axes.set(title=group, xlabel="step")
            axes.legend(frameon=False, fontsize=6)

    return figure_png(draw, 3.0 * len(groups), 2.8)


def _complete_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics.jsonl; one may be truncated, after a kill or while a training writes it."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                yield row


def sheet_png(groups: Mapping[str, Sequence[Any]], affine: np.ndarray) -> bytes:
    """Draw volumes ``[D, H, W]`` or `Segmented` ones side by side, one block of three planes per group."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sheet.png"
        comparison_sheet(groups, affine, path)
        return path.read_bytes()


def deviation_png(summaries: Mapping[str, Summary], affine: np.ndarray) -> bytes | None:
    """Draw the standard deviation of every voxel over the volumes of each set, on one grey scale; None if too large."""
    maps = {}
    for key in ("train", "held-out", "generated"):
        total, n = summaries[key]["total"], len(summaries[key]["small"])
        if not 0 < total.size <= MOST_FULL:
            return None
        variance = (summaries[key]["total_square"] - total**2 / n) / (n - 1)
        maps[key] = np.sqrt(variance.clip(0))
    white = max(float(np.quantile(maps["train"], 0.999)), 1e-6)
    shown = [(values / white * 2 - 1).clip(-1, 1) for values in maps.values()]
    return sheet_png({f"standard deviation of voxels: {', '.join(maps)} (white: {white:.2f})": shown}, affine)


def nearest(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of the nearest row of ``other [N, dim]`` for each row of ``one [M, dim]``."""
    distances = cdist(one, other)
    indices = distances.argmin(axis=1)
    return indices, distances[np.arange(len(one)), indices]
