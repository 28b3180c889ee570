"""Evaluation of a run from its checkpoint to report.html and metrics.json."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hagan3d.checkpoint import TranslationModel, load_model, load_translation, translates
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.self_supervised import load_features
from hagan3d.evaluation.generation import GenerationEvaluation
from hagan3d.evaluation.progress import ProgressCallback, no_progress
from hagan3d.evaluation.report.folder import METRICS, REPORT, is_done, write_results
from hagan3d.evaluation.report.protocol import volume_sets
from hagan3d.evaluation.report.verdict import Verdict
from hagan3d.evaluation.settings import EvaluateConfig
from hagan3d.evaluation.translation.domain_report import domain_report, domain_verdicts
from hagan3d.evaluation.translation.domains import domain_evaluation_key, evaluate_domains, held_out_volumes
from hagan3d.evaluation.translation.pairs import evaluate_pairs, pair_evaluation_key
from hagan3d.evaluation.translation.report import pair_report, pair_verdicts
from hagan3d.inference.devices import inference_device
from hagan3d.inference.ensemble import EnsembleOptions, ensemble
from hagan3d.inference.translate_files import make_translator


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation that are no part of its protocol."""

    weights: str = "ema"
    """Weights of the checkpoint: ema or raw."""
    device: str = "auto"
    audit: bool = False
    """Whether to run the memorisation audit."""
    depth: int | None = None
    """Slices per window of a translation, a multiple of 32; 0: whole volume; None: as `make_translator` chooses."""
    overlap: int = 32
    """Slices that adjacent windows of a translation share, a multiple of 32."""
    force: bool = False
    """Whether to replace another evaluation in the same folder."""
    further: tuple[Path, ...] = ()
    """Further runs of an ensemble of translations."""
    samples: int = 0
    """Passes with dropout of an ensemble; 0: one without."""
    augment: tuple[str, ...] = ()
    """Changes of the source in an ensemble: flips, shifts."""

    @property
    def is_ensemble(self) -> bool:
        """Whether translations are means over several passes."""
        return bool(self.further or self.samples or self.augment)


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

        Of several channels or with label maps, the main ones, as CHANNEL/METRIC. Of a translation, between translations
        and targets: whole volumes.
        """
        channels = self.results.get("channels")
        if channels:
            return {
                f"{channel}/{name}": value
                for channel, results in channels.items()
                for name, value in _main_metrics(results).items()
            }
        if "features" not in self.results:
            return _main_metrics(self.results)
        first = next(iter(self.results["features"].values()))
        return {
            name: value["value"]
            for name, value in first["generated vs held-out"].items()
            if isinstance(value, dict) and "value" in value
        }


def _main_metrics(results: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of one channel: of a translation those of whole volumes, else those with a value."""
    if "summary" in results:
        return {name: values["mean"] for name, values in results["summary"]["translated"]["whole"].items()}
    return {name: found["value"] for name, found in results.items() if isinstance(found, dict) and "value" in found}


def check_sets(run: Path, store: Path, config: EvaluateConfig) -> None:
    """Check that a run can be evaluated on a store in trained features, before these are trained for minutes.

    Raises:
        InputError: If sizes or channels differ, there are too few held-out or training volumes, or the evaluation of
            pairs has no use for features.
    """
    opened = Store(store)
    if not translates(run):
        volume_sets(load_model(run), opened, config)
    elif opened.has_domains:
        held_out_volumes(load_translation(run), opened)
    else:
        raise InputError(f"{run}: translations of pairs are compared voxel by voxel; leave out --train-features")


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
    if not translates(run) and options.is_ensemble:
        raise InputError(f"{run}: generates volumes; several runs, --samples and --augment are for translations")
    if translates(run):
        _check_has_effect(run, config, options)
        lines = _evaluate_translation(run, store, out, options, progress)
    else:
        device = inference_device(options.device)
        evaluation = GenerationEvaluation(
            load_model(run, options.weights, device), Store(store), config, out, options.audit, options.force, device
        )
        lines = evaluation.run(progress)
    return [*lines, f"{out / REPORT}, {METRICS}"]


def _check_has_effect(run: Path, config: EvaluateConfig, options: EvaluateOptions) -> None:
    """Raise InputError if settings of the evaluation of generated volumes are given for a translation."""
    default = EvaluateConfig()
    changed = [field.name for field in fields(config) if getattr(config, field.name) != getattr(default, field.name)]
    given = [*changed, *(["audit"] if options.audit else [])]
    if given:
        raise InputError(
            f"{', '.join(f'--{name}' for name in given)}: is of generated volumes, and {run} translates; leave it out"
        )


def _evaluate_translation(
    run: Path, store_path: Path, out: Path, options: EvaluateOptions, progress: ProgressCallback
) -> list[str]:
    model, store = load_translation(run, options.weights, inference_device(options.device)), Store(store_path)
    if store.has_domains and options.is_ensemble:
        raise InputError(f"{store.path}: holds two domains; several runs, --samples and --augment are for pairs")
    if store.has_domains:
        return _evaluate_domains(model, store, out, options, progress)
    models = [model, *(load_translation(path, options.weights, model.device) for path in options.further)]
    members = [make_translator(one, options.depth, options.overlap) for one in models]
    translator = ensemble(models, members, EnsembleOptions(options.samples, options.augment))
    if is_done(out, pair_evaluation_key(models, store, translator), False, options.force):
        return ["this evaluation is there already:"]
    evaluated = evaluate_pairs(models, store, translator, progress)
    page = pair_report(evaluated, model.description.affine_array, model.run_folder)
    write_results(out, page, evaluated.results.to_dict())
    return [*_lines(pair_verdicts(evaluated.results)), f"step {model.step} of {run} evaluated:"]


def _evaluate_domains(
    model: TranslationModel, store: Store, out: Path, options: EvaluateOptions, progress: ProgressCallback
) -> list[str]:
    extractor, windows = load_features(store, device=model.device), (options.depth, options.overlap)
    if is_done(out, domain_evaluation_key(model, store, *windows, extractor), False, options.force):
        return ["this evaluation is there already:"]
    evaluated = evaluate_domains(model, store, extractor, *windows, progress=progress)
    write_results(out, domain_report(evaluated), evaluated.to_dict())
    return [*_lines(domain_verdicts(evaluated)), f"step {model.step} of {model.run_folder} evaluated:"]


def _lines(found: Sequence[Verdict]) -> list[str]:
    return [str(verdict) for verdict in found]
