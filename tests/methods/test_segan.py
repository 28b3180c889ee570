"""SegAN, from pairs of volumes and label maps to label maps on the source's grid and their overlap."""

import dataclasses
import json

import nibabel
import numpy as np
import pytest
import torch

from hagan3d import cli, evaluate, train, translate
from hagan3d import prepare as prepare_door
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.store.store import Store
from hagan3d.evaluation.translation.label_maps import dice_of_labels, dice_summary
from hagan3d.losses.segmentation import dice_loss
from hagan3d.run_settings import load_config
from tests.methods.small import make_updates, run_steps, small_batch, small_config

SMALL = (
    "--segan.width 4 --segan.levels 2 --segan.critic_width 4 --segan.critic_layers 2 "
    "--train.batch_size 2 --train.device cpu --train.steps 2 --log.preview_every 1"
).split()


def write_pairs(folder, count=4, shape=(20, 24, 22)):
    """Two balls, labels 1 and 2, in noise; each pair has its own grid, spacing and place."""
    (folder / "volumes").mkdir()
    (folder / "maps").mkdir()
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for number in range(count):
        random = np.random.default_rng(number)
        labels = np.zeros(shape, np.uint8)
        for label, centre in ((1, (6, 7, 7)), (2, (13, 16, 14))):
            labels[np.linalg.norm(at - centre - random.uniform(-1, 1, 3), axis=-1) < 5] = label
        affine = np.diag([-1.5, 1.2, 1.0, 1])
        affine[:3, 3] = random.uniform(-50, 50, 3)
        volume = labels * 100.0 + random.normal(0, 10, shape)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), folder / f"volumes/p{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f"maps/p{number}.nii.gz")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label_maps")
    write_pairs(folder)
    words = f"--pairs {folder}/volumes {folder}/maps --output {folder}/s.h5 --size 32 32 32 --workers 1"
    more = "--intensity labels --window 0 2 --validation 0.5 --seed 1"
    assert cli.run(prepare_door.main, [*words.split(), *more.split()]) == 0
    return folder


def test_label_maps_are_stored_without_a_value_between_labels(pairs):
    store = Store(pairs / "s.h5")
    assert store.has_label_maps and (store.intervals == [0, 2]).all()
    for i in range(len(store)):
        assert set(store.volume(i).unique().tolist()) == {-1.0, 0.0, 1.0}
        assert len(store.source(i).unique()) > 1000  # volumes are interpolated


def test_augmented_maps_move_with_their_volumes_and_keep_their_labels(pairs):
    from hagan3d.config import AugmentConfig
    from hagan3d.data.batches.pairs import Pairs

    change = AugmentConfig(flip_axes=("D", "W"), rotate_deg=20, shift=0.1, contrast=0.3, noise=0.1)
    store, found = Store(pairs / "s.h5"), []
    for key in range(2):
        pair = Pairs(store).pair(0, augmentation=change, augmentation_seed=key)
        assert set(pair.target.unique().tolist()) <= {-1.0, 0.0, 1.0}
        levels = [float(pair.source[pair.target == x].mean()) for x in (-1, 0, 1)]
        assert levels[1] - levels[0] > 0.4 and levels[2] - levels[1] > 0.4
        found.append(pair.target)
    assert not torch.equal(found[0], found[1])


def test_the_first_scale_of_the_loss_is_the_masked_image():
    updates = make_updates(small_config("segan"))
    nets, batch = updates.networks, small_batch(small_config("segan"), None)
    for parameter in nets.d.parameters():
        torch.nn.init.zeros_(parameter)  # all other scales are equal then
    fake, truth = nets.probabilities(batch.source), nets.one_hot(batch.target)
    terms = updates.phases[0].loss(nets, batch)
    image = batch.source + 1
    pixels = torch.stack([(image * (fake - truth)[:, k : k + 1]).abs() for k in range(1, nets.labels)]).mean()
    scales = len(nets.d.convs) + 1
    torch.testing.assert_close(terms["gan"], pixels / scales)


@pytest.mark.slow
def test_learns_a_pair_by_heart(pairs):
    settings = {"batch_size": 1, "ema": 0.0, "lr_g": 4e-3}
    config = load_config("segan_32", segan={"width": 8, "critic_width": 8}, train=settings)
    whole, middle = PairSource(Store(pairs / "s.h5"), "train", 1, 0).batch(0), slice(8, 24)
    source, target = (x[..., middle, middle, middle] for x in (whole.source, whole.target))
    batch = dataclasses.replace(whole, source=source, target=target)
    updates = make_updates(config)
    nets = updates.networks
    run_steps(updates, batch, 40)
    assert all(parameter.abs().max() <= 0.05 for parameter in nets.d.parameters())
    with torch.no_grad():
        made = nets.finalize(nets.translate(batch.source)).mean
    predicted, labels = ((x[0, 0] + 1).round().numpy() for x in (made, batch.target))
    assert all(value > 0.9 for value in dice_of_labels(predicted, labels, ["background", "a", "b"]).values())


