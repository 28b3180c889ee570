"""Published weights: the imported networks compute the published function."""

import math

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hagan3d import cli
from hagan3d.checkpoint import load_model
from hagan3d.checkpoint.__main__ import main
from hagan3d.checkpoint.published import _description, import_published
from hagan3d.errors import InputError
from hagan3d.inference.generation import generate, latent

FILES = ("generator", "discriminator", "encoder", "sub_encoder")


def conv(state, name, out, into, *kernel):
    state[f"{name}.weight"] = torch.randn(out, into, *kernel) / math.sqrt(into * math.prod(kernel))
    state[f"{name}.bias"] = torch.randn(out) * 0.1


def norm(state, name, channels):
    state[f"{name}.weight"], state[f"{name}.bias"] = 1 + 0.1 * torch.randn(channels), 0.1 * torch.randn(channels)


def spectral(state, name):
    state[f"{name}.u0"], state[f"{name}.sv0"] = torch.randn(1, len(state[f"{name}.weight"])), torch.ones(1)


def generator_state(classes):
    state = {}
    conv(state, "fc1", 512 * 64, 1024 + classes)
    widths = [512, 512, 512, 256, 128, 64, 32, 1]
    for i in range(7):
        conv(state, f"tp_conv{i + 1}", widths[i + 1], widths[i], 3, 3, 3)
        if i < 6:
            norm(state, f"bn{i + 1}", widths[i + 1])
    for i, (into, out) in enumerate([(64, 32), (32, 16), (16, 1)]):
        conv(state, f"sub_G.tp_conv{i + 1}", out, into, 3, 3, 3)
        if i < 2:
            norm(state, f"sub_G.bn{i + 1}", out)
    return state


def discriminator_state(side, classes):
    state = {}
    layers = [(1, 16, (4, 4, 4)), (16, 32, (4, 4, 4)), (32, 64, (4, 4, 4)), (64, 128, (2, 4, 4)), (128, 256, (2, 4, 4))]
    layers += [(256, 512, (1, 4, 4)), (512, 128, (1, 4, 4))]
    for i, (into, out, kernel) in enumerate(layers):
        if i or side == 256:
            conv(state, f"conv{i + 1}", out, 1 if side == 128 and i == 1 else into, *kernel)
    conv(state, "fc1", 64, 129)
    conv(state, "fc2", 1, 64)
    if classes:
        conv(state, "fc2_class", classes, 64)
    for i, (into, out) in enumerate([(1, 32), (32, 64), (64, 128), (128, 256), (256, 1 + classes)]):
        if i or side == 256:
            conv(state, f"sub_D.conv{i + 1}", out, 1 if side == 128 and i == 1 else into, 4, 4, 4)
    for name in {key.rsplit(".", 1)[0] for key in state}:
        spectral(state, name)
    return state


def encoder_state():
    state = {}
    for i, (into, out, k) in enumerate([(1, 32, 4), (32, 32, 3), (32, 64, 4)]):
        conv(state, f"conv{i + 1}", out, into, k, k, k)
        norm(state, f"bn{i + 1}", out)
    return state


def sub_encoder_state(side):
    state = {}
    for i, (into, out) in enumerate([(64, 32), (32, 64), (64, 128), (128, 256), (256, 1024)]):
        if i or side == 256:
            conv(state, f"conv{i + 1}", out, 64 if side == 128 and i == 1 else into, 4, 4, 4)
            if i < 4:
                norm(state, f"bn{i + 1}", out)
    return state


def block(state, x, number, up, prefix="", conv_name="tp_conv", norm_name="bn"):
    if up:
        x = F.interpolate(x, scale_factor=2)
    name = f"{prefix}{conv_name}{number}"
    x = F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    norm_key = f"{prefix}{norm_name}{number}"
    return F.relu(F.group_norm(x, 8, state[f"{norm_key}.weight"], state[f"{norm_key}.bias"]))


def published_a(state, side, z):
    """G^A, by the published table of layers."""
    x = F.linear(z, state["fc1.weight"], state["fc1.bias"]).view(-1, 512, 4, 4, 4)
    for i in range(1, 6):
        x = block(state, x, i, up=i in (2, 3, 4) or (i == 5 and side == 256))
    return x


def published_high(state, a):
    """G^H, by the published table of layers."""
    x = F.interpolate(block(state, a, 6, up=True), scale_factor=2)
    return torch.tanh(F.conv3d(x, state["tp_conv7.weight"], state["tp_conv7.bias"], padding=1))


def published_low(state, a):
    x = block(state, block(state, a, 1, False, "sub_G."), 2, False, "sub_G.")
    return torch.tanh(F.conv3d(x, state["sub_G.tp_conv3.weight"], state["sub_G.tp_conv3.bias"], padding=1))


