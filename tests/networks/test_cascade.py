"""The cascade of UP-GAN: guides between stages, windows with whole-volume statistics, untrained stages."""

import pytest
import torch

from hagan3d.methods.upgan.config import UPGANConfig
from hagan3d.methods.upgan.networks import Prediction, UPGANNetworks

SIZE = (32, 32, 32)


def make_cascade(guide="mean"):
    torch.manual_seed(0)
    sizes = {"width": 4, "levels": 1, "critic_width": 4, "critic_layers": 1}
    nets = UPGANNetworks(SIZE, UPGANConfig(stages=3, guide=guide, norm="rms", **sizes))
    for network in (nets.g_1, nets.g_2):  # heads that start as constants would ignore their input
        for head in network.unet.heads[1:]:
            torch.nn.init.normal_(head.weight, std=0.3)
    return nets.requires_grad_(False)


def test_the_initial_uncertainty_is_that_of_the_config():
    prediction = make_cascade().translate(torch.zeros(1, 1, 16, 16, 16))
    torch.testing.assert_close(prediction.alpha, torch.full((1, 1, 16, 16, 16), 0.1))
    torch.testing.assert_close(prediction.sigma, torch.full((1, 1, 16, 16, 16), 0.1 * 2**0.5))  # of a Laplace density


@pytest.mark.parametrize("guide", ["mean", "paper"])
def test_the_guide_is_the_prediction_weighted_by_its_uncertainty(guide):
    nets = make_cascade(guide)
    mean, log_scale, log_shape = (
        torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(i)).clamp(-1.3, 2) for i in range(3)
    )
    sigma = (log_scale + (torch.lgamma(3 * torch.exp(-log_shape)) - torch.lgamma(torch.exp(-log_shape))) / 2).exp()
    weighted, *log_sigma = nets.guide_of(Prediction(mean, log_scale, log_shape))
    expected = mean * sigma / sigma.mean((1, 2, 3, 4), keepdim=True)
    result = weighted * (32**3 if guide == "paper" else 1)  # the paper divides by the sum
    inside = expected.abs() < (torch.inf if guide == "paper" else 9)  # the paper clips nothing
    torch.testing.assert_close(result[inside], expected[inside], atol=1e-4, rtol=1e-3)
    assert len(log_sigma) == (guide == "mean")
    for found in log_sigma:
        torch.testing.assert_close(found, sigma.log(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("guide", "channels"), [("mean", 2), ("paper", 1), ("channels", 3), ("none", 1)])
def test_the_input_of_a_stage_is_the_guide_and_the_source(guide, channels):
    nets = make_cascade(guide)
    source = torch.randn(1, 1, 16, 16, 16)
    seen = nets.stage_input(2, source)
    assert seen.shape[1] == channels + 1
    assert torch.equal(seen[:, -1:], source)
    assert (nets.translate(source).sigma is None) == (guide == "none")


def test_a_window_with_whole_volume_statistics_equals_its_part_of_the_volume():
    nets = make_cascade()
    source = torch.randn(1, 1, 64, 16, 16)
    statistics = []
    while len(statistics) < nets.num_statistics:
        statistics.append(nets.statistic_map(source, statistics).mean((1, 2, 3, 4)))
    assert len(statistics) == 2
    whole = nets.translate(source)
    torch.testing.assert_close(nets.translate(source, statistics).mean, whole.mean)
    window = nets.translate(source[:, :, :48], statistics)
    alone = nets.translate(source[:, :, :48])
    torch.testing.assert_close(window.mean[:, :, :16], whole.mean[:, :, :16], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(window.sigma[:, :, :16], whole.sigma[:, :, :16], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone.mean[:, :, :16], whole.mean[:, :, :16], atol=1e-5)


@pytest.mark.parametrize(("step", "stage"), [(0, 1), (1500, 1), (2000, 2), (3000, 3), (5000, 3)])
def test_untrained_stages_are_left_out(step, stage):
    nets = make_cascade()
    source = torch.randn(1, 1, 16, 16, 16)
    expected = nets.predict(stage, source).mean
    nets.set_step(step)
    assert nets.num_statistics == stage - 1
    assert torch.equal(nets.translate(source).mean, expected)
    with pytest.raises(ValueError, match="statistics"):
        nets.statistic_map(source, [torch.ones(1)] * (stage - 1))
