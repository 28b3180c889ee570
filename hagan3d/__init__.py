"""hagan3d: memory-efficient 3D generative models of medical volumes.

    import hagan3d as h3

    store = h3.Store.prepare("scans/", "scans.h5", size=(64, 64, 64))
    config = h3.Config.load("hagan_64", data={"store": "scans.h5"}, train={"steps": 500})
    h3.Run(config, out="runs/scans").train()
    volumes = h3.Model.load("runs/scans").generate(4, seed=0)

The four objects are imported when they are first used, so that ``import hagan3d`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hagan3d.api import Config as Config
    from hagan3d.api import Model as Model
    from hagan3d.api import Run as Run
    from hagan3d.api import Store as Store

__version__ = "0.2.0"
__all__ = ["Config", "Model", "Run", "Store", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Config", "Model", "Run", "Store"):
        return getattr(importlib.import_module("hagan3d.api"), name)
    raise AttributeError(f"module 'hagan3d' has no attribute {name!r}")
