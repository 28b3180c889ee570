"""Updates: optimizer, loss scaler and moving averages of each phase, and one update of its networks."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.checkpoint.files import Checkpoint
from hagan3d.config import TrainConfig
from hagan3d.data.batches.steps import StepBatch
from hagan3d.engine.distributed import SINGLE, Distributed
from hagan3d.engine.ema import EMA
from hagan3d.engine.initial_weights import frozen_parameters
from hagan3d.engine.optimizers import make_optimizer, precision_on
from hagan3d.errors import InputError
from hagan3d.methods.phase import Phase, Terms
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.spectral import iterate_spectral_norms, shared_spectral_norms
from hagan3d.ops.device import device_kind, is_planning

NORM_SCALE = 1024.0  # of losses whose gradient is measured in fp16, against underflow
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Updates:
    """Runs the phases of a step: losses, gradients, optimizer steps."""

    def __init__(
        self,
        train: TrainConfig,
        phases: Sequence[Phase],
        networks: NetworkSet,
        device: torch.device,
        distributed: Distributed = SINGLE,
    ) -> None:
        """Move ``networks`` to ``device`` and make an optimizer and a loss scaler for each active phase."""
        self.train = train
        self.phases = phases
        self.device = device
        self.distributed = distributed
        if next(networks.parameters()).device != device:  # fake tensors cannot be moved
            networks.to(device)
        self.networks = networks
        self.precision = precision_on(device_kind(next(networks.parameters())), train.precision)
        self.frozen = frozen_parameters(networks, train.freeze)
        self._check_frozen()
        unknown = [name for name in train.muon if name not in networks.names()]
        if unknown:
            raise InputError(f"train.muon {unknown[0]}: no such network; there are {', '.join(networks.names())}")
        networks.set_memory(train.recompute_norms, train.checkpointing)
        if train.compile:
            penalised = {name for phase in phases for name in phase.penalised}
            for name in set(networks.names()) - penalised:
                networks[name].compile()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        self.averages = {name: EMA(networks[name], train.ema) for name in networks.averaged} if train.ema else {}
        self.first_updates = {
            name: min((phase.first for phase in phases if name in phase.updates), default=0) for name in self.averages
        }
        self.prepare(0)

    def prepare(self, step: int) -> None:
        """Keep an optimizer and a loss scaler for each phase that is active at ``step``, and for no other."""
        active = [phase for phase in self.phases if phase.is_active(step)]
        for name in set(self.optimizers) - {phase.name for phase in active}:
            del self.optimizers[name], self.scalers[name]
        for phase in active:
            if phase.name not in self.optimizers:
                self.optimizers[phase.name] = make_optimizer(
                    self.train, phase.lr, self._rate_groups(phase), self.device
                )
                is_scaled = self.precision == "fp16" and not is_planning()  # it reads values, and holds two numbers
                self.scalers[phase.name] = torch.amp.GradScaler(self.device.type, enabled=is_scaled)

    def _parameters(self, phase: Phase) -> list[nn.Parameter]:
        return [parameter for group in self._rate_groups(phase) for parameter in group["params"]]

    def _rate_groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Parameters that learn in a phase, grouped by learning rate and by whether they learn by Muon."""
        frozen = {id(parameter) for parameter in self.frozen}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name in phase.updates:
            parameters = [p for p in self.networks[name].parameters() if id(p) not in frozen]
            key = phase.lr_of.get(name, phase.lr), name in self.train.muon
            groups.setdefault(key, []).extend(parameters)
        return [
            {"params": own, "lr": lr} | ({"muon": True} if muon else {}) for (lr, muon), own in groups.items() if own
        ]

    def _check_frozen(self) -> None:
        """Raise InputError if a phase has nothing left to learn."""
        for phase in self.phases:
            if not self._parameters(phase):
                raise InputError(
                    f"train.freeze {' '.join(self.train.freeze)}: nothing is left to learn for the phase {phase.name} "
                    f"({', '.join(phase.updates)}); freeze a part of it"
                )

    def run(self, phase: Phase, batch: StepBatch) -> dict[str, Tensor]:
        """Run one phase: update the networks it names, and no other.

        Gradients of the groups of its loss, and of micro-batches, are accumulated, and averaged over ranks once at the
        end. The loss scaler of fp16 sees the same infinities on every rank, since they survive the mean.

        Returns:
            The weighted terms of its loss, and its measures, averaged over the micro-batches of this rank.
        """
        optimizer, scaler = self.optimizers[phase.name], self.scalers[phase.name]
        count = self.train.accumulate
        means: dict[str, Tensor] = {}
        weights = phase.weights_at(batch.step, batch.state)
        for name in phase.updates:
            iterate_spectral_norms(self.networks[name])
        with only_trainable(self.networks, phase.updates + phase.records, self.frozen):
            with self._shared_norms(phase):
                for terms in (terms for part in batch.micro_batches(count) for terms in self._groups(phase, part)):
                    weighted = {name: weights.get(name, 1.0) * term.float() for name, term in terms.items()}
                    losses = [term for name, term in weighted.items() if name not in phase.measures]
                    total = torch.stack(losses).sum() / count
                    if total.requires_grad:  # not if the networks of this group are frozen
                        scaler.scale(total).backward()
                    for name, term in weighted.items():
                        means[name] = means.get(name, 0) + term.detach() / count
            gradients = [p.grad for p in self._parameters(phase) if p.grad is not None]
            self.distributed.average([*gradients, *self.networks.collected_statistics(phase.updates)])
            self._set_rates(optimizer, phase, batch.step)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        self.networks.after_update(phase.updates)
        for name in phase.updates:
            if name in self.averages:
                self.averages[name].update(batch.step - self.first_updates[name])
                if phase.end is not None and batch.step >= phase.end - phase.every:
                    self.averages[name].write_back()  # later stages learn from the weights that inference uses
        return means

    def gradient_norms(self, phase: Phase, batch: StepBatch) -> dict[str, float]:
        """Return the norm of the gradient of each term of a loss, without its weight, in the weights that learn.

        Each term has a forward pass of its own, so that the memory is that of a step. Nothing is updated.
        """
        count, scale = self.train.accumulate, NORM_SCALE if self.precision == "fp16" else 1.0
        parameters, norms = self._parameters(phase), dict[str, float]()
        with only_trainable(self.networks, phase.updates + phase.records, self.frozen):
            names = [""]
            while len(norms) < len(names):
                with self._shared_norms(phase):
                    for part in batch.micro_batches(count):
                        names = self._differentiate_one(phase, part, len(norms), scale / count)
                gradients = [p.grad for p in parameters if p.grad is not None]
                self.distributed.average(gradients)
                total = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
                norms[names[len(norms)]] = float(total) / scale
                for parameter in parameters:
                    parameter.grad = None
        for statistic in self.networks.collected_statistics(phase.updates):
            statistic.zero_()
        return norms

    def _differentiate_one(self, phase: Phase, batch: StepBatch, number: int, factor: float) -> list[str]:
        """Differentiate ``factor`` times one term of a loss, in the order of their groups; return the names of all."""
        names: list[str] = []
        for terms in self._groups(phase, batch):
            own = [name for name in terms if name not in phase.measures]
            if len(names) <= number < len(names) + len(own):
                term = terms[own[number - len(names)]]
                if term.requires_grad:
                    (factor * term.float()).backward()
            names += own
        return names

    def _shared_norms(self, phase: Phase) -> contextlib.AbstractContextManager[None]:
        """Compute spectral norms once per update, if the settings say so."""
        learning = [self.networks[name] for name in phase.updates]
        return shared_spectral_norms(*learning) if self.train.share_spectral else contextlib.nullcontext()

    def _groups(self, phase: Phase, batch: StepBatch) -> Iterator[Terms]:
        """Yield the groups of a loss, or one of all its terms; each is differentiated before the next is computed."""
        with self.autocast():
            loss = phase.loss(self.networks, batch)
        if isinstance(loss, dict):
            yield loss
            return
        joint: Terms = {}
        while True:
            with self.autocast():
                terms = next(loss, None)
            if terms is None:
                break
            if self.train.loss_groups:
                yield terms
            else:
                joint |= terms
        if joint:
            yield joint

    def _set_rates(self, optimizer: torch.optim.Optimizer, phase: Phase, step: int) -> None:
        """Apply linear learning-rate decay. The rates depend on the step alone, never on the checkpoint."""
        factor = 1.0
        if decay := self.train.decay_steps():
            first, last = decay
            factor = min(1.0, max(0.0, (last - step) / (last - first)))
        for group, own in zip(optimizer.param_groups, self._rate_groups(phase), strict=True):
            group["lr"] = own["lr"] * factor

    def autocast(self) -> torch.autocast:
        """Return a context in which activations have the precision of training."""
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def state(self) -> dict[str, dict[str, Any]]:
        """Return the state that a checkpoint stores."""
        return {
            "ema": {name: average.state for name, average in self.averages.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
        }

    def load(self, checkpoint: Checkpoint, path: Path) -> None:
        """Restore the state of a checkpoint, read from ``path``; a phase that starts with the next step has none in it.

        Raises:
            InputError: If an optimizer is of other networks, as written by another version.
        """
        self.prepare(checkpoint.step)
        for name, average in self.averages.items():
            average.load(checkpoint.ema[name])
        for name in self.optimizers.keys() & checkpoint.optimizers.keys():
            try:
                self.optimizers[name].load_state_dict(checkpoint.optimizers[name])
            except ValueError as error:
                raise InputError(
                    f"{path}: the optimizer of phase {name} is of another version of hagan3d; resume with that "
                    "version, or start a new run from its weights: --train.weights RUN"
                ) from error
            self.scalers[name].load_state_dict(checkpoint.scalers[name])


@contextlib.contextmanager
def only_trainable(networks: NetworkSet, names: tuple[str, ...], frozen: Sequence[nn.Parameter] = ()) -> Iterator[None]:
    """Freeze every network but those named, and some parameters: inside this block no other gets a gradient."""
    for name in networks.names():
        networks[name].requires_grad_(name in names)
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        networks.requires_grad_(True)
