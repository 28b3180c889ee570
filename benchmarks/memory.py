"""How much memory does a training step hold? Live bytes of tensors, counted under fake tensors: no GPU is needed.

Without --sizes, the configs that come with hagan3d; with it, the default networks at those sizes.
"""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path

import torch
import yaml

from hagan3d.checkpoint.settings import from_dict
from hagan3d.config import Config, DataConfig, ModelConfig, TrainConfig
from hagan3d.data.files import write_text
from hagan3d.engine.live_bytes import count_step
from hagan3d.recipes import hagan

GIB = 2**30
CONFIGS = Path(__file__).parents[1] / "configs"
PHASES = ("d", "g", "e_h", "e_g", "static")


def main() -> None:
    """Count, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="Sides of cubes, such as 256 512 1024.")
    parser.add_argument("--batch", type=int, default=4, help="Volumes per step, with --sizes.")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="With --sizes.")
    parser.add_argument("--checkpointing", action="store_true", help="With --sizes.")
    parser.add_argument("--norm", choices=("rms", "group"), default="rms", help="With --sizes.")
    parser.add_argument("--json", type=Path, help="File to write the counts to.")
    a = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, fake tensors on {platform.machine()}")
    print(f"{'run':<44}" + "".join(f"{name:>8}" for name in (*PHASES, "peak")) + "   GiB")
    counts = {}
    for name, config in chosen(a):
        counts[name] = count_step(config, hagan.recipe(config.train))
        peak = max(counts[name].values())
        print(f"{name:<44}" + "".join(f"{counts[name][p] / GIB:8.2f}" for p in PHASES) + f"{peak / GIB:8.2f}")
        sys.stdout.flush()
    if a.json:
        write_text(a.json, json.dumps({"torch": torch.__version__, "live_bytes": counts}, indent=1))


def chosen(a: argparse.Namespace) -> list[tuple[str, Config]]:
    """Return the runs to count, by name."""
    if not a.sizes:
        paths = sorted(CONFIGS.glob("*.yaml"), key=lambda path: [int(n) for n in path.stem.split("_") if n.isdigit()])
        return [(path.stem, from_dict(yaml.safe_load(path.read_text()))) for path in paths]
    train = TrainConfig(batch_size=a.batch, precision=a.precision, checkpointing=a.checkpointing)
    switches = f"{a.precision} norm {a.norm}{' checkpointing' if a.checkpointing else ''}"
    base = Config(model=ModelConfig(norm=a.norm), train=train)
    return [
        (f"{side}^3 batch {a.batch} {switches}", dataclasses.replace(base, data=DataConfig(size=(side,) * 3)))
        for side in a.sizes
    ]


if __name__ == "__main__":
    main()
