"""Runs of equal processor time: the cost of a step is measured first, then a run is trained and evaluated."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import metered
import torch

from hagan3d.engine.training import train
from hagan3d.run_settings import load_config

PROBED = 12  # steps whose cost is measured: by that many a longer run exceeds a shorter one
MOST = 1.5  # times its minutes: a run is then stopped and measured as it is
QUIET = {"train.device": "cpu", "log.preview_every": 0, "log.keep_last": 1}


def cost(out: Path, name: str, config: str, settings: Callable[[int], Mapping[str, Any]]) -> float:
    """Return the processor seconds of a step, without what a run does once; measured once and kept in ``out``.

    It is the difference of a run of 2 `PROBED` steps and one of `PROBED` steps, after one to warm up.

    Args:
        out: Folder of the benchmark.
        name: Of what is measured.
        config: Name of its config.
        settings: What a run of so many steps changes in that.
    """
    path = out / "costs" / f"{name}.json"  # one file each: several processes may share the folder
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = []
        for steps in (PROBED, PROBED, 2 * PROBED):  # the first to warm up
            run = load_config(config, **nested({**QUIET, **settings(steps)}))
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                began = time.process_time()
                train(run, Path(folder) / "run")
                seconds.append(time.process_time() - began)
        path.write_text(json.dumps({"step": max(seconds[2] - seconds[1], 0.1 * seconds[1]) / PROBED}))
    return float(json.loads(path.read_text())["step"])


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn keys such as ``train.steps`` into nested sections."""
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        *path, name = key.split(".")
        place = sections
        for section in path:
            place = place.setdefault(section, {})
        place[name] = value
    return sections


def planned_steps(folder: Path, seconds: float, step: float) -> int:
    """Return the steps of a run of so many seconds at a cost of ``step`` each; as planned, if it has begun."""
    return int(plan_of(folder).get("steps") or max(8, round(seconds / step)))


def make(
    folder: Path, config: str, settings: Mapping[str, Any], seconds: float, threads: int, measure: Sequence[str] = ()
) -> None:
    """Train a run in ``folder`` and evaluate it, unless that is done; what has begun is continued.

    Args:
        folder: Of the run.
        config: Name of its config.
        settings: What it changes in that; ``train.steps`` and ``data.store`` among them.
        seconds: Processor time that it is planned for; it is stopped at `MOST` times that.
        threads: Of the run.
        measure: Further words of `hagan3d evaluate`.
    """
    check_plan(folder, config, seconds, threads)
    if (folder / "evaluation" / "metrics.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.json"
    begun = plan_of(folder) or {"seconds": 0.0, "commit": metered.commit()}
    begun |= {"steps": settings["train.steps"], "config": config, "minutes": seconds / 60, "threads": threads}
    spent = begun["seconds"]
    words = [
        f"--{key}={json.dumps(value) if isinstance(value, bool | list | None) else value}"
        for key, value in {**QUIET, **settings}.items()
    ]

    def note(used: float) -> None:
        plan.write_text(json.dumps(begun | {"seconds": used}))

    command = ["train", "--config", config, "--out", folder / "run", *words]
    if status := metered.run(command, threads, spent, MOST * seconds, note):
        raise SystemExit(f"{folder}: training ended with status {status}")
    store, out = settings["data.store"], folder / "evaluation"
    words = ["evaluate", folder / "run", "--store", store, "--out", out, "--device", "cpu", *measure]
    if metered.start(words, threads).wait():
        raise SystemExit(f"{folder}: cannot be measured")


def check_plan(folder: Path, config: str, seconds: float, threads: int) -> None:
    """Stop if a run that has begun in ``folder`` has another config, time or number of threads."""
    for name, value in {"config": config, "minutes": seconds / 60, "threads": threads}.items():
        before = plan_of(folder).get(name, value)
        if before != value:
            raise SystemExit(f"{folder}: a run with {name} {before}; ask for that, or give another --out")


def plan_of(folder: Path) -> dict[str, Any]:
    """Return what is known of a run that has begun: its steps, seconds so far, commit and settings of the benchmark."""
    path = folder / "plan.json"
    return json.loads(path.read_text()) if path.exists() else {}


def machine(threads: int) -> str:
    """Describe the machine, the threads of a run, and the versions."""
    cores, version = len(os.sched_getaffinity(0)), torch.__version__
    return f"{platform.machine()}, {cores} cores, {threads} thread a run; torch {version}; {metered.commit()}"


def metrics(folder: Path) -> dict[str, Any] | None:
    """Return the results of a run, if it is done."""
    path = folder / "evaluation" / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
