"""Methods that translate to images together with their label map: from a table of pairs to files and their overlap."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hagan3d import cli, evaluate, prepare, train, translate
from hagan3d.config import AugmentConfig, DegradeConfig, LabelledTargetConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.batches.pairs import Pairs, PairSource
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.phantoms.head import LABEL_NAMES, write_heads
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method
from tests.helpers import assert_equal
from tests.methods.small import (
    assert_counts_agree,
    make_trainer,
    make_updates,
    run_steps,
    small_config,
    train_with_stops,
)

TRANSLATION = sorted(name for name in method_names() if config_class(name).translates)
LABELLED = [name for name in TRANSLATION if issubclass(config_class(name), LabelledTargetConfig)]
K = len(LABEL_NAMES)


def write_table(folder: Path, heads: Path, columns: dict[str, str]) -> Path:
    """Write a CSV of pairs of head phantoms: FLAIR to T1, with the label map of the tumour."""
    cases = sorted(path.name[: -len("_0000.nii.gz")] for path in (heads / "imagesTr").glob("*_0000.nii.gz"))
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", *columns])
        table.writerows([case, *(str(heads / pattern.format(case)) for pattern in columns.values())] for case in cases)
    return folder / "pairs.csv"


COLUMNS = {
    "source": "imagesTr/{}_0003.nii.gz",
    "target": "imagesTr/{}_0000.nii.gz",
    "seg": "labelsTr/{}.nii.gz",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with head phantoms, a table of pairs, and a store of these."""
    path = tmp_path_factory.mktemp("labelled")
    table = write_table(path, write_heads(path / "heads", 6, (32, 32, 32)), COLUMNS)
    words = ["--pairs", str(table), "--output", str(path / "s.h5"), "--size", "32", "32", "32", "--validation", "0.4"]
    assert cli.run(prepare.main, [*words, "--workers", "1", "--label_names", *LABEL_NAMES]) == 0
    return path


def config_of(method: str, **settings):
    return small_config(method, degrade=DegradeConfig(), target_labels=K, **settings)


def test_the_store_has_images_and_label_maps(folder: Path):
    store = Store(folder / "s.h5")
    assert store.has_sources and store.channels == ("target",) and store.label_names == LABEL_NAMES
    for i, name in enumerate(store.ids):
        target, file = store.volume(i), nib.load(folder / f"heads/labelsTr/{name}.nii.gz")
        assert target.shape == (1 + K, 32, 32, 32) and store.source(i).shape == (1, 32, 32, 32)
        expected = np.bincount(np.asarray(file.dataobj).astype(int).ravel(), minlength=K)
        assert (np.bincount(label_map_of(target.numpy(), 1).ravel(), minlength=K) == expected).all()


def test_augmented_labels_move_with_their_images(folder: Path):
    change = AugmentConfig(flip_axes=("D", "W"), rotate_deg=20, shift=0.1, noise=0.1)
    store = Store(folder / "s.h5")
    plain = Pairs(store).pair(0)
    moved = [Pairs(store).pair(0, augmentation=change, augmentation_seed=seed) for seed in range(2)]
    assert not torch.equal(moved[0].target, moved[1].target)
    for pair in moved:
        assert set(pair.target[1:].unique().tolist()) == {-1.0, 1.0}
        assert (pair.target[1:].sum(0) == 2 - K).all()  # one label in each voxel
        tumours, plain_tumours = pair.target[1] < 0, plain.target[1] < 0
        for image, plain_image in ((pair.source[0], plain.source[0]), (pair.target[0], plain.target[0])):
            assert abs(float(image[tumours].mean()) - float(plain_image[plain_tumours].mean())) < 0.15


