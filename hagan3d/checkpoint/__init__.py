"""Checkpoints: saved whole or not at all, loaded without running code, and made from published weights."""

from hagan3d.checkpoint.files import Checkpoint, Model, load, load_model, newest, save

__all__ = ["Checkpoint", "Model", "load", "load_model", "newest", "save"]