@pytest.mark.slow
def test_from_a_store_to_label_maps_on_the_grids_of_their_volumes(pairs, tmp_path, capsys):
    words = ["--config", "segan_32", "--data.store", str(pairs / "s.h5"), *SMALL]
    assert cli.run(train.main, [*words, "--out", str(tmp_path / "run")]) == 0
    out = tmp_path / "maps"
    assert cli.run(translate.main, [str(tmp_path / "run"), "--input", str(pairs / "volumes"), "--out", str(out)]) == 0
    for number in range(4):
        made, volume = (nibabel.load(place / f"p{number}.nii.gz") for place in (out, pairs / "volumes"))
        assert made.shape == volume.shape and np.allclose(made.affine, volume.affine, atol=1e-4)
        assert made.get_data_dtype() == np.int16 and set(np.unique(made.get_fdata())) <= {0, 1, 2}
    measured = [str(tmp_path / "run"), "--store", str(pairs / "s.h5"), "--out", str(tmp_path / "measured")]
    assert cli.run(evaluate.main, measured) == 0
    assert "Dice" in capsys.readouterr().out and "Overlap" in (tmp_path / "measured" / "report.html").read_text()
    dice = json.loads((tmp_path / "measured" / "metrics.json").read_text())["dice"]
    assert set(dice) == {"1", "2"} and all(0 <= value["mean"] <= 1 for value in dice.values())


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ("segan_32", ["--segan.labels", "4"], "use --segan.labels 3"),
        ("segan_32", ["--segan.objective", "lsgan"], "segan.objective"),
        ("pix2pix_32", [], "its targets are label maps, but method pix2pix predicts intensities"),
        ("hagan_32", [], "label maps as targets, but method hagan generates volumes"),
        ("pix2pix_32", ["--pix2pix.objective", "feature-l1"], "pix2pix.objective feature-l1: must be one of"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(pairs, tmp_path, config, words, message, capsys):
    where = ["--config", config, "--data.store", str(pairs / "s.h5"), "--out", str(tmp_path)]
    assert cli.run(train.main, [*where, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_store_without_label_maps_is_one_line(small_store, tmp_path, capsys):
    where = ["--config", "segan_32", "--data.store", str(small_store)]
    assert cli.run(train.main, [*where, "--data.degrade.kind", "noise", "--out", str(tmp_path / "run")]) == 2
    assert "--intensity labels" in capsys.readouterr().err and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--intensity labels", "window: must be 0 K with --intensity labels"),
        ("--intensity labels --window 0 1", "p0.nii.gz: labels must be integers from 0 to 1, got 2"),
    ],
)
def test_maps_of_other_labels_are_one_line(pairs, tmp_path, words, message, capsys):
    given = f"--pairs {pairs}/volumes {pairs}/maps --output {tmp_path}/s.h5 --size 32 32 32 --workers 1 {words}"
    assert cli.run(prepare_door.main, given.split()) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "s.h5").exists()


def test_the_loss_is_that_of_monai():
    from monai.losses import DiceLoss

    random = torch.Generator().manual_seed(0)
    made = torch.rand(2, 3, 6, 5, 4, generator=random, dtype=torch.float64).softmax(1)
    wanted = torch.nn.functional.one_hot(torch.randint(3, (2, 6, 5, 4), generator=random), 3).movedim(-1, 1).double()
    expected = DiceLoss(include_background=False, smooth_nr=1e-5, smooth_dr=1e-5)(made, wanted)
    torch.testing.assert_close(dice_loss(made, wanted), expected)


def test_overlap_is_counted_per_label_and_not_where_there_is_none():
    wanted, made = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    wanted[0], made[0, :2] = 1, 1  # label 1: 16 voxels, half of them found
    found = dice_of_labels(made, wanted, ["background", "liver", "tumour"])
    assert found == {"liver": pytest.approx(2 * 8 / 24), "tumour": None}
    summary = dice_summary([found, {"liver": 1.0, "tumour": None}])
    assert summary["liver"].mean == pytest.approx((2 / 3 + 1) / 2) and summary.keys() == {"liver"}