def test_a_copy_is_of_the_images_alone(folder: Path):
    words = ["--nnunet", str(folder / "heads"), "--output", str(folder / "volumes.h5"), "--size", "32", "32", "32"]
    assert cli.run(prepare.main, [*words, "--workers", "1", "--validation", "0.4"]) == 0
    change = AugmentConfig(rotate_deg=20, noise=0.1)
    pair = Pairs(Store(folder / "volumes.h5"), DegradeConfig(kind="copy")).pair(0, augmentation=change)
    assert pair.source.shape == (4, 32, 32, 32) and torch.equal(pair.source, pair.target[:4])
    assert set(pair.target[4:].unique().tolist()) == {-1.0, 1.0} and (pair.target[4:].sum(0) == 2 - K).all()


@pytest.mark.parametrize("method", LABELLED)
def test_labels_are_probabilities_and_have_a_loss_of_their_own(method: str, folder: Path):
    config = config_of(method, label_weight=3.0)
    updates = make_updates(config)
    batch = PairSource(Store(folder / "s.h5"), "train", 2, 0).batch(0)
    nets, phase = updates.networks, updates.phases[0]
    terms = phase.loss(nets, batch)
    made = nets.translate(batch.source).mean if method != "pix2pix" else None
    made = made if made is not None else make_fake(nets, batch)
    torch.testing.assert_close(made[:, 1:].sum(1), torch.full_like(made[:, 0], 2.0 - K))
    p, t = (made[:, 2:] + 1) / 2, (batch.target[:, 2:] + 1) / 2
    both, sums = (p * t).sum((2, 3, 4)), (p + t).sum((2, 3, 4))
    entropy = -(((batch.target[:, 1:] + 1) / 2) * ((made[:, 1:] + 1) / 2).log()).sum(1).mean()
    torch.testing.assert_close(terms["labels"], 1 - ((2 * both + 1e-5) / (sums + 1e-5)).mean() + entropy)
    assert phase.weights_at(0, {})["labels"] == 3.0
    if method == "pix2pix":
        torch.testing.assert_close(terms["l1"], (made[:, 0] - batch.target[:, 0]).abs().mean())


