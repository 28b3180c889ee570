"""Dice and cross-entropy of label probabilities by their closed forms."""

import math

import pytest
import torch

from hagan3d.losses.segmentation import LEAST, dice_cross_entropy, dice_loss
from hagan3d.networks.layers import label_channels


def one_hot(label, number=2):
    return torch.nn.functional.one_hot(label, number).movedim(-1, 1).float()


def test_the_cross_entropy_is_that_of_pytorch():
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    p, target = logits.softmax(1), one_hot(label, 3)
    found = dice_cross_entropy(p, target) - dice_loss(p, target)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, label))


def test_gradients_in_bfloat16_are_those_in_float32():
    logits = torch.zeros(1, 3, 1, 1, 1)
    logits[0, 0], target = 8.0, one_hot(torch.ones(1, 1, 1, 1, dtype=torch.int64), 3)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        x = logits.to(dtype, copy=True).requires_grad_()
        dice_cross_entropy((label_channels(x) + 1) / 2, target).backward()
        found.append(x.grad.float())
    torch.testing.assert_close(found[1], found[0], atol=0.01, rtol=0.01)


@pytest.mark.parametrize("probability", [0.0, 1e-8, 1e-7])
def test_a_voxel_that_is_surely_wrong_has_a_gradient(probability):
    p = torch.tensor([1 - probability, probability]).view(1, 2, 1, 1, 1).requires_grad_()
    target = one_hot(torch.ones(1, 1, 1, 1, dtype=torch.int64))
    (dice_cross_entropy(p, target) - dice_loss(p, target)).backward()
    assert float(p.grad[0, 1]) == pytest.approx(-1 / LEAST, rel=1e-5)
    with torch.no_grad():
        value = dice_cross_entropy(p, target) - dice_loss(p, target)
    assert float(value) == pytest.approx(-math.log(LEAST) + (LEAST - probability) / LEAST, rel=1e-4)
