"""`hagan3d evaluate`: what a model is worth, in numbers and pictures."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hagan3d import cli
from hagan3d.errors import InputError
from hagan3d.evaluation.settings import EvaluateConfig, FeatureTrainConfig

DESCRIPTION = """Measure a run against the held-out volumes of its store: distances of features and of voxel statistics,
variety, seams, coverage, reconstruction, geometry; with --audit, also whether it memorised training volumes. A run
that translates is measured on held-out pairs: errors in target units, and its uncertainty against them. Leaves
report.html (one file, for a browser) and metrics.json. The same line again goes on where it stopped. Nothing is
downloaded."""
EXAMPLES = (
    "hagan3d evaluate --store lungs.h5 --train-features           # once per store, minutes",
    "hagan3d evaluate runs/lungs --store lungs.h5 --out evaluation/",
    "hagan3d evaluate runs/lungs --store lungs.h5 --out evaluation/ --audit",
    "hagan3d evaluate runs/lungs --store lungs.h5 --medicalnet resnet_10.pth --out evaluation/",
    "hagan3d evaluate runs/pet_ct --store pairs.h5 --out evaluation/     # a run that translates: held-out pairs",
)


def main(argv: list[str]) -> None:
    """Parse, measure, say where the report is."""
    # before NumPy comes in: thousands of small matrices, on which several threads cost more than they give
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = cli.parser("evaluate", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=str | None, nargs="?", help="Folder of a run, or a checkpoint file.")
    parser.add_argument("--store", type=str, required=True, help="The store, with held-out volumes.")
    parser.add_argument("--out", type=str | None, default=None, help="Folder to write to.")
    parser.add_argument("--train_features", type=bool, default=False, help="Train the extractor of the store first.")
    parser.add_argument("--audit", type=bool, default=False, help="Look for memorised training volumes too.")
    parser.add_argument("--weights", type=Literal["ema", "raw"], default="ema", help="Averaged weights, or the last.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Where to compute.")
    parser.add_argument("--depth", type=int, default=0, help="Slices translated at once, a multiple of 32; 0: all.")
    parser.add_argument("--overlap", type=int, default=32, help="Slices that neighbours share, a multiple of 32.")
    parser.add_argument("--force", action="store_true", help="Replace the evaluation that is in --out already.")
    parser.add_class_arguments(EvaluateConfig, as_group=False)
    parser.add_class_arguments(FeatureTrainConfig, "feature_training")
    a = parser.instantiate(parser.parse_args(argv))
    config = EvaluateConfig(**{name: a[name] for name in EvaluateConfig.__dataclass_fields__})
    if a.run is None and not a.train_features:
        raise InputError("want a run to measure, or --train-features alone")
    if (a.run is None) != (a.out is None):
        raise InputError("want a run and --out together")
    if a.train_features:
        _train_features(Path(a.store), a.feature_training, a.device)
    if a.run is not None and translates(Path(a.run)):
        _evaluate_pairs(Path(a.run), Path(a.store), Path(a.out), (a.depth, a.overlap), a.weights, a.device, a.force)
    elif a.run is not None:
        _evaluate(Path(a.run), Path(a.store), Path(a.out), config, a.weights, a.device, a.audit, a.force)


def _train_features(path: Path, config: FeatureTrainConfig, device: str) -> None:
    from hagan3d.data.store.store import Store
    from hagan3d.evaluation.features.self_supervised import train_features
    from hagan3d.inference.devices import inference_device

    with _bars() as bars:
        task = bars.add_task("train features", total=config.steps)

        def progress(steps):  # type: ignore[no-untyped-def]
            for step in steps:
                yield step
                bars.advance(task)

        made = train_features(Store(path), config, inference_device(device), progress)
    print(f"features of {path}: {made.path} (loss {made.losses[0]:.3f} to {made.losses[-1]:.3f})")


def _evaluate(
    run: Path,
    store_path: Path,
    out: Path,
    config: EvaluateConfig,
    weights: str,
    device: str,
    audited: bool,
    force: bool,
) -> None:
    from hagan3d.checkpoint import load_model
    from hagan3d.data.io.files import write_text
    from hagan3d.data.store.store import Store
    from hagan3d.evaluation.memorisation.audit import audit, subject_groups
    from hagan3d.evaluation.report.html import report
    from hagan3d.evaluation.report.protocol import extractors_of, key_of, measure, volume_sets
    from hagan3d.evaluation.report.verdict import verdicts
    from hagan3d.inference.devices import inference_device

    where = inference_device(device)
    model, store = load_model(run, weights, where), Store(store_path)
    sets = volume_sets(model, store, config)
    if audited:
        subject_groups(store, sets)
    extractors = extractors_of(model, store, config, where)
    for extractor in extractors:
        print(f"features {extractor.name}: {extractor.dim} numbers, SHA-256 {extractor.sha256}")
    if _is_done(out, key_of(sets, extractors, config), audited, force):
        print(f"this evaluation is there already: {out}/report.html, metrics.json")
        return
    with _bars() as bars:
        measured = measure(model, store, sets, extractors, config, out / "features", _starter(bars))
        if audited:
            found = audit(model, store, sets, measured.summaries, extractors[0], _starter(bars))
            measured.metrics["audit"] = found
    folder = model.path.parent.parent
    write_text(out / "report.html", report(measured, model.description.affine_array, folder, config.shown))
    write_text(out / "metrics.json", json.dumps(measured.metrics, indent=1, allow_nan=False) + "\n")
    for verdict in verdicts(measured.metrics):
        print(f"{'  ' if verdict.good else '! '}{verdict.text}")
    print(f"step {model.step} of {run} measured: {out}/report.html, metrics.json")


def translates(run: Path) -> bool:
    """Tell a run that translates volumes from one that makes them; False where there is no checkpoint."""
    from hagan3d.checkpoint.files import load, newest

    path = run if run.is_file() else newest(run)
    return path is not None and load(path, mapped=True).config.translates


def _evaluate_pairs(
    run: Path, store_path: Path, out: Path, windows: tuple[int, int], weights: str, device: str, force: bool
) -> None:
    from hagan3d.checkpoint import load_translation
    from hagan3d.data.io.files import write_text
    from hagan3d.data.store.store import Store
    from hagan3d.evaluation.translation.measure import key_of, measure_pairs
    from hagan3d.evaluation.translation.report import pair_report, pair_verdicts
    from hagan3d.inference.devices import inference_device
    from hagan3d.inference.windowed_translation import Translator

    model, store = load_translation(run, weights, inference_device(device)), Store(store_path)
    translator = Translator(model.networks, *windows)
    if _is_done(out, key_of(model, store, translator), False, force):
        print(f"this evaluation is there already: {out}/report.html, metrics.json")
        return
    with _bars() as bars:
        measured = measure_pairs(model, store, translator, _starter(bars))
    write_text(out / "report.html", pair_report(measured, model.description.affine_array, model.path.parent.parent))
    write_text(out / "metrics.json", json.dumps(measured.metrics, indent=1) + "\n")
    for verdict in pair_verdicts(measured.metrics):
        print(f"{'  ' if verdict.good else '! '}{verdict.text}")
    print(f"step {model.step} of {run} measured: {out}/report.html, metrics.json")


def _is_done(out: Path, key: str, audited: bool, force: bool) -> bool:
    """Whether this very evaluation is there, with its audit if wanted; with ``force``, clear the way for it.

    Raises:
        InputError: If another one is there.
    """
    path = out / "metrics.json"
    if force:
        for old in [path, out / "report.html", *(out / "features").glob("*.npz")]:
            old.unlink(missing_ok=True)
        return False
    if not path.exists():
        if (out / "report.html").exists() and not (out / "features").is_dir():
            raise InputError(f"{out / 'report.html'}: is there already; give another --out, or --force to replace it")
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same, complete = found["key"] == key, "audit" in found or not audited
    except (ValueError, KeyError, TypeError):
        same = complete = False
    if not same:
        raise InputError(
            f"{path}: of another run, step, store or setting; give another --out, or --force to replace it"
        )
    return complete


def _bars() -> Progress:
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _starter(bars: Progress) -> Callable[[str, int], Callable[[int], None]]:
    def start(name: str, total: int) -> Callable[[int], None]:
        task = bars.add_task(name, total=total)
        return lambda count: bars.advance(task, count)

    return start


if __name__ == "__main__":
    sys.exit(cli.run(main))