def published_encoder(state, x):
    for i, (stride, padding) in enumerate([(2, 1), (1, 1), (2, 1)], start=1):
        x = F.conv3d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"], stride=stride, padding=padding)
        x = F.relu(F.group_norm(x, 8, state[f"bn{i}.weight"], state[f"bn{i}.bias"]))
    return x


def published_sub_encoder(state, a):
    for i in range(1, 5):
        if f"conv{i}.weight" in state:
            a = F.conv3d(a, state[f"conv{i}.weight"], state[f"conv{i}.bias"], stride=2, padding=1)
            a = F.relu(F.group_norm(a, 8, state[f"bn{i}.weight"], state[f"bn{i}.bias"]))
    return F.conv3d(a, state["conv5.weight"], state["conv5.bias"]).flatten(1)


def normalized(state, name):
    """One power iteration from u0: W / (v W^T u^T), with v = normalise(u W), u = normalise(v W^T)."""
    weight = state[f"{name}.weight"]
    matrix = weight.flatten(1)
    v = F.normalize(state[f"{name}.u0"] @ matrix)
    u = F.normalize(v @ matrix.T)
    return weight / (v @ matrix.T @ u.T).squeeze()


def published_d(state, x, low, start, side):
    strides = [((2, 2, 2), (1, 1, 1))] * 3 + [((2, 2, 2), (0, 1, 1))] * 2 + [((1, 2, 2), (0, 1, 1)), ((1, 1, 1), 0)]
    for i, (stride, padding) in enumerate(strides, start=1):
        if f"conv{i}.weight" in state:
            x = F.conv3d(x, normalized(state, f"conv{i}"), state[f"conv{i}.bias"], stride=stride, padding=padding)
            x = F.leaky_relu(x, 0.2)
    x = torch.cat([x.flatten(1), start[:, None] / (7 * side / 8)], 1)
    x = F.leaky_relu(F.linear(x, normalized(state, "fc1"), state["fc1.bias"]), 0.2)
    high = F.linear(x, normalized(state, "fc2"), state["fc2.bias"])[:, 0]
    for i in range(1, 5):
        if f"sub_D.conv{i}.weight" in state:
            low = F.conv3d(low, normalized(state, f"sub_D.conv{i}"), state[f"sub_D.conv{i}.bias"], stride=2, padding=1)
            low = F.leaky_relu(low, 0.2)
    low = F.conv3d(low, normalized(state, "sub_D.conv5"), state["sub_D.conv5.bias"]).flatten(1)[:, 0]
    return (high + low) / 2


@pytest.fixture(scope="module", params=[(128, 0, ""), (128, 3, "module.")], ids=["128", "128-classes-module"])
def published(request, tmp_path_factory):
    side, classes, prefix = request.param
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    states = {
        "G": generator_state(classes),
        "D": discriminator_state(side, classes),
        "E": encoder_state(),
        "Sub_E": sub_encoder_state(side),
    }
    paths = []
    for name in ("G", "D", "E", "Sub_E"):
        path = folder / f"{name}_iter80000.pth"
        torch.save({"model": {prefix + key: value for key, value in states[name].items()}, "optimizer": {}}, path)
        paths.append(path)
    words = [word for name, path in zip(FILES, paths, strict=True) for word in (f"--{name}", str(path))]
    assert (
        cli.run(main, ["import", "--method", "hagan", *words, "--size", str(side), "--out", str(folder / "run")]) == 0
    )
    return side, classes, states, load_model(folder / "run"), folder


def with_class(z, classes, label):
    return torch.cat([z, F.one_hot(torch.tensor([label]), classes).float()], 1) if classes else z


