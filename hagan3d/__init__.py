"""hagan3d: memory-efficient 3D generative models of medical volumes."""

__version__ = "0.1.0"
