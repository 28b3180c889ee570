"""Peak memory of inference is counted before, and does not grow with the number of slices."""

import pytest
import torch

from hagan3d import cli
from hagan3d.errors import InputError
from hagan3d.inference import memory
from hagan3d.inference.memory import count_encoding, count_generation
from hagan3d.methods.hagan.encoder import encode
from hagan3d.methods.hagan.volume_windows import volume_windows
from hagan3d.methods.registry import make_networks
from hagan3d.peak_memory import PeakMemory
from tests.helpers import CPU, make_config

GIB = 2**30
SMALL = {"latent_dim": 8, "channels": 64, "d_channels": 64}


@pytest.mark.parametrize("norm", ["rms", "group"])
@pytest.mark.parametrize(("side", "gib"), [(256, 0.5), (512, 1.0), (1024, 2.0)])
def test_a_volume_of_the_published_model_takes_no_more_than(side, gib, norm):
    assert count_generation(make_config("hagan", size=(side, side, side), norm=norm)) <= gib * GIB


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["rms", "group"])
@pytest.mark.parametrize("depth", [4, 12])
@pytest.mark.parametrize("output_skip", [False, True])
def test_the_counted_memory_is_that_of_generation(norm, depth, output_skip):
    config = make_config("hagan", size=(128, 64, 128), norm=norm, output_skip=output_skip, **SMALL)
    g = make_networks(config).g
    with torch.no_grad(), PeakMemory(g.state_dict().values()) as counted:
        a = g.common(torch.randn(1, 8))
        for window in volume_windows(g.high, a, depth // 4, g.skip(a)):
            del window
    assert counted.peak == pytest.approx(count_generation(config, depth=depth), rel=0.01)


@pytest.mark.parametrize(("channels", "labels"), [(1, 0), (4, 4)])
def test_the_counted_memory_is_that_of_encoding(channels, labels):
    config = make_config("hagan", data={"size": (64, 64, 32), "channels": channels, "labels": labels}, **SMALL)
    nets = make_networks(config)
    weights = [*nets.e_h.state_dict().values(), *nets.e_g.state_dict().values()]
    with torch.no_grad(), PeakMemory(weights) as counted:
        encode(nets.e_h, nets.e_g, (torch.zeros(1, channels + labels, 8, 64, 32) for _ in range(8)))
    assert counted.peak == pytest.approx(count_encoding(config), rel=0.01)


def test_memory_of_windows_does_not_depend_on_the_number_of_slices():
    def windows_alone(slices):
        g = make_networks(make_config("hagan", size=(slices, 64, 64), subvolume_depth=16, high_convs=1, **SMALL)).g
        a = torch.zeros(1, 8, slices // 4, 16, 16)
        with torch.no_grad(), PeakMemory([*g.state_dict().values(), a]) as counted:
            before = counted.now
            for window in volume_windows(g.high, a, 4):
                del window
        return counted.peak - before

    assert windows_alone(64) == pytest.approx(windows_alone(192), rel=0.01)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2e9), ("500MB", 5e8), ("1.5GiB", 1.5 * GIB), ("512MiB", 2**29), ("2gb", 2e9), ("0.5 GB", 5e8)],
)
def test_amounts_of_memory_are_parsed(text, expected):
    assert cli.parse_bytes("--memory", text) == expected


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "2 apples", "0GB", ""])
def test_other_amounts_are_refused(text):
    with pytest.raises(InputError, match="--memory.*expected an amount of memory such as 2GB"):
        cli.parse_bytes("--memory", text)


def test_more_memory_gives_thicker_windows_and_too_little_names_the_minimum(monkeypatch):
    class Model:
        config = make_config("hagan", size=(64, 64, 64), **SMALL)
        loaded, num_classes, device = ["g"], 0, CPU
        networks = make_networks(config)

    Model.networks.g = torch.nn.Linear(1, 1)
    monkeypatch.setattr(memory, "_generation", lambda *_: lambda depth: 10**6 * depth)
    held = memory.WRITER_BLOCKS * 4 * 64**3
    assert memory.window_depth(Model, 4 * 10**6 + held) == 4
    assert memory.window_depth(Model, 17 * 10**6 + held) == 16
    assert memory.window_depth(Model, 10**10) == 64
    with pytest.raises(InputError, match="--memory 9MB: too little for this model; the minimum is 10MB"):
        memory.window_depth(Model, 9 * 10**6)
