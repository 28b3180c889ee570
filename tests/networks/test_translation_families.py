"""Networks of translation methods: output sizes, receptive fields, seeded dropout, image pool."""

import pytest
import torch

from hagan3d.methods.cyclegan.networks import ImagePool
from hagan3d.methods.restore.config import RestoreConfig
from hagan3d.methods.restore.networks import RestoreNetworks
from hagan3d.networks.discriminators import GlobalDiscriminator, PatchDiscriminator
from hagan3d.networks.full_resolution import FullResolution
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.resnet import ResNetGenerator
from hagan3d.networks.strided_unet import StridedUNet, seeded_dropout


@pytest.mark.parametrize("family", ["U", "RU", "RN", "FR", "FR skips"])
def test_the_output_has_the_size_of_the_input(family):
    x = torch.randn(2, 2, 32, 64, 32)
    if family == "RU":
        outputs = ResidualUNet(2, (1, 3), width=4, levels=3, norm="instance")(x)
        assert [out.shape[1] for out in outputs] == [1, 3]
    elif family == "U":
        outputs = [StridedUNet(2, 1, x.shape[2:], width=4, levels=3, norm="instance")(x)]
    elif family.startswith("FR"):
        outputs = [FullResolution(2, 1, width=4, depth=6, skips="skips" in family)(x)]
    else:
        outputs = [ResNetGenerator(2, 1, width=4, blocks=1, norm="instance")(x)]
    assert all(out.shape == (2, out.shape[1], 32, 64, 32) for out in outputs)


@pytest.mark.parametrize(("size", "levels"), [((32,) * 3, 3), ((64, 96, 128), 4), ((256,) * 3, 5)])
def test_levels_follow_the_shortest_side(size, levels):
    assert num_levels(size, None) == levels


@pytest.mark.parametrize(("layers", "width"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_has_the_published_receptive_field(layers, width):
    side = 96
    discriminator = PatchDiscriminator(1, width=2, layers=layers)
    x = torch.randn(1, 1, side, 16 * 2, 16 * 2, requires_grad=True)
    y = x
    for conv in discriminator.convs:  # without norms, whose statistics reach everywhere
        y = conv(y)
    logits = discriminator.logits(y)
    logits[0, 0, logits.shape[2] // 2].sum().backward()
    affected = x.grad.abs().sum((0, 1, 3, 4)).nonzero()
    assert int(affected.max() - affected.min()) + 1 == width


def test_dropout_is_determined_by_its_seeds():
    x = torch.ones(2, 3, 8, 8, 8)
    one, two = seeded_dropout(x, [1, 2], 0), seeded_dropout(x, [2, 1], 0)
    assert torch.equal(one.flip(0), two)
    assert set(one.unique().tolist()) == {0.0, 2.0}
    assert abs(float(one.mean()) - 1) < 0.1
    assert not torch.equal(one, seeded_dropout(x, [1, 2], 1))


def test_the_image_pool_returns_earlier_volumes_with_probability_one_half():
    pool = ImagePool(2, 1, (4, 4, 4))
    volumes = [torch.full((1, 1, 4, 4, 4), value / 10) for value in range(4)]
    for number in (0, 1):  # the first ones fill the pool, and are returned
        assert torch.equal(pool.exchange(volumes[number], [number], [[0.0, 0.0]]), volumes[number])
    assert torch.equal(pool.exchange(volumes[2], [2], [[0.7, 0.0]]), volumes[2])
    torch.testing.assert_close(pool.exchange(volumes[3], [3], [[0.2, 0.9]]), volumes[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(pool.exchange(volumes[0], [4], [[0.2, 0.9]]), volumes[3], atol=1e-4, rtol=0)


def test_a_global_discriminator_has_one_logit_per_volume_that_sees_all_voxels():
    x = torch.randn(3, 1, 32, 64, 32, requires_grad=True)
    logits = GlobalDiscriminator(1, (32, 64, 32), width=4)(x)
    assert logits.shape == (3,)
    logits[1].backward()
    assert (x.grad[1] != 0).float().mean() > 0.99 and (x.grad[::2] == 0).all()


def test_a_restored_volume_is_clipped_if_asked():
    torch.manual_seed(0)
    sizes = {"width": 4, "depth": 3, "critic_width": 4, "residual": True}
    plain, clipping = (RestoreNetworks((32, 32, 32), RestoreConfig(**sizes, clip=clip)) for clip in (False, True))
    clipping.load_state_dict(plain.state_dict())
    source = 3 * torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        free, clipped = plain.translate(source).mean, clipping.translate(source).mean
    assert free.abs().max() > 1 and torch.equal(clipped, free.clamp(-1, 1))
    torch.testing.assert_close(free, plain.g(source).detach() + source)  # a residual
