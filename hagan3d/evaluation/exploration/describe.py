"""Plain lines that describe an exploration, from its explore.json."""

from typing import Any


def describe(values: dict[str, Any]) -> list[str]:
    """Return lines that describe the results of an exploration."""
    if "mean_difference" in values:
        rows = ", ".join(f"{value:.4f} at {factor}" for factor, value in values["mean_difference"].items())
        return [f"mean difference between seeds (data range 2) by truncation factor: {rows}"]
    if "pca" in values:
        return [f"explained variance: {', '.join(f'{share:.1%}' for share in values['pca']['components'])}"]
    return [*_regression(values), *_walks(values)] if "walk" in values else []


def _regression(values: dict[str, Any]) -> list[str]:
    regression = values["regression"]
    return [
        f"regression of {values['attribute']['name']} on latents: R2 {_interval(regression['r2'])}, correlation "
        f"{_interval(regression['correlation'])}, {regression['volumes']} volumes",
        f"directions from halves of the subjects: cosine {_interval(regression['cosine_of_halves'])}; norm of the "
        f"latents relative to the prior: {values['length']:.3g}",
    ]


def _walks(values: dict[str, Any]) -> list[str]:
    measure, unit = values["measure"], values["attribute"]["unit"]
    lines = [f"measured: {measure['name']}"]
    if "on_real_held_out" in measure:
        real = measure["on_real_held_out"]
        lines = [
            f"measured by {measure['segmenter']}: on {real['volumes']} real volumes correlation with the ground truth "
            f"{real['correlation']:.3f}, error {real['error']:.3g} {unit}"
        ]
    for name, score in values["walk"].items():
        lines.append(
            f"walks, {name}: intended and measured correlate {_interval(score['correlation'])}, monotone "
            f"{score['monotone']:.0%}, slope of measured on intended {score['slope']:.2f}"
        )
    walked, real = (" to ".join(f"{value:.4g}" for value in values["range"][name]) for name in ("walked", "real"))
    return [*lines, f"walked from {walked} {unit}; the same quantiles of real volumes: {real}"]


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
