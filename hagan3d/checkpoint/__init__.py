"""Checkpoints: saved whole or not at all, loaded without running code, and made from published weights."""

from hagan3d.checkpoint.files import (
    Checkpoint,
    Model,
    TranslationModel,
    load,
    load_model,
    load_translation,
    newest,
    save,
)

__all__ = ["Checkpoint", "Model", "TranslationModel", "load", "load_model", "load_translation", "newest", "save"]
