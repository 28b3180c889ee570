"""The trainer: runs the phases of a method on batches, step by step; it can stop and resume anywhere.

It knows no method: phases and losses come from the `Method`, volumes from the source of batches.
"""

import contextlib
import math
import shlex
import signal
import sys
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
from hagan3d.config.serialization import differences, flat, to_dict
from hagan3d.data.batches.steps import StepBatch, StepSource
from hagan3d.data.io.files import locked, write_text
from hagan3d.data.store.description import DataDescription
from hagan3d.engine.distributed import SINGLE, Distributed
from hagan3d.engine.logs import RunLog, RunningMeans
from hagan3d.engine.loss_shares import loss_shares, write_shares
from hagan3d.engine.updates import Updates
from hagan3d.errors import InputError, is_out_of_memory
from hagan3d.methods.base import Method, Preview
from hagan3d.methods.phase import Phase, stage_starts
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.state_hash import state_hash
from hagan3d.ops import backend

FIRST_CHECKPOINT_SECONDS = 30.0
SECOND_SIGNAL_SECONDS = 2.0  # within which a signal is the same one again
MAY_CHANGE = (
    "train.steps",
    "train.lr_decay",
    "train.device",
    "train.accumulate",
    "train.checkpointing",
    "train.compile",
    "train.kernels",
    "train.loss_groups",
    "train.recompute_norms",
    "train.share_spectral",
    "train.tf32",
    "data.store",
    "log.",
)
WRITTEN = ("metrics.jsonl", "previews")  # after config.yaml, which is there if they are of a run


