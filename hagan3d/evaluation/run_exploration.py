"""Exploration of a latent space from a checkpoint to pictures, tables and explore.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hagan3d.checkpoint import load_model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration import exploration
from hagan3d.evaluation.exploration.results import Exploration
from hagan3d.evaluation.exploration.walks import GIF, STRIP, VOLUMES, WALK_TABLE, files_of_walks
from hagan3d.evaluation.progress import ProgressCallback, no_progress
from hagan3d.evaluation.settings import ExploreConfig
from hagan3d.inference.devices import inference_device

WRITTEN = ("explore.json", "direction.npz", WALK_TABLE, STRIP, GIF, VOLUMES, "component-*")
MODES: dict[str, Callable[..., Exploration]] = {
    "attribute": exploration.explore_attribute,
    "pca": exploration.explore_components,
    "between": exploration.explore_between,
    "truncations": exploration.explore_truncations,
}


def run_exploration(
    run: Path,
    store: Path,
    out: Path,
    modes: dict[str, Any],
    config: ExploreConfig,
    *,
    weights: str = "ema",
    device: str = "auto",
    force: bool = False,
    progress: ProgressCallback = no_progress,
) -> list[str]:
    """Explore the latent space of a run in one of the four `MODES`.

    Args:
        run: Folder of a run, or a checkpoint file.
        store: Store of real volumes.
        out: Output folder.
        modes: Value of each mode by name, None for all but one.
        config: Settings.
        weights: Weights of the checkpoint: ema or raw.
        device: auto, cpu or cuda.
        force: Whether to replace another exploration in the folder.
        progress: Shows progress.

    Returns:
        Lines that describe the result.

    Raises:
        InputError: If not exactly one mode is given, the folder holds an exploration, or the input does not match.
    """
    given = [name for name in MODES if modes[name] is not None]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise InputError(f"expected one of {', '.join(f'--{name}' for name in MODES)}, got {got}")
    if not force:
        _check_out(out)
    mode = given[0]
    model = load_model(run, weights, inference_device(device), generate=True, encode=True)
    before = {path: path.stat().st_mtime_ns for path in files_of_walks(out)}
    results = MODES[mode](model, Store(store), modes[mode], out, config, progress)
    for path, written in before.items():
        if path.stat().st_mtime_ns == written:  # of another exploration, and replaced by none
            path.unlink()
    files = "component-1/ ..., explore.json" if mode == "pca" else "strip.png, walk.gif, walk.csv, explore.json"
    return [*results.describe(), f"step {model.step} of {run} explored: {out} ({files})"]


def _check_out(out: Path) -> None:
    """Raise InputError if a folder has files of the names that an exploration writes."""
    for path in (path for pattern in WRITTEN for path in out.glob(pattern)):
        raise InputError(f"{path}: exists already; use another --out, or --force to replace it")
