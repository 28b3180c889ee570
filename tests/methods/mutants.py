"""Mutants of the loss of every phase, made from the phases themselves, and the comparison that must catch them.

A phase calls functions of `hagan3d.losses` and `hagan3d.ops`, and networks. A mutant changes one of these calls: its
result is zeroed, an input is replaced by the nearest other tensor of its shape (real for fake, another subject, the
other domain, another stage), or cut off from the gradient, or a network takes the place of another of its shape. It is
caught if a term or the gradient then differs from what `written_out` has. `python -m tests.methods.mutants` counts.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hagan3d.config import Config
from hagan3d.config.methods import method_names
from hagan3d.data.batches.steps import StepBatch
from hagan3d.engine.updates import only_trainable
from hagan3d.methods.phase import Phase
from hagan3d.methods.registry import make_method, make_networks
from tests.methods.small import float64, small_batch, small_config
from tests.methods.written_out import TERMS

PACKAGES = ("hagan3d.losses", "hagan3d.ops")
NEAREST = 2  # other tensors that take the place of an input
TOLERANCE = 1e-6
SETTINGS: dict[str, dict[str, Any]] = {
    "upgan": {"stage_steps": 4, "initial_error": 0.5, "residual": True},
    "cyclegan": {"pool": 0},
    "restore": {"critic_steps": 1, "slice_tv": "match"},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "hagan, relativistic": ("hagan", {"objective": "relativistic", "logits": "each"}),
    "hagan, as published": ("hagan", {"autoencode": 0.0, "prior": "normal"}),
    "hagan, codes": (
        "hagan",
        {"categories": 3, "continuous_codes": 2, "info_weight": 0.5, "autoencode": 0.0, "prior": "normal"}
        | {"encoder": False},
    ),
    "wgan_gp, bce": ("wgan_gp", {"objective": "bce", "latent": "uniform"}),
    "medgan, grey source": (
        "medgan",
        {"grey_source": True, "source_channels": 2, "blocks": 1, "critic_features": False, "style_share": 0.0},
    ),
    "medgan, labels": ("medgan", {"target_labels": 3, "label_weight": 2.0}),
    "pix2pix, labels": ("pix2pix", {"target_labels": 3, "label_weight": 2.0}),
    "microscopy, mask": ("microscopy", {"source_channels": 2, "cell_mask": "channel", "mask_weight": 0.5}),
    "segan, pairs": ("segan", {"critic": "pairs", "dice_weight": 0.0, "l1_weight": 2.0}),
}
"""Settings that give a method other terms: a method and what differs from `small_config`."""
Change = Callable[[str, list[Any]], list[Any]]
"""(name of a call, its arguments) to the arguments with which it is made."""


@dataclass(frozen=True)
class Mutant:
    """One change of one call: ``what`` for people, and what it does to arguments, results or networks."""

    what: str
    arguments: Change | None = None
    result: Callable[[str, Any], Any] | None = None
    swapped: tuple[str, str] | None = None


@dataclass
class Case:
    """One phase of a method on a batch, in float64."""

    config: Config
    phase: str
    batch: StepBatch
    nets: Any

    @classmethod
    def make(cls, method: str, phase: str, store: Path, **settings: Any) -> "Case":
        """Build networks that differ from each other and whose last layers are not zero."""
        config = small_config(method, **SETTINGS.get(method, {}) | settings)
        torch.manual_seed(0)
        nets = make_networks(config).double()
        for parameter in nets.parameters():
            if parameter.ndim < 2 or not parameter.any():  # norms, biases, layers that start at zero
                parameter.data += 0.05 * torch.randn_like(parameter)
        side = 8 if method == "cyclegan" else None  # without a pool, of any size
        batch = float64(small_batch(config, store, side))
        method_of_run = make_method(config)
        first = next(p for p in method_of_run.training_phases() if p.name == phase).first
        state = method_of_run.initial_state()
        return cls(config, phase, replace(batch, phase=phase, step=first, state=state), nets)

    def found(self) -> tuple[Phase, dict[str, Tensor]]:
        """Return the phase, and its weighted terms as the method computes them."""
        phase = next(p for p in make_method(self.config).training_phases() if p.name == self.phase)
        loss = phase.loss(self.nets, self.batch)
        groups = [loss] if isinstance(loss, dict) else list(loss)
        weights = phase.weights_at(phase.first, {})
        terms = {name: x for group in groups for name, x in group.items() if name not in phase.measures}
        assert weights.keys() <= terms.keys() | OPTIONAL, f"weights of no term: {weights.keys() - terms.keys()}"
        return phase, {name: weights.get(name, 1.0) * x for name, x in terms.items()}

    def written(self) -> dict[str, Tensor]:
        """Return the terms as written out."""
        return TERMS[self.config.name, self.phase](self.nets, self.batch, self.config.method)

    @contextmanager
    def training(self) -> Iterator[Phase]:
        """Let only the networks of the phase get gradients, as an update does."""
        phase = next(p for p in make_method(self.config).training_phases() if p.name == self.phase)
        with only_trainable(self.nets, phase.updates + phase.records):
            yield phase

    def with_gradient(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return terms, and the gradient of their sum in the networks that the phase updates, as one more."""
        with self.training() as phase:
            terms = compute()
            parameters = [p for name in phase.updates for p in self.nets[name].parameters()]
            gradients = torch.autograd.grad(sum(terms.values()), parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        return {name: x.detach() for name, x in terms.items()} | {"gradient": torch.cat([g.flatten() for g in flat])}


OPTIONAL = frozenset({"class", "labels", "gp", "r1", "r2"})  # terms of other settings


def differs(one: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """Return the first term that differs, or nothing."""
    if one.keys() != other.keys():
        return "names of terms"
    for name, x in one.items():
        if not torch.isfinite(x).all() or float((x - other[name]).norm()) > TOLERANCE * float(other[name].norm()):
            return name
    return ""


@contextmanager
def watched(case: Case, arguments: Change, result: Callable[[str, Any], Any]) -> Iterator[None]:
    """Let ``arguments`` and ``result`` see, and change, every call of a loss function or a network."""
    names = (f"{case.config.name}.losses", "translation")  # the base class of translation methods has terms too
    modules = [importlib.import_module(f"hagan3d.methods.{name}") for name in names]
    counts: dict[str, int] = {}

    def numbered(name: str) -> str:
        counts[name] = counts.get(name, 0) + 1
        return f"{name} {counts[name]}"

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **keywords: Any) -> Any:
            site = numbered(name)
            return result(site, function(*arguments(site, list(given)), **keywords))

        return call

    with ExitStack() as stack:
        for module, name, value in ((one, *item) for one in modules for item in list(vars(one).items())):
            if (
                callable(value)
                and getattr(value, "__module__", "").startswith(PACKAGES)
                and not isinstance(value, type)
            ):
                stack.enter_context(mock.patch.object(module, name, wrapped(name, value)))
        for name, network in _called(case.nets):
            hook = network.register_forward_pre_hook(
                lambda _, given, name=name: tuple(arguments(numbered(name), list(given)))
            )
            stack.callback(hook.remove)
            hook = network.register_forward_hook(lambda _, __, made, name=name: result(f"{name} made", made))
            stack.callback(hook.remove)
        yield


def _called(nets: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks that losses call, by name: of cascades their parts, of discriminators the first layer."""
    for name, network in nets.named_children():
        if isinstance(network, nn.ModuleList):
            yield from ((f"{name}.{number}", part) for number, part in enumerate(network))
        elif isinstance(getattr(network, "convs", None), nn.ModuleList) and name[0] in "df":
            yield f"{name}.convs.0", network.convs[0]
        else:
            yield name, network


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x] if x.is_floating_point() else []
    return [y for y in x if isinstance(y, Tensor)] if isinstance(x, list | tuple) else []


def _shape(x: Any) -> tuple[Any, ...]:
    return (type(x) is not Tensor, *(tuple(y.shape) for y in _tensors(x)))


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else type(x)(y.detach() for y in x)


def _distance(x: Any, y: Any) -> float:
    return sum(float((a - b).detach().norm()) for a, b in zip(_tensors(x), _tensors(y), strict=True))


def mutants(case: Case) -> list[Mutant]:
    """Return all mutants of a phase."""
    calls = _Calls(case)
    found = [Mutant(f"{site} zeroed", result=_zeroed(site)) for site in calls.functions]
    for site, position, x in calls.inputs:
        found += [
            Mutant(f"input {position} of {site} is {name}", arguments=_replaced(site, position, y))
            for name, y in calls.nearest(x)
        ]
        is_learned = position == 0 and not site.split()[0].endswith("penalty")  # others are detached by the losses
        if is_learned and any(y.requires_grad and y.grad_fn for y in _tensors(x)):
            found.append(
                Mutant(f"input {position} of {site} has no gradient", arguments=_replaced(site, position, None))
            )
    return found + _exchanges(case.nets)


class _Calls:
    """What the loss of a phase calls while the networks of the phase are trainable.

    Attributes:
        inputs: Call, position and value of every input with tensors.
        functions: Calls of loss functions.
    """

    def __init__(self, case: Case) -> None:
        self.inputs: list[tuple[str, int, Any]] = []
        self.functions: list[str] = []
        self._others: list[tuple[str, Any]] = []  # what may take the place of an input
        for name in ("source", "target", "window", "low"):
            x = getattr(case.batch, name, None)
            if x is not None:
                other_subject = torch.cat([x[1:2], x[1:]])  # no permutation
                self._others += [(name, x), (f"{name} of another subject", other_subject)]
        with case.training(), watched(case, self._note_inputs, self._note_result):
            case.found()
        self._others += [(name, [x]) for name, x in self._others if isinstance(x, Tensor)]

    def _note_inputs(self, site: str, given: list[Any]) -> list[Any]:
        for position, x in enumerate(given):
            if _tensors(x):
                self.inputs.append((site, position, x))
                self._others.append((f"input {position} of {site}", _detached(x)))
        return given

    def _note_result(self, site: str, x: Any) -> Any:
        if site.endswith(" made"):
            self._others.extend((f"output of {site}"[: -len(" made")], y.detach()) for y in _tensors(x))
        elif isinstance(x, Tensor):
            self.functions.append(site)
        return x

    def nearest(self, x: Any) -> list[tuple[str, Any]]:
        """Return the `NEAREST` other tensors of the shape of x."""
        candidates = [(_distance(x, y), name, y) for name, y in self._others if _shape(y) == _shape(x)]
        different = sorted((c for c in candidates if c[0] > 1e-9), key=lambda c: c[0])
        unique = [c for k, c in enumerate(different) if k == 0 or c[0] - different[k - 1][0] > 1e-9]
        return [(name, y) for _, name, y in unique[:NEAREST]]


def _exchanges(nets: nn.Module) -> list[Mutant]:
    """Return the mutants in which two networks of the same shape stand in each other's place."""
    shapes = {n: [tuple(p.shape) for p in net.parameters()] for n, net in nets.named_children()}
    return [
        Mutant(f"{one} and {other} exchanged", swapped=(one, other))
        for one, other in combinations([name for name, shape in shapes.items() if shape], 2)
        if shapes[one] == shapes[other]
    ]


def _zeroed(site: str) -> Callable[[str, Any], Any]:
    return lambda name, x: 0 * x if name == site else x


def _replaced(site: str, position: int, by: Any) -> Change:
    def change(name: str, given: list[Any]) -> list[Any]:
        if name == site:
            given[position] = _detached(given[position]) if by is None else by
        return given

    return change


def survives(case: Case, mutant: Mutant, expected: dict[str, Tensor]) -> bool:
    """Return whether a mutant has the terms and the gradient that are written out."""
    nets = case.nets
    if mutant.swapped is not None:
        one, other = mutant.swapped
        return _survives_exchange(case, one, other, expected)
    with watched(case, mutant.arguments or (lambda _, given: given), mutant.result or (lambda _, x: x)):
        try:
            found = case.with_gradient(lambda: case.found()[1])
        except (RuntimeError, ValueError, TypeError):
            return False  # the step cannot be computed
    assert nets is case.nets
    return not differs(found, expected)


def _survives_exchange(case: Case, one: str, other: str, expected: dict[str, Tensor]) -> bool:
    """Return whether the loss is the same with two networks in each other's place; updates stay where they were."""
    first, second = case.nets[one], case.nets[other]
    parameters = {id(p): name for name in (one, other) for p in case.nets[name].parameters()}
    assert len(parameters) > 0
    setattr(case.nets, one, second)
    setattr(case.nets, other, first)
    try:
        found = case.found()[1]
    except (RuntimeError, ValueError, TypeError):
        return False
    finally:
        setattr(case.nets, one, first)
        setattr(case.nets, other, second)
    terms = {name: x.detach() for name, x in found.items()}
    same = not differs(terms, {name: expected[name] for name in terms if name in expected})
    return same and _is_used(case, one, other)


def _is_used(case: Case, *names: str) -> bool:
    """Return whether a phase calls one of some networks; an exchange of others is no mutant."""
    called = set()

    def note(site: str, given: list[Any]) -> list[Any]:
        called.add(site.split()[0].split(".")[0])
        return given

    with watched(case, note, lambda _, x: x):
        case.found()
    return bool(called & {*names})


def phases(method: str, **settings: Any) -> list[str]:
    """Return the names of the phases of a method."""
    config = small_config(method, **SETTINGS.get(method, {}) | settings)
    return [phase.name for phase in make_method(config).training_phases()]


def main(names: Sequence[str]) -> int:
    """Print how many mutants were made and caught, by method and variant; return 1 if one survived."""
    from tests.conftest import make_small_store

    store = make_small_store(Path(tempfile.mkdtemp()))

    survivors = 0
    for name in names or (*method_names(), *VARIANTS):
        made, (method, settings) = 0, VARIANTS.get(name, (name, {}))
        for phase in phases(method, **settings):
            case = Case.make(method, phase, store, **settings)
            expected = case.with_gradient(case.written)
            all_of_phase = mutants(case)
            left = [mutant for mutant in all_of_phase if survives(case, mutant, expected)]
            for mutant in left:
                print(f"  {name}/{phase}: {mutant.what} survives")
            made, survivors = made + len(all_of_phase), survivors + len(left)
        print(f"{name:20} {made:4} made, {made - survivors:4} caught", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
