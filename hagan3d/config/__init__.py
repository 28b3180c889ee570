"""Settings of a run: frozen dataclasses with units, bounds and defaults; the only place where a default is stated."""

from hagan3d.config.data import (
    LOW_SIDE,
    SIZE_STEP,
    AugmentConfig,
    DataConfig,
    PairDataConfig,
    PatchDataConfig,
    Size,
    SubvolumeDataConfig,
    UnpairedDataConfig,
    VolumeDataConfig,
    WindowDataConfig,
    check_size,
    is_slice,
    low_factor,
    low_factors,
    shortest_side,
)
from hagan3d.config.degrade import DegradeConfig
from hagan3d.config.log import LogConfig
from hagan3d.config.method import (
    FeatureLossConfig,
    GenerationConfig,
    LabelledTargetConfig,
    MethodConfig,
    PatchDiscriminatorConfig,
    TranslationConfig,
    UNetMethodConfig,
)
from hagan3d.config.run import Config
from hagan3d.config.train import TrainConfig

__all__ = [
    "LOW_SIDE",
    "SIZE_STEP",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DegradeConfig",
    "GenerationConfig",
    "LabelledTargetConfig",
    "LogConfig",
    "MethodConfig",
    "PairDataConfig",
    "PatchDiscriminatorConfig",
    "Size",
    "SubvolumeDataConfig",
    "TrainConfig",
    "FeatureLossConfig",
    "TranslationConfig",
    "UNetMethodConfig",
    "PatchDataConfig",
    "UnpairedDataConfig",
    "VolumeDataConfig",
    "WindowDataConfig",
    "check_size",
    "is_slice",
    "low_factor",
    "low_factors",
    "shortest_side",
]
