"""Memory-efficient Adam: without first moment, with quantized moments, or with moments offloaded to host memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.engine.rounding import from_levels, round_stochastically, to_levels

CHUNK = 2**22  # elements worked on at a time: bounds what a step takes besides the moments
MOMENTS = ("exp_avg", "exp_avg_sq")
SCALE = "_scale"  # after the name of a moment of 8 bits: the largest magnitude of each row
TYPES = {32: (torch.float32, torch.float32), 16: (torch.bfloat16, torch.bfloat16), 8: (torch.int8, torch.uint8)}


class LeanAdam(torch.optim.Optimizer):
    """Adam that keeps the first moment only where ``betas[0]`` is above 0: at 0 it is the gradient itself.

    Moments of 16 bits (bfloat16) and of 8 (levels a constant factor apart, a scale per row of the weight) are rounded
    stochastically: with a decay of 0.999 a step changes the second moment by at most a few parts in a thousand, less
    than half of the spacing, so that rounding to nearest would leave it where it is and it would never fall. The
    noise is a function of the step and the place of a weight: a resume repeats it.

    Source: Kingma and Ba, Adam, ICLR 2015, algorithm 1.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        bits: int = 32,
        home: torch.device | None = None,
    ) -> None:
        """Update ``parameters`` or groups of them; moments have 32, 16 or 8 ``bits`` and lie at ``home`` between steps.

        Of moments with a home no more than `CHUNK` elements are on the device of the weights at a time.
        """
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": 1e-8})
        self.types, self.home = dict(zip(MOMENTS, TYPES[bits], strict=True)), home

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        assert closure is None
        noise: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update({"step": 0, **self._zeros(parameter, self._moments_of(parameter, group))})
                state["step"] += 1
                if parameter.device not in noise:
                    noise[parameter.device] = torch.Generator(parameter.device).manual_seed(state["step"])
                self._update(parameter, parameter.grad, state, group, noise[parameter.device])

    def _moments_of(self, parameter: nn.Parameter, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the moments that are kept of a weight."""
        return MOMENTS if group["betas"][0] > 0 else MOMENTS[1:]

    def _update(
        self,
        parameter: nn.Parameter,
        grad: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        noise: torch.Generator,
    ) -> None:
        """Update a weight and its moments."""
        for part in _parts(parameter, grad, state):
            self._move(*part, state["step"], group, noise)

    def _move(
        self,
        weight: Tensor,
        grad: Tensor,
        moments: dict[str, Tensor],
        step: int,
        group: dict[str, Any],
        noise: torch.Generator,
    ) -> None:
        """Update some elements of a weight and of its moments."""
        (beta1, beta2), first = group["betas"], grad
        second = self._fetched(moments, "exp_avg_sq", weight.device)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if "exp_avg" in moments:
            first = self._fetched(moments, "exp_avg", weight.device).lerp_(grad, 1 - beta1)
            self._put_back(moments, "exp_avg", first, noise)
        root = (second / (1 - beta2**step)).sqrt_().add_(group["eps"])
        weight.addcdiv_(first, root, value=-group["lr"] / (1 - beta1**step))
        self._put_back(moments, "exp_avg_sq", second, noise)

    def _zeros(self, weight: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Make the moments that a weight begins with, and their scales where they have one."""
        made: dict[str, Tensor] = {}
        for name in names:
            made[name] = self._at_home(name, torch.zeros_like(weight))
            if self.types[name].itemsize == 1:
                made[name + SCALE] = self._at_home(name + SCALE, weight.new_zeros(_scale_shape(weight)))
        return made

    def _fetched(self, moments: dict[str, Tensor], name: str, device: torch.device) -> Tensor:
        if name + SCALE in moments:
            return from_levels(moments[name], moments[name + SCALE])
        return moments[name].to(device, torch.float32, copy=self.home is not None, non_blocking=True)

    def _put_back(self, moments: dict[str, Tensor], name: str, value: Tensor, noise: torch.Generator) -> None:
        moment = moments[name]
        if name + SCALE in moments:
            codes, scale = to_levels(value, moment.dtype, noise)
            moment.copy_(codes)
            moments[name + SCALE].copy_(scale)
        elif self.home is not None or moment.dtype != value.dtype:
            moment.copy_(round_stochastically(value, noise) if moment.dtype == torch.bfloat16 else value, True)

    def _at_home(self, name: str, moment: Tensor) -> Tensor:
        """Copy a moment to where it stays, in its type; page-locked where it goes to and from a GPU."""
        home = moment.device if self.home is None else self.home
        is_pinned = moment.is_cuda and home.type == "cpu"
        dtype = self.types.get(name, torch.float32)
        return torch.empty_like(moment, dtype=dtype, device=home, pin_memory=is_pinned).copy_(moment)

    def offloaded(self) -> list[Tensor]:
        """Return the moments that are in host memory between steps."""
        return [state[name] for state in self.state.values() for name in MOMENTS if name in state and self.home]

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint keeps, once it has arrived."""
        if self.home is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; torch gives the moments type and place of the weights, which loses nothing."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state.update({name: self._at_home(name, moment) for name, moment in _moments(state).items()})


def _scale_shape(weight: Tensor) -> tuple[int, ...]:
    return len(weight), *(1 for _ in weight.shape[1:])


def _moments(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "step"}


def _parts(weight: Tensor, grad: Tensor, state: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Cut a weight, its gradient and its moments along the first axis into parts of about `CHUNK` elements."""
    rows = max(1, CHUNK * len(weight) // max(weight.numel(), 1))
    for first in range(0, len(weight), rows):
        cut = slice(first, first + rows)
        yield weight[cut], grad[cut], {name: moment[cut] for name, moment in _moments(state).items()}
