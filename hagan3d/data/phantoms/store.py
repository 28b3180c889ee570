"""A store of synthetic chest CTs, for runs without data."""

import sys
from pathlib import Path

from hagan3d.config import Size
from hagan3d.data.phantoms.thorax import write_phantoms
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig


def phantom_store(out: Path, count: int, size: Size) -> Path:
    """Make phantoms and a store of them in the folder ``out``, unless they exist; return the store."""
    folder, path = out / "phantoms", out / "phantoms.h5"
    if not path.exists():
        print(f"no data.store: making {count} phantoms of the thorax in {folder}", file=sys.stderr)
        write_phantoms(folder, count, size, seed=0)
        settings = PrepareConfig(size=size, intensity="window", labels=str(folder / "attributes.csv"))
        prepare([folder / "volumes"], path, settings)
    return path
