"""Checkpoints: saved atomically, loaded without running code, and imported from published weights."""

from hagan3d.checkpoint.files import (
    Checkpoint,
    Model,
    TranslationModel,
    load,
    load_model,
    load_translation,
    newest,
    save,
    translates,
)

__all__ = [
    "Checkpoint",
    "Model",
    "TranslationModel",
    "load",
    "load_model",
    "load_translation",
    "newest",
    "save",
    "translates",
]
