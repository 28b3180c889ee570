"""Overhead of a GPU in addition to tensors: assumed, or as `hagan3d doctor` measured it on this GPU."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hagan3d.data.io.files import write_text


@dataclass(frozen=True)
class Margins:
    """What a run needs of a GPU in addition to the peak memory of its tensors."""

    context: int = 600 * 2**20
    """Bytes of the driver's context and the loaded kernels."""
    workspace: int = 512 * 2**20
    """Bytes of workspaces of convolutions."""
    fragmentation: float = 0.08
    """Gaps between blocks of the allocator, as a fraction of the peak memory."""
    source: str = "assumed, GPUs differ"
    """Where the values are from."""

    def __str__(self) -> str:
        """Describe them in a line."""
        parts = f"{self.fragmentation:.0%} fragmentation, {self.workspace / 1e9:.2f} workspace"
        return f"{parts}, {self.context / 1e9:.2f} context: {self.source}"


def cache_folder() -> Path:
    """Return the folder of what was measured on this machine: ``hagan3d`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hagan3d"


def current_margins() -> Margins:
    """Return the margins of the GPU of this machine if they were measured, else those assumed."""
    path = cache_folder() / "margins.json"
    if not (torch.cuda.is_available() and path.is_file()):
        return Margins()
    name = torch.cuda.get_device_name()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[name]
        values = int(found["context"]), int(found["workspace"]), float(found["fragmentation"])
    except (OSError, ValueError, KeyError, TypeError):  # of another GPU, or damaged
        return Margins()
    return Margins(*values, source=f"measured by `hagan3d doctor` on {name}")


def save_margins(name: str, margins: Margins) -> Path:
    """Keep the margins of a GPU, with those of others; return the file."""
    path = cache_folder() / "margins.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        known = {}
    values = {key: value for key, value in asdict(margins).items() if key != "source"}
    write_text(path, json.dumps({**known, name: values}, indent=1) + "\n")
    return path
