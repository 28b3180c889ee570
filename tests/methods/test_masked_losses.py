"""`masked_losses`: voxel-wise terms of every translation method ignore what is outside the mask."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hagan3d import cli, train
from hagan3d.methods.registry import make_method, make_networks
from tests.methods.small import TRANSLATION, small_batch, small_config

TERMS = {
    "pix2pix": ("l1",),
    "microscopy": ("l1",),
    "medgan": ("perceptual",),
    "restore": ("l2", "nmse"),
    "cyclegan": ("cycle_source", "cycle_target", "identity_source", "identity_target"),
    "unit": ("l1_source", "l1_target", "cycle_source", "cycle_target"),
    "segan": ("dice",),
    "upgan": ("l1", "nll"),
}
"""Voxel-wise terms by method."""
UNPAIRED = ("cyclegan", "unit")


def test_every_method_with_voxel_wise_terms_is_tested():
    assert {*TERMS, "registration"} == {*TRANSLATION}


def gradients(method: str, masked: bool, small_store) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Return the gradients of each term with respect to every full-size output of a generator, and the mask."""
    paired = {"paired": True} if method in UNPAIRED else {}
    config = small_config(method, masked_losses=masked, **paired)
    torch.manual_seed(0)
    nets, batch, outputs = make_networks(config), small_batch(config, small_store), []
    for name, network in nets.named_children():
        if name[0] in "df":  # features see whole volumes: only the voxels of the perceptual term are left
            for parameter in network.parameters():
                parameter.data.zero_()
        else:
            for part in network if isinstance(network, torch.nn.ModuleList) else [network]:
                part.register_forward_hook(
                    lambda _, __, made: outputs.extend([made] if isinstance(made, Tensor) else made)
                )
    phase = make_method(config).training_phases()[0]
    loss = phase.loss(nets, replace(batch, phase=phase.name, step=phase.first))
    found: dict[str, list[Tensor]] = {}
    for group in [loss] if isinstance(loss, dict) else loss:
        full = [x for x in outputs if x.shape[2:] == batch.target.shape[2:] and x.requires_grad]
        for name in set(group) & {*TERMS[method]}:
            each = torch.autograd.grad(group[name], full, retain_graph=True, allow_unused=True)
            found[name] = [x for x in each if x is not None and x.any()]
        outputs.clear()
    return found, batch.mask


@pytest.mark.parametrize("method", TERMS)
def test_voxels_outside_the_mask_get_no_gradient(method, small_store):
    masked, mask = gradients(method, True, small_store)
    plain, _ = gradients(method, False, small_store)
    assert masked.keys() == plain.keys() == {*TERMS[method]}
    for name in TERMS[method]:
        # of several outputs, one is compared with the real volume, others lead there through further networks
        assert any(not (x * (1 - mask)).any() and (x * mask).any() for x in masked[name]), name
        if name != "nll":  # a likelihood is masked either way
            assert not any(not (x * (1 - mask)).any() for x in plain[name]), name


def test_the_low_resolution_network_learns_inside_the_low_resolution_mask(small_store):
    config = small_config("pix2pix", masked_losses=True, window="hierarchical", subvolume_depth=8)
    batch = small_batch(config, small_store, 32)
    low = {
        f"low_{name}": torch.nn.functional.avg_pool3d(getattr(batch, name), 4) for name in ("source", "target", "mask")
    }
    nets, made = make_networks(config), []
    nets.low_resolution.register_forward_hook(lambda _, __, output: made.append(output))
    terms = make_method(config).low_resolution_loss(nets, replace(batch, **low, phase="low_resolution"))
    (gradient,) = torch.autograd.grad(terms["l1"], made)
    assert not gradient[low["low_mask"] == 0].any() and gradient[low["low_mask"] == 1].all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--method pix2pix --pix2pix.masked_losses true --data.degrade.kind noise",
            "holds no masks for pix2pix.masked",
        ),
        ("--method cyclegan --cyclegan.masked_losses true", "cyclegan.masked_losses: masks belong to pairs"),
        (
            "--method registration --registration.source_channels 2 --data.degrade.kind misalign "
            "--registration.masked_losses true",
            "its losses compare parameters, not voxels",
        ),
    ],
)
def test_masks_that_are_not_there_are_refused_in_one_line(small_store, tmp_path, words, message, capsys):
    assert cli.run(train.main, ["--data.store", str(small_store), "--out", str(tmp_path / "run"), *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "run").exists()
