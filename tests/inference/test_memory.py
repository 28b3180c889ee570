"""Memory of inference is known before, and does not grow with the number of slices."""

import pytest
import torch

from hagan3d import cli
from hagan3d.config import Config, DataConfig, ModelConfig
from hagan3d.errors import InputError
from hagan3d.inference import memory
from hagan3d.inference.memory import count_encoding, count_generation
from hagan3d.inference.windows import volume_windows
from hagan3d.methods.hagan.encoder import encode
from hagan3d.methods.hagan.networks import Networks
from hagan3d.peak_memory import LiveBytes

GIB = 2**30


def config(size, **model):
    return Config(data=DataConfig(size=size), model=ModelConfig(**model))


@pytest.mark.parametrize("norm", ["rms", "group"])
@pytest.mark.parametrize(("side", "gib"), [(256, 0.5), (512, 1.0), (1024, 2.0)])
def test_a_volume_of_the_published_model_takes_no_more_than(side, gib, norm):
    assert count_generation(config((side, side, side), norm=norm)) <= gib * GIB


@pytest.mark.parametrize("norm", ["rms", "group"])
@pytest.mark.parametrize("depth", [4, 12])
@pytest.mark.parametrize("output_skip", [False, True])
def test_the_count_is_what_generating_takes(norm, depth, output_skip):
    made = config((128, 64, 128), latent_dim=8, channels=64, d_channels=64, norm=norm, output_skip=output_skip)
    g = Networks(made.data.size, made.data.depth, made.model).g
    with torch.no_grad(), LiveBytes(g.state_dict().values()) as live:
        a = g.common(torch.randn(1, 8))
        for window in volume_windows(g.high, a, depth // 4, g.skip(a)):
            del window
    assert live.peak == pytest.approx(count_generation(made, depth=depth), rel=0.01)


def test_the_count_is_what_encoding_takes():
    made = config((64, 64, 32), latent_dim=8, channels=64, d_channels=64)
    nets = Networks(made.data.size, made.data.depth, made.model)
    weights = [*nets.e_h.state_dict().values(), *nets.e_g.state_dict().values()]
    with torch.no_grad(), LiveBytes(weights) as live:
        encode(nets.e_h, nets.e_g, (torch.zeros(1, 1, 8, 64, 32) for _ in range(8)))
    assert live.peak == pytest.approx(count_encoding(made), rel=0.01)


def test_windows_take_the_same_whatever_the_number_of_slices():
    def windows_alone(slices):
        g = Networks((slices, 64, 64), 16, ModelConfig(latent_dim=8, channels=64, d_channels=64, high_convs=1)).g
        a = torch.zeros(1, 8, slices // 4, 16, 16)
        with torch.no_grad(), LiveBytes([*g.state_dict().values(), a]) as live:
            before = live.now
            for window in volume_windows(g.high, a, 4):
                del window
        return live.peak - before

    assert windows_alone(64) == pytest.approx(windows_alone(192), rel=0.01)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2e9), ("500MB", 5e8), ("1.5GiB", 1.5 * GIB), ("512MiB", 2**29), ("2gb", 2e9), ("0.5 GB", 5e8)],
)
def test_amounts_of_memory_are_read(text, expected):
    assert cli.parse_bytes("--memory", text) == expected


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "2 apples", "0GB", ""])
def test_other_amounts_are_refused(text):
    with pytest.raises(InputError, match="--memory.*want an amount of memory such as 2GB"):
        cli.parse_bytes("--memory", text)


def test_more_memory_is_thicker_windows_and_too_little_names_the_least(monkeypatch):
    class Model:
        config = config((64, 64, 64))
        loaded, num_classes, device = ["g"], 0, torch.device("cpu")
        networks = {"g": torch.nn.Linear(1, 1)}

    monkeypatch.setattr(memory, "_generation", lambda *_: lambda depth: 10**6 * depth)
    held = memory.WRITER_BLOCKS * 4 * 64**3
    assert memory.window_depth(Model, 4 * 10**6 + held) == 4
    assert memory.window_depth(Model, 17 * 10**6 + held) == 16
    assert memory.window_depth(Model, 10**10) == 64
    with pytest.raises(InputError, match="--memory 9MB: too little for this model; the least that works is 10MB"):
        memory.window_depth(Model, 9 * 10**6)
