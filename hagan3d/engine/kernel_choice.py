"""Choice of the forms of operators by their times on the device of a run, within the memory that was planned.

A step on fake tensors lists the calls of operators. Each is timed in every form; of both memory layouts, and of cuDNN
with and without its own choice of algorithms, the pair is taken whose step is fastest.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from hagan3d.engine.kernel_calls import Timer, available_forms, call_seconds, counted_peak, seconds
from hagan3d.engine.memory_plan import Plan
from hagan3d.engine.step_memory import count_step
from hagan3d.ops import forms
from hagan3d.ops.forms import LAYOUTS, Call, Table

Times = Mapping[Call, Mapping[str, float]]
Setting = tuple[str, bool]
"""Layout, and whether cuDNN times its algorithms."""
CLEAR = 0.97
"""Of the time of the rule's form, below which another one is taken: times vary."""


@dataclass(frozen=True)
class Choice:
    """A table of forms, and what was measured."""

    table: Table
    times: Mapping[str, Mapping[str, float]]
    """Seconds of each form of a call, in the layout of the table."""
    seconds: float
    """Of the operators of a step."""
    seconds_by_rule: float
    """Of the operators of a step by the fixed rules."""
    others: int
    """Calls by another form than that of the rule."""

    def __str__(self) -> str:
        gain = self.seconds_by_rule / max(self.seconds, 1e-9)
        benchmark = "on" if self.table.benchmark else "off"
        return (
            f"layout {self.table.layout}, cuDNN benchmark {benchmark}, {self.others} of {len(self.times)} calls by "
            f"another form than that of the rule; {gain:.2f} times the speed"
        )


def choose_forms(plan: Plan, device: torch.device, timer: Timer = seconds) -> Choice:
    """Time every form of the operators of a step, and choose.

    The counted peak memory of a step with the table is at most that of the plan, and a form that takes more of the GPU
    than is counted and planned for workspaces is left out.

    Args:
        plan: Of the run, for the kind of ``device``.
        device: Where the run trains.
        timer: Measures a call.
    """
    calls, settings = recorded_calls(plan), _settings(plan.kind)
    if len(settings) == 1:  # then calls of a single form take the same time whatever is chosen
        calls = {call: count for call, count in calls.items() if len(available_forms(call, plan.kind)[0]) > 1}
    rules = {call: available_forms(call, plan.kind)[1] for call in calls}
    measured = _measured(calls, settings, plan.kind, device, timer)
    by_rule = _step_seconds(calls, measured[settings[0]], rules)
    least = {
        setting: _step_seconds(calls, found, {call: _fastest(found[call], rules[call]) for call in calls})
        for setting, found in measured.items()
    }
    best: Choice | None = None
    for setting in sorted(least, key=lambda one: least[one]):
        if best is not None and least[setting] >= best.seconds:
            break
        table = _fitted(plan, *setting, measured[setting], rules)
        if table is None:
            continue
        taken = {call: table.forms.get(str(call), rule) for call, rule in rules.items()}
        total = _step_seconds(calls, measured[setting], taken)
        if best is None or total < best.seconds:
            texts = {str(call): found for call, found in measured[setting].items()}
            best = Choice(table, texts, total, by_rule, sum(taken[call] != rule for call, rule in rules.items()))
    assert best is not None  # the rules alone fit, as the plan counts them
    return best


def _measured(
    calls: Iterable[Call], settings: Sequence[Setting], kind: str, device: torch.device, timer: Timer
) -> dict[Setting, Times]:
    """Return the times of all forms in each setting; without settings in which a call takes too much memory."""
    measured: dict[Setting, Times] = {}
    for setting in settings:
        with forms.using(Table(*setting)):
            found = {call: dict(_timed(call, kind, device, timer)) for call in calls}
        if setting == settings[0] or all(found[call] or not measured[settings[0]][call] for call in calls):
            measured[setting] = found
    if device.type == "cuda":
        torch.cuda.empty_cache()  # blocks of these shapes would fragment the memory of training
    return measured


def _fastest(found: Mapping[str, float], rule: str) -> str:
    """Return the fastest form; that of the rule unless another is clearly faster."""
    form = min(found, key=lambda one: found[one], default=rule)
    return rule if rule in found and found[form] > CLEAR * found[rule] else form


def _step_seconds(calls: Mapping[Call, int], times: Times, taken: Mapping[Call, str]) -> float:
    """Return the time of the calls of a step, each in the form that is taken."""
    return sum(
        count * times[call].get(taken[call], max(times[call].values(), default=0.0)) for call, count in calls.items()
    )


def recorded_calls(plan: Plan) -> dict[Call, int]:
    """Return the calls of operators in a step, and how often each is made."""
    with forms.recording() as calls:
        count_step(plan.method, plan.num_classes, kind=plan.kind)
    return dict(calls)


def peak_with(plan: Plan, table: Table) -> int:
    """Return the counted peak memory of a step with a table."""
    with forms.using(table):
        return max(count_step(plan.method, plan.num_classes, kind=plan.kind).values())


def _settings(kind: str) -> list[Setting]:
    """Return layouts, and whether cuDNN times its algorithms; on a CPU, the layout is part of the rules."""
    return list(itertools.product(LAYOUTS, (False, True))) if kind == "cuda" else [(LAYOUTS[0], False)]


def _timed(call: Call, kind: str, device: torch.device, timer: Timer) -> Iterator[tuple[str, float]]:
    for form in available_forms(call, kind)[0]:
        duration = call_seconds(call, form, device, timer)
        if duration is not None:
            yield form, duration


def _fitted(plan: Plan, layout: str, benchmark: bool, times: Times, rules: Mapping[Call, str]) -> Table | None:
    """Return the table of the fastest forms that fit the plan, or None if the layout alone needs more memory.

    Where they do not all fit, those whose call takes most in addition to that of the rule are left out.
    """
    fastest = {call: _fastest(found, rules[call]) for call, found in times.items() if len(found) > 1}
    others = [call for call, form in fastest.items() if form != rules[call]]

    def excess(call: Call) -> int:
        with forms.using(Table(layout)):
            return counted_peak(call, fastest[call], plan.kind) - counted_peak(call, rules[call], plan.kind)

    others.sort(key=excess)

    def table(count: int) -> Table:
        taken = set(others[:count])
        chosen = {str(call): form if call in taken else rules[call] for call, form in fastest.items()}
        return Table(layout, benchmark, chosen)

    @cache
    def fits(count: int) -> bool:
        return peak_with(plan, table(count)) <= plan.peak

    if fits(len(others)):
        return table(len(others))
    if not fits(0):
        return None
    return table(_last_true(range(len(others)), fits))


def _last_true(numbers: Sequence[int], is_true: Callable[[int], bool]) -> int:
    """Return the last of ascending numbers for which a condition holds that holds for the first."""
    low, high = 0, len(numbers)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_true(numbers[middle]) else (low, middle)
    return numbers[low]