def make_fake(nets, batch):
    """The translation of a step of pix2pix, with its dropout."""
    return nets.generate(batch.source, [int(u * 2**31) for u in batch.uniform("dropout", 1)[:, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("method", LABELLED)
def test_learns_a_pair_with_its_labels_by_heart(method: str, folder: Path):
    config = config_of(method, batch_size=1, width=8, lr_g=2e-3, residual=True)
    updates = make_updates(config)
    batch = PairSource(Store(folder / "s.h5"), "train", 1, 0).batch(0)
    middle = slice(8, 24)
    batch = replace(batch, source=batch.source[..., middle, middle, middle])
    batch = replace(batch, target=batch.target[..., middle, middle, middle])
    run_steps(updates, batch, 60)
    with torch.no_grad():
        made = updates.networks.translate(batch.source).mean
    predicted, labels = (label_map_of(x[0].numpy(), 1) for x in (made, batch.target))
    tumour = labels > 0
    assert 2 * (tumour & (predicted > 0)).sum() / (tumour.sum() + (predicted > 0).sum()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("window", ["patch", "hierarchical"])
@pytest.mark.parametrize("method", LABELLED)
def test_a_run_on_windows_resumes_bit_for_bit(method: str, window: str, folder: Path, tmp_path: Path):
    config = config_of(method, steps=3, levels=2, data={"window": window, "subvolume_depth": 8})
    one, other = train_with_stops(folder / "s.h5", tmp_path, config, [1])
    assert_equal(one.networks, other.networks)
    assert_equal(one.optimizers, other.optimizers)


@pytest.mark.slow
@pytest.mark.parametrize("method", LABELLED)
def test_the_plan_counts_labels(method: str):
    assert_counts_agree(config_of(method, data={"window": "hierarchical", "subvolume_depth": 8}))


@pytest.mark.slow
@pytest.mark.parametrize("method", LABELLED)
def test_from_a_table_to_files_and_their_overlap(method: str, folder: Path, tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "ct"
    config = config_of(method, steps=2)
    make_trainer(folder / "s.h5", run, replace(config, log=replace(config.log, preview_every=2))).run()
    assert list(run.glob("**/*.png")), "a preview"
    sources = tmp_path / "sources"
    sources.mkdir()
    source = folder / "heads/imagesTr" / next((folder / "heads/imagesTr").glob("*_0003.nii.gz")).name
    (sources / "patient.nii.gz").write_bytes(source.read_bytes())
    assert cli.run(translate.main, [str(run), "--input", str(sources), "--out", str(out), "--depth", "0"]) == 0
    image, labels = (nib.load(out / f"patient_{name}.nii.gz") for name in ("target", "seg"))
    np.testing.assert_allclose(labels.affine, nib.load(source).affine, atol=1e-4)
    values = np.asarray(labels.dataobj)
    assert values.dtype.kind == "i" and values.max() < K and image.shape == labels.shape == nib.load(source).shape
    assert json.loads((out / "labels.json").read_text()) == {name: k for k, name in enumerate(LABEL_NAMES)}

    report = tmp_path / "report"
    assert cli.run(evaluate.main, [str(run), "--store", str(folder / "s.h5"), "--out", str(report)]) == 0
    metrics = json.loads((report / "metrics.json").read_text())
    assert set(metrics["dice"]) <= {*LABEL_NAMES[1:]} and metrics["summary"]["translated"]["whole"]["psnr_db"]
    page = (report / "report.html").read_text()
    assert "<h2>Overlap</h2>" in page and "<h2>Errors</h2>" in page


def test_other_methods_and_other_counts_refuse_label_maps(folder: Path):
    store = Store(folder / "s.h5")
    for method in TRANSLATION:
        if config_class(method).degradations is not None:
            continue
        config = small_config(method, degrade=DegradeConfig())
        with pytest.raises(
            InputError, match="its targets have label maps of 4 labels|predicts labels|label maps; make"
        ):
            make_method(config).check_store(store)
    for method in LABELLED:
        with pytest.raises(InputError, match=f"use --{method}.target_labels 4"):
            make_method(small_config(method, degrade=DegradeConfig(), target_labels=3)).check_store(store)
        with pytest.raises(InputError, match="at least 2, the background included"):
            small_config(method, target_labels=1)


@pytest.mark.parametrize(
    ("columns", "more", "message"),
    [
        (COLUMNS, [], "has the column seg, so name its labels"),
        ({k: v for k, v in COLUMNS.items() if k != "seg"}, ["--label_names", "a", "b"], "has no column seg"),
        (COLUMNS, ["--label_names", "background", "tumour"], "has the label 2"),
        (COLUMNS | {"seg": "labelsTr/{}_none.nii.gz"}, ["--label_names", *LABEL_NAMES], "does not exist"),
    ],
)
def test_label_maps_that_cannot_be_used_are_named(columns, more, message, folder: Path, tmp_path: Path, capsys):
    table = write_table(tmp_path, folder / "heads", columns)
    words = ["--pairs", str(table), "--output", str(tmp_path / "s.h5"), "--size", "32", "32", "32", "--workers", "1"]
    assert cli.run(prepare.main, [*words, *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "s.h5").exists()


def test_the_next_line_of_prepare_names_the_labels(folder: Path, tmp_path: Path, capsys):
    words = ["--pairs", str(folder / "pairs.csv"), "--output", str(tmp_path / "s.h5"), "--size", "32", "32", "32"]
    assert cli.run(prepare.main, [*words, "--workers", "1", "--label_names", *LABEL_NAMES]) == 0
    assert f"--METHOD.target_labels {K}" in capsys.readouterr().out
    settings = [f"--pix2pix.target_labels={K}", "--pix2pix.width=4", "--pix2pix.critic_width=4", "--pix2pix.levels=2"]
    run = ["--config", "pix2pix_32", "--data.store", str(tmp_path / "s.h5"), "--data.degrade.kind", "none"]
    more = ["--pix2pix.critic_layers=1", "--train.steps=1", "--train.device=cpu", "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*run, *settings, *more]) == 0
