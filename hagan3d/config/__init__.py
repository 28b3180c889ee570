"""Settings of a training run, with units and defaults; those of `prepare` and `evaluate` lie beside their code."""

from hagan3d.config.data import LOW_SIDE, SIZE_STEP, AugmentConfig, DataConfig, Size, check_size, low_factor
from hagan3d.config.degrade import DegradeConfig
from hagan3d.config.model import ModelConfig
from hagan3d.config.run import RECIPES, Config, LogConfig
from hagan3d.config.train import DiffAugConfig, TrainConfig
from hagan3d.config.translation import (
    CascadeConfig,
    CycleConfig,
    MedganConfig,
    RegistrationConfig,
    RestoreConfig,
    SeganConfig,
    TranslationConfig,
    UnitConfig,
)

__all__ = [
    "LOW_SIDE",
    "RECIPES",
    "SIZE_STEP",
    "AugmentConfig",
    "CascadeConfig",
    "Config",
    "CycleConfig",
    "DataConfig",
    "DegradeConfig",
    "DiffAugConfig",
    "LogConfig",
    "MedganConfig",
    "ModelConfig",
    "RegistrationConfig",
    "RestoreConfig",
    "SeganConfig",
    "Size",
    "TrainConfig",
    "TranslationConfig",
    "UnitConfig",
    "check_size",
    "low_factor",
]
