"""Voxel-wise errors, over all voxels or over a mask."""

import pytest
import torch
from torch.nn import functional as F

from hagan3d.losses.restoration import charbonnier, nmse
from hagan3d.losses.segmentation import dice_loss
from hagan3d.losses.voxels import l1, l2, masked_mean

FAKE, REAL = (
    torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (0, 1)
)
MASK = torch.zeros(2, 1, 4, 5, 6)
MASK[0, :, :1], MASK[1, :, 1:] = 1, 1


@pytest.mark.parametrize(
    ("loss", "plain"),
    [(l1, F.l1_loss), (l2, F.mse_loss), (charbonnier, charbonnier), (nmse, nmse)],
)
def test_a_masked_loss_is_the_mean_over_volumes_of_the_loss_of_the_masked_voxels(loss, plain):
    each = [plain(FAKE[:1, :, :1], REAL[:1, :, :1]), plain(FAKE[1:, :, 1:], REAL[1:, :, 1:])]
    torch.testing.assert_close(loss(FAKE, REAL, MASK), torch.stack(each).mean())
    torch.testing.assert_close(loss(FAKE, REAL), plain(FAKE, REAL))


def test_dice_counts_the_masked_voxels_alone():
    fake, real = FAKE.softmax(1), F.one_hot(REAL.argmax(1), 3).movedim(-1, 1).double()
    each = [dice_loss(fake[:1, :, :1], real[:1, :, :1]), dice_loss(fake[1:, :, 1:], real[1:, :, 1:])]
    torch.testing.assert_close(dice_loss(fake, real, MASK), torch.stack(each).mean())


def test_weights_between_0_and_1_and_an_empty_mask():
    values = torch.tensor([1.0, 3.0]).view(1, 1, 1, 1, 2)
    assert float(masked_mean(values, torch.tensor([0.25, 0.75]).view(1, 1, 1, 1, 2))) == 2.5
    assert float(masked_mean(values, torch.zeros(1, 1, 1, 1, 2))) == 0
