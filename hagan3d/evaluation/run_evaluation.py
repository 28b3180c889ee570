"""Evaluation of a run from its checkpoint to report.html and metrics.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hagan3d.checkpoint import load_model, load_translation, translates
from hagan3d.data.io.files import write_text
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.memorisation.audit import audit, subject_groups
from hagan3d.evaluation.progress import ProgressCallback, no_progress
from hagan3d.evaluation.report.html import report
from hagan3d.evaluation.report.protocol import evaluate_run, evaluation_key, load_extractors, volume_sets
from hagan3d.evaluation.report.verdict import Verdict, verdicts
from hagan3d.evaluation.settings import EvaluateConfig
from hagan3d.evaluation.translation.pairs import evaluate_pairs, pair_evaluation_key
from hagan3d.evaluation.translation.report import pair_report, pair_verdicts
from hagan3d.inference.devices import inference_device
from hagan3d.inference.windowed_translation import Translator

REPORT, METRICS, FEATURE_FOLDER = "report.html", "metrics.json", "features"


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation that are no part of its protocol."""

    weights: str = "ema"
    """Weights of the checkpoint: ema or raw."""
    device: str = "auto"
    audit: bool = False
    """Whether to run the memorisation audit."""
    depth: int = 0
    """Slices per window of a translation, a multiple of 32; 0: whole volume."""
    overlap: int = 32
    """Slices that adjacent windows of a translation share, a multiple of 32."""
    force: bool = False
    """Whether to replace another evaluation in the same folder."""


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation; report.html and metrics.json are in its folder."""

    folder: Path
    results: dict[str, Any]
    """The content of metrics.json."""
    lines: list[str]
    """Lines that describe the result, with the verdicts."""

    @property
    def metrics(self) -> dict[str, float]:
        """Value of each metric between generated and held-out volumes, in the first features.

        Of a translation, between translations and targets: whole volumes; of several channels, METRIC_CHANNEL.
        """
        if "features" not in self.results:
            channels = self.results.get("channels") or {"": self.results}
            return {
                f"{name}_{channel}" if channel else name: values["mean"]
                for channel, one in channels.items()
                for name, values in one["summary"]["translated"]["whole"].items()
            }
        first = next(iter(self.results["features"].values()))
        return {
            name: value["value"]
            for name, value in first["generated vs held-out"].items()
            if isinstance(value, dict) and "value" in value
        }


def run_evaluation(
    run: Path,
    store: Path,
    out: Path,
    config: EvaluateConfig,
    options: EvaluateOptions | None = None,
    progress: ProgressCallback = no_progress,
) -> list[str]:
    """Evaluate a run, generative or translating, and write report.html and metrics.json.

    Args:
        run: Folder of a run, or a checkpoint file.
        store: The store, with held-out volumes.
        out: Folder to write to; features are cached in it, so that an interrupted evaluation resumes.
        config: Settings of the protocol.
        options: Weights, device, audit, windows.
        progress: Shows progress.

    Returns:
        Lines that describe the result.

    Raises:
        InputError: If run and store do not match, or the folder holds another evaluation.
    """
    options = options or EvaluateOptions()
    evaluate = _evaluate_translation if translates(run) else _evaluate_generation
    lines = evaluate(run, store, out, config, options, progress)
    return [*lines, f"{out / REPORT}, {METRICS}"]


def _evaluate_generation(
    run: Path, store_path: Path, out: Path, config: EvaluateConfig, options: EvaluateOptions, progress: ProgressCallback
) -> list[str]:
    device = inference_device(options.device)
    model, store = load_model(run, options.weights, device), Store(store_path)
    sets = volume_sets(model, store, config)
    if options.audit:
        subject_groups(store, sets)
    extractors = load_extractors(model, store, config, device)
    lines = [f"features {one.name}: {one.dim} per volume, SHA-256 {one.sha256}" for one in extractors]
    if is_done(out, evaluation_key(sets, extractors, config), options.audit, options.force):
        return [*lines, "this evaluation is there already:"]
    evaluated = evaluate_run(model, store, sets, extractors, config, out / FEATURE_FOLDER, progress)
    if options.audit:
        found = audit(model, store, sets, evaluated.summaries, extractors[0], progress)
        evaluated = replace(evaluated, results=replace(evaluated.results, audit=found))
    page = report(evaluated, model.description.affine_array, model.run_folder, config.shown)
    _write(out, page, evaluated.results.to_dict(), allow_nan=False)
    return [*lines, *_lines(verdicts(evaluated.results)), f"step {model.step} of {run} evaluated:"]


def _evaluate_translation(
    run: Path, store_path: Path, out: Path, config: EvaluateConfig, options: EvaluateOptions, progress: ProgressCallback
) -> list[str]:
    model, store = load_translation(run, options.weights, inference_device(options.device)), Store(store_path)
    translator = Translator(model.networks, options.depth, options.overlap)
    if is_done(out, pair_evaluation_key(model, store, translator), False, options.force):
        return ["this evaluation is there already:"]
    evaluated = evaluate_pairs(model, store, translator, progress)
    page = pair_report(evaluated, model.description.affine_array, model.run_folder)
    _write(out, page, evaluated.results.to_dict())
    return [*_lines(pair_verdicts(evaluated.results)), f"step {model.step} of {run} evaluated:"]


def is_done(out: Path, key: str, audited: bool, force: bool) -> bool:
    """Return whether a folder holds this very evaluation, with its audit if requested.

    Args:
        out: The folder.
        key: Key of the evaluation.
        audited: Whether the memorisation audit is requested.
        force: Whether to delete another evaluation.

    Raises:
        InputError: If the folder holds another evaluation.
    """
    path = out / METRICS
    if force:
        for old in [path, out / REPORT, *(out / FEATURE_FOLDER).glob("*.npz")]:
            old.unlink(missing_ok=True)
        return False
    if not path.exists():
        if (out / REPORT).exists() and not (out / FEATURE_FOLDER).is_dir():
            raise InputError(f"{out / REPORT}: exists already; use another --out, or --force to replace it")
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        same, complete = values["key"] == key, "audit" in values or not audited
    except (ValueError, KeyError, TypeError):
        same = complete = False
    if not same:
        raise InputError(f"{path}: of another run, step, store or setting; use another --out, or --force to replace it")
    return complete


def _write(out: Path, page: str, values: dict[str, Any], allow_nan: bool = True) -> None:
    write_text(out / REPORT, page)
    write_text(out / METRICS, json.dumps(values, indent=1, allow_nan=allow_nan) + "\n")


def _lines(found: Sequence[Verdict]) -> list[str]:
    return [str(verdict) for verdict in found]
