"""FID, KID, precision and recall by torch-fidelity, where it is installed: an independent check of our metrics."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAME = "hagan3d-features"


@dataclass(frozen=True)
class Fidelity:
    """Metrics computed by torch-fidelity."""

    fid: float
    kid_mean: float
    kid_deviation: float
    precision: float
    recall: float


def fidelity(fake: np.ndarray, real: np.ndarray, *, neighbours: int, subsets: int, size: int) -> Fidelity:
    """Compute FID, KID, precision and recall of features ``[N, dim]`` with torch-fidelity.

    The features are passed as samples through a registered identity extractor, so nothing is downloaded.

    Args:
        fake: Features of generated volumes.
        real: Features of the reference set.
        neighbours: k of precision and recall.
        subsets: Subsets of KID.
        size: Samples per subset.

    Raises:
        ImportError: If torch-fidelity or its torchvision cannot be imported; the message says what to do.
    """
    library = _library()
    values = library.calculate_metrics(
        input1=_samples(fake),
        input2=_samples(real),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=subsets,
        kid_subset_size=size,
        prc_neighborhood=neighbours,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        datasets_download=False,
    )
    return Fidelity(
        fid=values["frechet_inception_distance"],
        kid_mean=values["kernel_inception_distance_mean"],
        kid_deviation=values["kernel_inception_distance_std"],
        precision=values["precision"],
        recall=values["recall"],
    )


def _samples(features: np.ndarray) -> torch.utils.data.Dataset[Tensor]:
    return _Rows(torch.from_numpy(features.astype(np.float64)))


class _Rows(torch.utils.data.Dataset[Tensor]):
    """Features as samples."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def _library() -> Any:
    """Import torch-fidelity and register the extractor, once."""
    try:
        import torch_fidelity
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision for another torch fails in each of these ways
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportError(
            f"torch-fidelity does not run here ({first}): install the torchvision built for torch {torch.__version__}"
        ) from error
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor(NAME, _extractor_class(torch_fidelity.FeatureExtractorBase))
    return torch_fidelity


def _extractor_class(base: Any) -> Any:
    class Identity(base):
        """Returns the samples as features."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x,)

    return Identity
