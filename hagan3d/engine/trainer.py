"""The trainer: runs the phases of a recipe over batches, step by step, and can stop and go on anywhere.

It knows no method: what a phase moves and what its loss is come from the recipe, what a step sees from the batches.
"""

import contextlib
import fcntl
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import Tensor

from hagan3d.checkpoint import files
from hagan3d.checkpoint.files import Checkpoint
from hagan3d.config import Config
from hagan3d.config.serialization import differences, to_dict
from hagan3d.data.batches.steps import StepBatch
from hagan3d.data.io.files import write_text
from hagan3d.data.store.description import DataDescription
from hagan3d.engine.logs import Gathered, RunLog
from hagan3d.engine.preview import Preview, Source, make_preview
from hagan3d.engine.processes import ALONE, Processes, digest
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError
from hagan3d.methods.phase import Recipe
from hagan3d.networks.network_set import NetworkSet

FIRST_CHECKPOINT_SECONDS = 30.0
MAY_CHANGE = (
    "train.steps",
    "train.lr_decay",
    "train.device",
    "train.accumulate",
    "train.checkpointing",
    "train.compile",
    "train.loss_groups",
    "train.recompute_norms",
    "train.share_spectral",
    "data.store",
    "log.",
)


class Trainer:
    """A run: networks, optimizers, averages and the step they are at."""

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        networks: NetworkSet,
        source: Source,
        description: DataDescription,
        out: Path,
        device: torch.device,
        fingerprint: str = "",
        processes: Processes = ALONE,
    ) -> None:
        """Set up a run in the folder ``out``; go on from its newest checkpoint, where there is one.

        Raises:
            InputError: If the newest checkpoint is damaged or belongs to other settings or another store, or if other
                processes of the run start from another place.
        """
        self.config, self.recipe, self.source, self.description = config, recipe, source, description
        self.out, self.device, self.fingerprint = out, device, fingerprint
        self.networks = networks
        self.processes = processes
        self.updates = Updates(config.train, recipe.phases, networks, device, processes)
        self.state = dict(recipe.state)
        self.unlogged = Gathered()
        self.steps_done = 0
        self.all_stop = False
        self._resume()
        if not processes.is_alone:
            weights = digest(networks.state_dict())[:12]
            processes.agree({"store": fingerprint[:12], "steps done": self.steps_done, "weights": weights})

    def run(self) -> bool:
        """Train until ``train.steps`` are done or a signal asks one of the processes to stop.

        Returns:
            Whether all steps are done.

        Raises:
            InputError: If a loss is not finite (the message names the step and the term) or another process has died.
        """
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(_stop_signals())
            log = None
            if self.processes.is_first:
                stack.enter_context(_sole_user(self.out))
                self._write_config()
                steps, every = self.config.train.steps, self.config.log.every
                log = RunLog(self.out, self.steps_done, steps, every, self.unlogged)
                stack.callback(log.close)
            self._train(log, signals)
        return self.steps_done >= self.config.train.steps

    def _train(self, log: RunLog | None, signals: list[int]) -> None:
        """Run the steps; the process that has a log writes all that the run leaves behind."""
        preview = make_preview(self.source, self.config.train)
        self._save_at = time.monotonic() + min(FIRST_CHECKPOINT_SECONDS, self.config.log.checkpoint_minutes * 60)
        with contextlib.closing(self.source.batches(self.steps_done, self.config.train.steps)) as batches:
            for batch in batches:
                terms = self.step(batch, signals)
                if log is not None:
                    log.write(self.steps_done, terms)
                    self._preview_if_due(preview)
                is_stopping = self.all_stop or (self.processes.is_alone and bool(signals))
                if log is not None:
                    self._save_if_due(is_stopping)
                if is_stopping:
                    break

    def step(self, batch: StepBatch, signals: Sequence[int] = ()) -> dict[str, float]:
        """Run every phase once.

        Args:
            batch: The rows of the global batch that are this process's.
            signals: Signals that asked this process to stop; ``all_stop`` then says so in every process.

        Returns:
            The terms of all losses, and measures, as ``phase/term``: means over all processes.

        Raises:
            InputError: If a term is not finite, in any process.
        """
        self.updates.prepare(self.steps_done)
        batch = replace(batch.to(self.device), state=self.state)
        logged: dict[str, Tensor] = {}
        for phase in self.recipe.phases_at(self.steps_done):
            for name, value in self.updates.run(phase, replace(batch, phase=phase.name)).items():
                logged[f"{phase.name}/{name}"] = value
        own = dict(zip(logged, torch.stack(list(logged.values())).tolist(), strict=True))  # the one wait for the GPU
        terms, self.all_stop = self.processes.mean(own, bool(signals))
        for name, mean in terms.items():
            if not math.isfinite(mean):
                raise InputError(
                    f"step {self.steps_done + 1}: {name} is {mean}; training stopped, the last checkpoint in "
                    f"{self.out} is intact (lower the learning rate, or take train.precision bf16 or fp32)"
                )
        self.steps_done += 1
        self.state = self.recipe.adapt(self.state, terms, len(batch) * self.processes.world)
        return terms

    def _preview_if_due(self, preview: Preview) -> None:
        every, done = self.config.log.preview_every, self.steps_done
        if not every or (done % every and done != self.config.train.steps):
            return
        with contextlib.ExitStack() as stack, torch.no_grad():
            for average in self.updates.averages.values():
                stack.enter_context(average.applied())
            self.networks.reached(done)
            path = self.out / "previews" / f"step-{done:08d}.png"
            preview.write(path, self.networks, self.description)

    def _save_if_due(self, is_stopping: bool) -> None:
        log, done = self.config.log, self.steps_done
        is_due = time.monotonic() >= self._save_at or (log.checkpoint_steps and done % log.checkpoint_steps == 0)
        if is_due or is_stopping or done == self.config.train.steps or done in self.recipe.beginnings:
            self.save()
            self._save_at = time.monotonic() + log.checkpoint_minutes * 60

    def save(self) -> Path:
        """Write a checkpoint of this step and delete those that need not be kept; ends of stages are.

        Raises:
            InputError: If a weight is not finite, or the disk is full; older checkpoints stay.
        """
        for name, value in self.networks.state_dict().items():
            if not torch.isfinite(value).all():
                raise InputError(
                    f"step {self.steps_done}: weights {name} are not finite; the last checkpoint is intact"
                )
        path = files.path_of(self.out, self.steps_done)
        files.save(self._checkpoint(), path)
        log, kept = self.config.log, files.all_of(self.out)
        for old in kept[: -log.keep_last]:
            step = int(old.stem.removeprefix("step-"))
            if not (log.keep_every and step % log.keep_every == 0) and step not in self.recipe.beginnings:
                old.unlink()
        return path

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config,
            description=self.description,
            step=self.steps_done,
            networks={name: self.networks[name].state_dict() for name in self.networks.names()},
            **self.updates.state(),
            state=self.state,
            unlogged=dict(self.unlogged.sums),
            store=self.fingerprint,
        )

    def _resume(self) -> None:
        path = files.newest(self.out)
        if path is None:
            return
        checkpoint = files.load(path, self.device)
        if not checkpoint.optimizers:
            raise InputError(f"{path}: holds imported weights, which cannot be trained on; give another --out")
        _check_same_run(self.config, checkpoint, self.fingerprint, path)
        for name, state in checkpoint.networks.items():
            files.load_weights(self.networks[name], state, path, name)
        self.updates.load(checkpoint)
        self.state, self.unlogged = dict(checkpoint.state), Gathered(checkpoint.unlogged)
        self.steps_done = checkpoint.step

    def _write_config(self) -> None:
        write_text(self.out / "config.yaml", yaml.safe_dump(to_dict(self.config), sort_keys=False))


def _check_same_run(config: Config, checkpoint: Checkpoint, fingerprint: str, path: Path) -> None:
    for key, (now, before) in differences(config, checkpoint.config).items():
        if not key.startswith(MAY_CHANGE):
            raise InputError(
                f"{path}: this run was started with {key} = {before}, now it is {now}; give the old value, "
                "or another --out for a new run"
            )
    if checkpoint.store != fingerprint:
        raise InputError(f"{path}: this run was started on another store; give that one, or another --out")


@contextlib.contextmanager
def _sole_user(out: Path) -> Iterator[None]:
    """Keep a second process from training in the same folder.

    Raises:
        InputError: If one does already.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{out}: another process trains in this folder; wait for it, or give another --out"
            ) from error
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C in a list, so that a step ends before the run does; a second one ends it at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for kind in kinds:
            signal.signal(kind, before[kind])

    kinds = (signal.SIGTERM, signal.SIGINT)
    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are someone else's
        before.update({kind: signal.signal(kind, note) for kind in kinds})
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