@pytest.mark.slow
@torch.no_grad()
def test_generator_is_the_published_function(published):
    side, classes, states, model, _ = published
    z = torch.randn(1, 1024)
    a = published_a(states["G"], side, with_class(z, classes, 1))
    ours = model.networks.g.common(z, torch.tensor([1]) if classes else None)
    torch.testing.assert_close(ours, a, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.networks.g.high(a), published_high(states["G"], a), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.networks.g.low(a), published_low(states["G"], a), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_encoders_are_the_published_functions(published):
    side, _, states, model, _ = published
    slab = torch.randn(1, 1, side // 8, side, side)
    torch.testing.assert_close(model.networks.e_h(slab), published_encoder(states["E"], slab), atol=1e-4, rtol=1e-3)
    a = torch.randn(1, 64, side // 4, side // 4, side // 4)
    torch.testing.assert_close(model.networks.e_g(a), published_sub_encoder(states["Sub_E"], a), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_discriminator_is_the_published_function(published):
    side, _, states, model, _ = published
    x, low = torch.randn(1, 1, side // 8, side, side), torch.randn(1, 1, side // 4, side // 4, side // 4)
    start = torch.tensor([20])
    logits, _ = model.networks.logits(start, x, low)
    torch.testing.assert_close(sum(logits) / 2, published_d(states["D"], x, low, start, side), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_an_imported_run_generates_in_hounsfield_units(published, tmp_path):
    _, classes, states, model, _ = published
    (path,) = generate(model, [5], tmp_path)
    image = nibabel.load(path)
    z = torch.from_numpy(latent(model, 5))[None]
    with torch.no_grad():
        x = published_high(states["G"], published_a(states["G"], 128, with_class(z, classes, 5 % max(classes, 1))))[
            0, 0
        ]
    expected = (x + 1) * 812 - 1024
    got = torch.from_numpy(image.get_fdata()).permute(2, 1, 0).float()  # x, y, z in the file; D, H, W here
    torch.testing.assert_close(got, expected, atol=0.2, rtol=1e-3)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")


def test_the_spacing_of_an_imported_run_is_that_along_d_h_w():
    data = _description((128, 128, 128), 2, (-5.0, 7.0), (3.0, 2.0, 1.0), "HU")
    assert data.voxel_spacing == (3, 2, 1) and nibabel.aff2axcodes(data.affine_array) == ("S", "A", "R")
    np.testing.assert_allclose(data.affine_array @ (63.5, 63.5, 63.5, 1), (0, 0, 0, 1))  # centred on the origin
    (channel,) = data.channels
    assert (*channel.interval, channel.units, *data.class_names) == (-5, 7, "HU", "0", "1")


@pytest.mark.slow
def test_the_256_networks_import_all_keys(tmp_path):
    torch.manual_seed(0)
    states = (generator_state(0), discriminator_state(256, 0), encoder_state(), sub_encoder_state(256))
    paths = [tmp_path / f"{name}_iter1.pth" for name in ("G", "D", "E", "Sub_E")]
    for path, state in zip(paths, states, strict=True):
        torch.save({"model": state}, path)
    import_published("hagan", dict(zip(FILES, paths, strict=True)), 256, tmp_path / "run")
    nets = load_model(tmp_path / "run").networks
    counts = [sum(p.numel() for p in nets[name].parameters()) for name in ("g", "d_h", "d_l", "e_h", "e_g")]
    assert counts == [52_518_210, 4_630_833, 2_771_425, 161_152, 19_663_264]
    assert torch.equal(nets.e_g.last.bias, states[3]["conv5.bias"])


def test_a_wrong_file_is_named(tmp_path):
    path = tmp_path / "G_iter1.pth"
    torch.save({"model": encoder_state()}, path)
    with pytest.raises(InputError, match=r"G_iter1\.pth: not a published generator"):
        import_published("hagan", {"generator": path}, 128, tmp_path / "run")
    torch.save({"model": generator_state(0)}, path)
    other = tmp_path / "E.pth"
    torch.save({"model": sub_encoder_state(128)}, other)
    with pytest.raises(InputError, match=r"E\.pth: (lacks|conv)"):
        import_published("hagan", {"generator": path, "encoder": other}, 128, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"window": (600.0, -1024.0)}, "--window 600 -1024: must be two numbers, the lower first"),
        ({"window": (5.0, 5.0)}, "--window 5 5"),
        ({"spacing": (0.0, 1.0, 1.0)}, "--spacing 0 1 1: must be three numbers above 0"),
    ],
)
def test_a_window_or_spacing_that_is_none_is_refused(settings, reason):
    with pytest.raises(InputError, match=reason):
        _description((128, 128, 128), 0, **({"window": (0.0, 1.0), "spacing": (1.0, 1.0, 1.0)} | settings), units="")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({0: torch.zeros(1)}, "expected a file with a state dict"),
        ({"fc1.weight": torch.tensor([1.0, float("nan")])}, "fc1.weight holds NaN or infinite values"),
    ],
)
def test_weights_that_are_none_are_refused(state, reason, tmp_path):
    torch.save({"model": state}, tmp_path / "G_iter1.pth")
    with pytest.raises(InputError, match=rf"^.*G_iter1\.pth: {reason}"):
        import_published("hagan", {"generator": tmp_path / "G_iter1.pth"}, 128, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_low_rank_first_layer_is_refused_in_one_line(tmp_path):
    state = {"fc1.0.weight": torch.zeros(16, 1024), "fc1.1.weight": torch.zeros(512 * 64, 16)}
    torch.save({"model": state}, tmp_path / "G_iter1.pth")
    with pytest.raises(InputError, match=r"^.*G_iter1\.pth: not a published generator.*$"):
        import_published("hagan", {"generator": tmp_path / "G_iter1.pth"}, 128, tmp_path / "run")
    assert not (tmp_path / "run").exists()