class Trainer:
    """A run: networks, optimizers, moving averages, and the number of steps done."""

    def __init__(
        self,
        method: Method,
        networks: NetworkSet,
        source: StepSource[Any],
        description: DataDescription,
        out: Path,
        device: torch.device,
        fingerprint: str = "",
        distributed: Distributed = SINGLE,
    ) -> None:
        """Set up a run in the folder ``out``, or resume it from its newest checkpoint.

        Raises:
            InputError: If the newest checkpoint is damaged or belongs to other settings or another store, or if ranks
                do not start from the same state.
        """
        self.config, self.method, self.source, self.description = method.config, method, source, description
        self.out, self.device, self.fingerprint = out, device, fingerprint
        self.networks = networks
        self.distributed = distributed
        self.phases = method.training_phases()
        self.updates = Updates(self.config.train, self.phases, networks, device, distributed)
        self.state = method.initial_state()
        self.unlogged = RunningMeans()
        self.steps_done = 0
        self.all_stop = False
        self._resume()
        if not distributed.is_single:
            weights = state_hash(networks.state_dict())[:12]
            facts = {"store": fingerprint[:12], "steps done": self.steps_done, "weights": weights}
            how = {"precision": self.updates.precision, "operators": backend()}
            distributed.check_same_on_all_ranks({**facts, **how})

    def run(self) -> bool:
        """Train until ``train.steps`` are done or a signal stops one of the ranks.

        Returns:
            Whether all steps are done.

        Raises:
            InputError: If a loss is not finite (the message names the step and the term) or another rank has died.
        """
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(_stop_signals())
            log = None
            if self.distributed.is_first:
                stack.enter_context(_sole_user(self.out))
                self._write_config()
                steps, every = self.config.train.steps, self.config.log.every
                log = RunLog(self.out, self.steps_done, steps, every, self.unlogged)
                stack.callback(log.close)
            self._train(log, signals)
        return self.steps_done >= self.config.train.steps

    def _train(self, log: RunLog | None, signals: list[int]) -> None:
        """Run the steps; the rank with a log writes previews and checkpoints."""
        preview = self.method.preview(self.source)
        self._save_at = time.monotonic() + min(FIRST_CHECKPOINT_SECONDS, self.config.log.checkpoint_minutes * 60)
        with contextlib.closing(self.source.batches(self.steps_done, self.config.train.steps)) as batches:
            for batch in batches:
                terms = self.step(batch, signals)
                if log is not None:
                    log.write(self.steps_done, terms)
                is_stopping = self.all_stop or (self.distributed.is_single and bool(signals))
                if log is not None:
                    self._save_if_due(is_stopping)
                    self._preview_if_due(preview)
                if is_stopping:
                    break

    def step(self, batch: StepBatch, signals: Sequence[int] = ()) -> dict[str, float]:
        """Run every phase once.

        Args:
            batch: The rows of the global batch of this rank.
            signals: Stop signals that this process received; ``all_stop`` is then set on every rank.

        Returns:
            The terms of all losses, and measures, as ``phase/term``: means over all ranks.

        Raises:
            InputError: If a term is not finite, on any rank.
        """
        self.updates.prepare(self.steps_done)
        passes = sum(phase.reads_volumes(self.steps_done) for phase in self.phases)
        with batch.to(self.device).reading(self.config.train.accumulate, passes) as moved:
            own = self._run_phases(moved)
        terms, self.all_stop = self.distributed.mean(own, bool(signals))
        for name, mean in terms.items():
            if not math.isfinite(mean):
                weights = f"--train.weights {shlex.quote(str(self.out))} --out NEW"
                raise InputError(
                    f"step {self.steps_done + 1}: {name} is {mean}; training stopped, the last checkpoint in "
                    f"{self.out} is intact: begin a new run from its weights ({weights}) with lower learning rates, or "
                    "train.precision bf16 or fp32"
                )
        self.steps_done += 1
        self.state = self.method.adapted_state(self.state, terms, len(batch) * self.distributed.world_size)
        return terms

    def _run_phases(self, batch: StepBatch) -> dict[str, float]:
        """Run the phases that are due; return the terms of their losses on this rank."""
        logged: dict[str, Tensor] = {}
        for phase in (phase for phase in self.phases if phase.is_due(self.steps_done)):
            if self.steps_done == phase.first and (phase.weights or phase.shares):
                self._find_weights(phase, batch)
            for name, value in self.updates.run(phase, replace(batch, phase=phase.name, state=self.state)).items():
                logged[f"{phase.name}/{name}"] = value
        return dict(zip(logged, torch.stack(list(logged.values())).tolist(), strict=True))

    def _find_weights(self, phase: Phase, batch: StepBatch) -> None:
        """Find the weights of terms with a target share, and write and print the shares of all terms."""
        norms = self.updates.gradient_norms(phase, replace(batch, phase=phase.name, state=self.state))
        weights = phase.weights_at(self.steps_done, {})
        rows = loss_shares(phase, weights, norms)
        found = {f"{phase.name}/{row.term}": row.weight for row in rows if row.term in phase.shares}
        self.state = {**self.state, **found}
        if self.distributed.is_first and len(rows) > 1:
            write_shares(self.out / "loss_shares.csv", rows)
            print("\n".join(f"  {row}" for row in rows), file=sys.stderr)

    def _preview_if_due(self, preview: Preview) -> None:
        every, done = self.config.log.preview_every, self.steps_done
        if not every or (done % every and done != self.config.train.steps):
            return
        try:
            self._preview(preview)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            print(
                f"step {done}: no preview, too little memory is left; --log.preview_every 0 turns previews off",
                file=sys.stderr,
            )

    def _preview(self, preview: Preview) -> None:
        """Write a preview of the averaged weights, in the precision of training."""
        with contextlib.ExitStack() as stack, torch.no_grad(), self.updates.autocast():
            for average in self.updates.averages.values():
                stack.enter_context(average.applied())
            self.networks.set_step(self.steps_done)
            path = self.out / "previews" / f"step-{self.steps_done:08d}.png"
            preview.write(path, self.networks, self.description)

    def _save_if_due(self, is_stopping: bool) -> None:
        log, done = self.config.log, self.steps_done
        is_due = time.monotonic() >= self._save_at or any(
            every and done % every == 0 for every in (log.checkpoint_steps, log.keep_every)
        )
        if is_due or is_stopping or done == self.config.train.steps or done in stage_starts(self.phases):
            self.save()
            self._save_at = time.monotonic() + log.checkpoint_minutes * 60

    def save(self) -> Path:
        """Write a checkpoint of this step and delete old ones; those at the ends of stages are kept.

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
            if not (log.keep_every and step % log.keep_every == 0) and step not in stage_starts(self.phases):
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
        checkpoint = files.load(path)  # to host memory: the GPU may have no room for a second copy
        if not checkpoint.optimizers:
            raise InputError(f"{path}: holds imported weights, which cannot be trained further; use another --out")
        _check_same_run(self.config, checkpoint, self.fingerprint, path)
        for name, state in checkpoint.networks.items():
            files.load_weights(self.networks[name], state, path, name)
        self.method.check_state(checkpoint.state, path)
        self.updates.load(checkpoint, path)
        self.state, self.unlogged = dict(checkpoint.state), RunningMeans(checkpoint.unlogged)
        self.steps_done = checkpoint.step

    def _write_config(self) -> None:
        """Write all settings of the run.

        Raises:
            InputError: If the run is new and a file of some settings is there, which was written by hand, or files that
                have the names of those of a run.
        """
        path, settings = self.out / "config.yaml", to_dict(self.config)
        others = [self.out / name for name in WRITTEN if (self.out / name).exists()]
        if self.steps_done == 0 and others and not path.exists():
            raise InputError(f"{others[0]}: is of no run, and would be replaced; use another --out, or move it")
        if self.steps_done == 0 and path.exists():
            before = None
            with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):
                before = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict) or flat(before).keys() != flat(settings).keys():
                raise InputError(f"{path}: would be replaced by all settings of the run; use another --out, or move it")
        write_text(path, yaml.safe_dump(settings, sort_keys=False))


def _check_same_run(config: Config, checkpoint: Checkpoint, fingerprint: str, path: Path) -> None:
    for key, (now, before) in differences(config, checkpoint.config).items():
        if not key.startswith(MAY_CHANGE):
            raise InputError(
                f"{path}: this run was started with {key} = {before}, now it is {now}; use the old value, "
                "or another --out for a new run"
            )
    if checkpoint.store != fingerprint:
        raise InputError(f"{path}: this run was started on another store; use that one, or another --out")


@contextlib.contextmanager
def _sole_user(out: Path) -> Iterator[None]:
    """Lock a run folder against a second training process.

    Raises:
        InputError: If another process has the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out}: another process trains in this folder; wait for it, or use another --out"):
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C, so that the current step is completed; a later Ctrl-C ends the process at once.

    Both may come twice within moments: SLURM and a terminal signal every process, and torchrun passes its own on.
    """
    received: list[int] = []
    first = math.inf

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if number == signal.SIGINT and time.monotonic() - first > SECOND_SIGNAL_SECONDS:
            signal.default_int_handler(number, frame)
        first = min(first, time.monotonic())
        received.append(number)

    kinds = (signal.SIGTERM, signal.SIGINT)
    before: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread, which handles signals
        before.update({kind: signal.signal(kind, note) for kind in kinds})
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
