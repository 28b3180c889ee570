"""The forms of operators of a run, kept in its kernels.json, so that a resumed run computes the same."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hagan3d.data.io.files import write_text
from hagan3d.engine.distributed import Distributed
from hagan3d.engine.kernel_choice import choose_forms, peak_with
from hagan3d.engine.memory_plan import Plan
from hagan3d.errors import InputError
from hagan3d.ops.forms import LAYOUTS, Table
from hagan3d.ops.upsample_conv import METHODS

FORMS = {"upsample_conv3d": METHODS[1:], "conv3d": ("direct", "blocks")}
NAME, FORMAT = "kernels.json", "hagan3d kernels 1"
SHAPING = ("accumulate", "checkpointing", "compile", "loss_groups", "recompute_norms", "share_spectral", "tf32")
"""Settings that a resume may change and that change calls of operators, their time, or the memory of a step."""


@dataclass(frozen=True)
class Kernels:
    """The table of a run, and what it was made for."""

    table: Table
    setting: str
    """train.kernels."""
    device: str
    settings: Mapping[str, Any]
    """Those of `SHAPING`, and the volumes per rank."""
    milliseconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Time of each form of a call."""

    def is_for(self, other: "Kernels") -> bool:
        """Return whether it was made for the same setting, device and step; a file is for any device."""
        is_file = self.setting not in ("auto", "measured")
        same_device = is_file or self.device == other.device
        return (self.setting, dict(self.settings)) == (other.setting, dict(other.settings)) and same_device


def kernel_table(out: Path, device: torch.device, plan: Plan, distributed: Distributed) -> Table:
    """Return the forms that a run takes: those of its kernels.json, of a file that it names, or measured now.

    The first rank measures and writes kernels.json, the others read it.

    Args:
        out: Folder of the run.
        device: Where it trains.
        plan: Of one rank.
        distributed: The ranks.

    Raises:
        InputError: If a file is not one of kernels, or its forms take more memory than the plan.
    """
    train = plan.config.train
    if train.kernels == "fixed" or (train.kernels == "auto" and (device.type == "cpu" or train.compile)):
        return Table()
    with distributed.first_rank_first():
        if not distributed.is_first:
            return read_kernels(out / NAME).table
        settings = {name: getattr(train, name) for name in SHAPING} | {"batch_size": train.batch_size}
        wanted = Kernels(Table(), train.kernels, describe(device), settings)
        if (out / NAME).is_file():
            found = read_kernels(out / NAME)
            if found.is_for(wanted):
                return found.table
        kernels = _new_kernels(wanted, device, plan)
        write_kernels(kernels, out / NAME)
    return kernels.table


def _new_kernels(wanted: Kernels, device: torch.device, plan: Plan) -> Kernels:
    if wanted.setting in ("auto", "measured"):
        choice = choose_forms(plan, device)
        print(f"kernels measured on {wanted.device}: {choice}", file=sys.stderr)
        times = {call: {form: 1e3 * t for form, t in found.items()} for call, found in choice.times.items()}
        return Kernels(choice.table, wanted.setting, wanted.device, wanted.settings, times)
    named = read_kernels(Path(wanted.setting))
    peak = peak_with(plan, named.table)
    if peak > plan.peak:
        raise InputError(
            f"train.kernels {wanted.setting}: its forms take {peak / 1e9:.2f} GB in a step of this run, planned are "
            f"{plan.peak / 1e9:.2f} GB; use train.kernels measured or fixed"
        )
    return Kernels(named.table, wanted.setting, wanted.device, wanted.settings, named.milliseconds)


def describe(device: torch.device) -> str:
    """Return the device and the versions that times depend on, as text."""
    if device.type == "cuda":
        version = torch.backends.cudnn.version()
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, cuDNN {version}"
    return f"CPU with {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_kernels(kernels: Kernels, path: Path) -> None:
    """Write the table of a run, atomically."""
    plain = {
        "format": FORMAT,
        "setting": kernels.setting,
        "device": kernels.device,
        "settings": dict(kernels.settings),
        "layout": kernels.table.layout,
        "cudnn_benchmark": kernels.table.benchmark,
        "forms": dict(kernels.table.forms),
        "milliseconds": {
            call: {form: round(t, 4) for form, t in times.items()} for call, times in kernels.milliseconds.items()
        },
    }
    write_text(path, json.dumps(plain, indent=1) + "\n")


def read_kernels(path: Path) -> Kernels:
    """Read the table of a run.

    Raises:
        InputError: If there is no such file, or it is not one of `write_kernels`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; train.kernels is auto, fixed, measured or the kernels.json of a run")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        table = Table(values["layout"], values["cudnn_benchmark"], values["forms"])
        kernels = Kernels(table, values["setting"], values["device"], values["settings"], values["milliseconds"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(_unusable(path, "is damaged")) from error
    if values.get("format") != FORMAT:
        raise InputError(_unusable(path, f"is not of the format {FORMAT!r}"))
    is_valid = table.layout in LAYOUTS and isinstance(table.benchmark, bool) and isinstance(table.forms, dict)
    if not is_valid or not all(form in FORMS.get(call.split(" ")[0], ()) for call, form in table.forms.items()):
        raise InputError(_unusable(path, "names a layout or a form that does not exist"))
    if not (isinstance(kernels.settings, dict) and isinstance(kernels.milliseconds, dict)):
        raise InputError(_unusable(path, "is damaged"))
    return kernels


def _unusable(path: Path, what: str) -> str:
    return f"{path}: {what}; delete it to measure again, or use train.kernels fixed"
