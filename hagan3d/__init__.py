"""hagan3d: memory-efficient 3D generative models of medical volumes."""

import os

# Idle OpenMP threads sleep instead of spinning: on a shared machine, or beside a thread that reads ahead, spinning
# takes the cores from those that work. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
