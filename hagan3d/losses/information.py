"""InfoGAN's mutual information between the codes of a latent and the volume: its variational lower bound, negated."""

import torch
from torch import Tensor
from torch.nn import functional as F


def category_information(outputs: list[Tensor], code: Tensor) -> Tensor:
    """Cross-entropy of a categorical code, averaged over volumes and heads, a scalar.

    Args:
        outputs: Logits of the categories ``[B, K]``, one tensor per head.
        code: The code of each volume, one-hot ``[B, K]``.

    Source: Chen et al., InfoGAN, NeurIPS 2016, equation 5: minus ln Q(c | x).
    """
    return torch.stack([F.cross_entropy(logits, code.argmax(1)) for logits in outputs]).mean()


def continuous_information(outputs: list[Tensor], code: Tensor) -> Tensor:
    """Half the squared error of continuous codes, summed over codes, averaged over volumes and heads, a scalar.

    It is minus ln Q(c | x) of a Gaussian of standard deviation 1, without its constant.

    Args:
        outputs: Predicted means ``[B, n]``, one tensor per head.
        code: The codes ``[B, n]``.

    Source: Chen et al., InfoGAN, NeurIPS 2016, equation 5 and section 6.
    """
    return torch.stack([(means - code).square().sum(1).mean() / 2 for means in outputs]).mean()
