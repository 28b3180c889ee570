"""Updates: the optimizer, loss scaler and average of each phase, and one update of the networks it names."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.checkpoint.files import Checkpoint
from hagan3d.config import TrainConfig
from hagan3d.data.batches import Batch
from hagan3d.engine.ema import EMA
from hagan3d.engine.optimizers import make_optimizer
from hagan3d.engine.processes import ALONE, Processes
from hagan3d.networks.build import Networks
from hagan3d.networks.layers import iterate_spectral_norms, shared_spectral_norms
from hagan3d.recipes.phase import Phase

AVERAGED = ("g",)  # networks that have an EMA
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Updates:
    """Moves networks, phase by phase."""

    def __init__(
        self,
        train: TrainConfig,
        phases: Sequence[Phase],
        networks: Networks,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        """Move ``networks`` to ``device`` and make an optimizer and a loss scaler for each phase."""
        self.train = train
        self.device = device
        self.processes = processes
        if next(networks.parameters()).device != device:  # fake tensors are where they are, and cannot be moved
            networks.to(device)
        self.networks = networks
        networks.set_memory(train.recompute_norms, train.checkpointing)
        self.optimizers = {
            phase.name: make_optimizer(train, phase.lr, self._parameters(phase), device) for phase in phases
        }
        self.scalers = {
            phase.name: torch.amp.GradScaler(device.type, enabled=train.precision == "fp16") for phase in phases
        }
        self.averages = {name: EMA(networks[name], train.ema) for name in AVERAGED} if train.ema else {}

    def _parameters(self, phase: Phase) -> list[nn.Parameter]:
        return [parameter for name in phase.updates for parameter in self.networks[name].parameters()]

    def run(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Run one phase: move the networks it names, and no other.

        The gradients of all processes are averaged once, when each has worked through its parts. A scaler of fp16 finds
        the same infinities everywhere, since they survive the mean.

        Returns:
            The terms of its loss, and its measures, each the mean over the parts of the batch in this process.
        """
        optimizer, scaler = self.optimizers[phase.name], self.scalers[phase.name]
        parts = self.train.accumulate
        means: dict[str, Tensor] = {}
        learning = [self.networks[name] for name in phase.updates]
        for network in learning:
            iterate_spectral_norms(network)
        with only_trainable(self.networks, phase.updates):
            with shared_spectral_norms(*learning) if self.train.share_spectral else contextlib.nullcontext():
                for part in batch.parts(parts):
                    with self._autocast():
                        terms = phase.losses(self.networks, part)
                    losses = [term.float() for name, term in terms.items() if name not in phase.measures]
                    scaler.scale(torch.stack(losses).sum() / parts).backward()
                    for name, term in terms.items():
                        means[name] = means.get(name, 0) + term.detach().float() / parts
            self.processes.average([p.grad for p in self._parameters(phase) if p.grad is not None])
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        for name in phase.updates:
            if name in self.averages:
                self.averages[name].update(batch.step)
        return means

    def _autocast(self) -> torch.autocast:
        precision = self.train.precision
        return torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what a checkpoint keeps of it."""
        return {
            "ema": {name: average.state for name, average in self.averages.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint."""
        for name, average in self.averages.items():
            average.load(checkpoint.ema[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(checkpoint.optimizers[name])
            self.scalers[name].load_state_dict(checkpoint.scalers[name])


@contextlib.contextmanager
def only_trainable(networks: Networks, names: tuple[str, ...]) -> Iterator[None]:
    """Freeze every network but those named: inside this block no other gets a gradient."""
    for name in networks.names():
        networks[name].requires_grad_(name in names)
    try:
        yield
    finally:
        networks.requires_grad_(True)
