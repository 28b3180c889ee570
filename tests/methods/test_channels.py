"""Methods that generate volumes of several channels with label maps: every method with every part of a run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import hagan3d as h3
from hagan3d import augment, cli, encode
from hagan3d.checkpoint import files, load_model
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.phantoms.head import CHANNELS, LABEL_NAMES, write_heads
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet
from hagan3d.inference.encoding import inputs_of_files
from hagan3d.inference.generation import generate, samples, volume_slabs
from hagan3d.inference.nnunet import check_folder, write_nnunet
from hagan3d.inference.reconstruction import error_names
from hagan3d.losses.diffaug import NUM_RANDOMS, diffaug
from hagan3d.losses.intensities import sorted_l1
from hagan3d.methods.generation import GenerationPreview
from hagan3d.methods.hagan.losses import with_label_noise
from hagan3d.methods.registry import make_networks
from hagan3d.networks.layers import VolumeOutput
from tests.helpers import assert_equal
from tests.methods.small import assert_counts_agree, make_trainer, small_config, train_with_stops

GENERATIVE = sorted(name for name in method_names() if not config_class(name).translates)
COUNTS = {"channels": len(CHANNELS), "labels": len(LABEL_NAMES)}


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """The folder of an nnU-Net data set of head phantoms, with a store of them."""
    folder = write_heads(tmp_path_factory.mktemp("heads"), 8, (32, 32, 32))
    config = PrepareConfig(size=(32, 32, 32), validation=0.4)
    prepare(find_inputs(None, nnunet=folder), folder / "store.h5", config, progress=False)
    return folder


def channel_config(method: str, **settings):
    return small_config(method, data=COUNTS, **settings)


@pytest.fixture(scope="module")
def run(heads: Path, tmp_path_factory) -> Path:
    """A run of HA-GAN on the heads."""
    out = tmp_path_factory.mktemp("run")
    make_trainer(heads / "store.h5", out, channel_config("hagan", steps=2)).run()
    return out


def test_label_channels_are_probabilities():
    x = torch.randn(2, 8, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    output = VolumeOutput(4, 4)
    y = output(x)
    p = (y[:, 4:] + 1) / 2
    torch.testing.assert_close(p, torch.softmax(x[:, 4:], dim=1))
    torch.testing.assert_close(y[:, :4], torch.tanh(x[:, :4]))
    torch.testing.assert_close(output.in_place(x.clone()), y)
    torch.testing.assert_close(VolumeOutput(8).in_place(x.clone()), torch.tanh(x))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "skip"), [("rms", False), ("rms", True), ("group", False)])
def test_windows_equal_the_volume_in_every_channel(norm: str, skip: bool):
    networks = make_networks(channel_config("hagan", norm=norm, output_skip=skip)).eval()
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = networks.volume(z)
        for depth in (4, 8, 12):
            windows = torch.cat(list(networks.windows(z, None, depth)), dim=2)
            torch.testing.assert_close(windows, whole, atol=1e-5, rtol=0)
        if norm == "rms":
            for start in (0, 12, 24):
                window, low = networks.g(z, torch.tensor([start]))
                torch.testing.assert_close(window, whole[:, :, start : start + 8], atol=1e-5, rtol=0)
                torch.testing.assert_close(low[:, 4:].sum(1), torch.full_like(low[:, 0], 2.0 - len(LABEL_NAMES)))
    assert whole.shape == (1, 8, 32, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("method", GENERATIVE)
def test_a_run_resumes_bit_for_bit(method: str, heads: Path, tmp_path: Path):
    one, other = train_with_stops(heads / "store.h5", tmp_path, channel_config(method, steps=4), [1, 3])
    assert_equal(one.networks, other.networks)
    assert_equal(one.ema, other.ema)
    assert_equal(one.optimizers, other.optimizers)


@pytest.mark.slow
@pytest.mark.parametrize("method", GENERATIVE)
def test_the_plan_counts_every_channel(method: str):
    config = channel_config(method)
    assert_counts_agree(config)


@pytest.mark.parametrize("method", GENERATIVE)
def test_a_store_of_other_channels_is_refused(method: str, heads: Path, tmp_path: Path):
    settings = "use --data.channels 4 --data.labels 4"
    for data in ({}, {"channels": 4}, {"channels": 4, "labels": 3}):
        config = small_config(method, data=data)
        with pytest.raises(InputError, match=settings):
            make_trainer(heads / "store.h5", tmp_path / "run", config).method.check_store(Store(heads / "store.h5"))
    with pytest.raises(InputError, match="at least 2, the background included"):
        small_config(method, data={"labels": 1})


def test_every_channel_gets_a_gradient(heads: Path, tmp_path: Path):
    trainer = make_trainer(heads / "store.h5", tmp_path, channel_config("hagan"))
    batch = replace(trainer.source.batch(0), phase="g", state=trainer.state)
    terms = [term for group in trainer.method.g_loss(trainer.networks, batch) for term in group.values()]
    sum(terms).backward()
    for head in (trainer.networks.g.high.last, trainer.networks.g.low[2]):
        gradient = next(head.parameters()).grad
        out = 1 if gradient.shape[1] == 8 else 0  # a transposed convolution has its outputs second
        assert (gradient.abs().transpose(0, out).flatten(1).sum(1) > 0).all()


def test_intensities_of_labels_are_not_augmented():
    x, low = torch.rand(3, 8, 4, 16, 16), torch.rand(3, 8, 2, 8, 8)
    config = channel_config("hagan").method.diffaug
    config = replace(config, brightness=0.5, contrast=0.5, translate=0.0)
    window, small = diffaug(x, low, config, 1.0, np.random.default_rng(0).random((3, NUM_RANDOMS)), images=4)
    assert torch.equal(window[:, 4:], x[:, 4:]) and torch.equal(small[:, 4:], low[:, 4:])
    assert not torch.isclose(window[:, :4], x[:, :4]).any(dim=(2, 3, 4)).all()


def test_intensities_are_sorted_channel_by_channel():
    a, b = torch.rand(2, 1, 8, 8, 8), torch.rand(2, 1, 8, 8, 8) + 3
    both, swapped = torch.cat([a, b], 1), torch.cat([b, a], 1)
    # mixed together, the channels would have the same intensities
    assert sorted_l1(both, swapped) > 5
    assert sorted_l1(both, both.flip(2)) < 1e-6
    torch.testing.assert_close(sorted_l1(both, both * 2), (sorted_l1(a, a * 2) + sorted_l1(b, b * 2)) / 2)


def test_a_volume_is_written_as_a_file_per_channel(run: Path, heads: Path, tmp_path: Path):
    model = load_model(run)
    paths = generate(model, [3], tmp_path)
    assert [path.name for path in paths] == [f"volume-000003_{name}.nii.gz" for name in (*CHANNELS, "seg")]
    sample = next(samples(model, [3])).volume
    store = Store(heads / "store.h5")
    images = [nib.load(path) for path in paths]
    for channel, image in enumerate(images[:-1]):
        lo, hi = model.description.channels[channel].interval
        expected = (sample[channel].transpose(2, 1, 0) + 1) * (hi - lo) / 2 + lo
        np.testing.assert_allclose(image.get_fdata(), expected, atol=1e-2)
        np.testing.assert_allclose(image.affine, images[-1].affine)
    labels = np.asarray(images[-1].dataobj)
    np.testing.assert_array_equal(labels, sample[4:].argmax(0).transpose(2, 1, 0))
    assert images[-1].get_data_dtype() == np.int16 and nib.aff2axcodes(images[0].affine) == ("R", "A", "S")
    np.testing.assert_allclose(images[0].header.get_zooms(), np.abs(store.affines[0][:3, :3]).sum(1), rtol=1e-4)
    assert json.loads((tmp_path / "labels.json").read_text()) == {name: i for i, name in enumerate(LABEL_NAMES)}


def write_table(folder: Path, heads: Path, columns: tuple[str, ...], **changed: Path) -> Path:
    """Write a CSV of one case of the heads, with some of its files replaced."""
    case = sorted(path.name.removesuffix(".nii.gz") for path in (heads / "labelsTr").iterdir())[0]
    files = {name: heads / "imagesTr" / f"{case}_{i:04d}.nii.gz" for i, name in enumerate(CHANNELS)}
    files |= {"seg": heads / "labelsTr" / f"{case}.nii.gz"} | changed
    cells = [str(files[column]) for column in columns]
    (folder / "cases.csv").write_text(f"id,{','.join(columns)}\na,{','.join(cells)}\n")
    return folder / "cases.csv"


def test_a_case_to_encode_is_checked_as_one_to_prepare(run: Path, heads: Path, tmp_path: Path):
    description = load_model(run).description
    columns = (*CHANNELS, "seg")
    assert inputs_of_files(write_table(tmp_path, heads, columns), description)[0] == 1
    upper = write_table(tmp_path, heads, columns).rename(tmp_path / "cases.CSV")
    assert inputs_of_files(upper, description)[0] == 1
    with pytest.raises(InputError, match="its volumes have the channels T1c, T1, .*, but those of the model are T1, "):
        inputs_of_files(write_table(tmp_path, heads, (columns[1], columns[0], *columns[2:])), description)
    image = nib.load(sorted((heads / "labelsTr").iterdir())[0])
    labels = np.asarray(image.dataobj)
    for name, changed, affine, reason in (
        ("half", labels * np.float32(0.5), image.affine, "labels must be integers, got fractions"),
        ("new", np.where(labels == 2, 9, labels).astype(np.uint8), image.affine, "has the label 9, but the labels are"),
        ("far", labels, image.affine + np.array([[0, 0, 0, 900.0]] * 3 + [[0] * 4]), "its grid does not overlap"),
    ):
        nib.save(nib.Nifti1Image(changed, affine), tmp_path / f"{name}.nii.gz")
        table = write_table(tmp_path, heads, columns, seg=tmp_path / f"{name}.nii.gz")
        with pytest.raises(InputError, match=f"{name}.nii.gz: {reason}"):
            inputs_of_files(table, description)


@pytest.mark.parametrize("reconstruct", [False, True])
def test_the_least_memory_that_is_named_suffices(reconstruct: bool, run: Path, heads: Path, tmp_path: Path, capsys):
    words = [str(run), "--input", str(heads / "store.h5"), "--out", str(tmp_path), "--memory"]
    words[1:1] = ["--reconstruct"] if reconstruct else []
    assert cli.run(encode.main, [*words, "0.1MB"]) == 2
    assert cli.run(encode.main, [*words, capsys.readouterr().err.split()[-1]]) == 0


@pytest.mark.slow
def test_files_are_encoded_with_all_channels(run: Path, heads: Path, tmp_path: Path):
    model = load_model(run)
    _, inputs = inputs_of_files(heads, model.description)
    first = next(iter(inputs))
    store = Store(heads / "store.h5")
    np.testing.assert_allclose(first.x, store.volume(0).numpy(), atol=1e-4)
    np.testing.assert_allclose(first.intervals, store.intervals[0])
    words = [str(run), "--input", str(heads / "store.h5"), "--reconstruct", "--out", str(tmp_path / "out")]
    assert cli.run(encode.main, words) == 0
    header, row, *_ = (tmp_path / "out" / "features.csv").read_text().splitlines()
    names = error_names(model.description)
    assert header.split(",")[2 : 2 + len(names)] == names
    assert names[:2] == ["mae_T1", "psnr_db_T1"] and names[-1] == "dice_enhancing"
    # Dice by hand, from the files
    values = dict(zip(header.split(","), row.split(","), strict=True))
    case = row.split(",")[0]
    made = np.asarray(nib.load(tmp_path / "out" / "reconstructions" / f"{case}_seg.nii.gz").dataobj)
    real = store.label_map(store.ids.index(case)).transpose(2, 1, 0)
    both, total = ((made == 1) & (real == 1)).sum(), (made == 1).sum() + (real == 1).sum()
    assert float(values["dice_edema"]) == pytest.approx(2 * both / total, abs=1e-5)
    with pytest.raises(InputError, match="trained on label maps too"):
        inputs_of_files(heads / "imagesTr", model.description)


def test_a_generated_volume_of_the_api_has_images_and_labels(run: Path):
    model = h3.Model.load(run, device="cpu")
    volumes = model.generate(2, seed=0)
    assert volumes.numpy().shape == (2, 4, 32, 32, 32) and volumes.label_maps.shape == (2, 32, 32, 32)
    x = next(samples(load_model(run), [1])).volume
    np.testing.assert_allclose(volumes.normalized[1, :4], x[:4], atol=1e-4)
    assert np.array_equal(volumes.normalized[1, 4:].argmax(0), x[4:].argmax(0))
    assert model.encode(volumes).shape == (2, 8)


@pytest.fixture(scope="module")
def dataset(run: Path, heads: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("nnunet") / "Dataset001_Heads"
    words = [str(run), "--store", str(heads / "store.h5"), "--per_class", "3", "--nnunet", str(out)]
    assert cli.run(augment.main, words) == 0
    return out


@pytest.mark.slow
def test_an_nnunet_data_set_comes_back_as_it_went_in(dataset: Path, heads: Path, tmp_path: Path):
    store = Store(heads / "store.h5")
    train = [store.ids[i] for i in store.indices("train")]
    rows = [line.split(",") for line in (dataset / "cases.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows].count("generated") == 3 and [row[1] for row in rows].count("real") == 8
    about = json.loads((dataset / "dataset.json").read_text())
    assert about["numTraining"] == len(train) + 3 and about["labels"]["background"] == 0
    assert len(list((dataset / "imagesTs").iterdir())) == 4 * (8 - len(train))
    cases = find_inputs(None, nnunet=dataset)
    config = PrepareConfig(size=(32, 32, 32), validation=0)
    again = Store(prepare(cases, tmp_path / "s.h5", config, progress=False).path)
    assert len(again) == len(train) + 3
    i = again.ids.index(train[0])
    np.testing.assert_array_equal(again.label_map(i), store.label_map(store.ids.index(train[0])))
    np.testing.assert_allclose(again.affines[i], store.affines[store.ids.index(train[0])], atol=1e-4)
    assert cli.run(augment.main, ["run", "--store", "s", "--nnunet", str(dataset)]) == 2  # is there already


def test_two_ids_that_would_be_one_file_are_refused(run: Path, heads: Path, tmp_path: Path):
    model, store = load_model(run), Store(heads / "store.h5")
    store.ids[:2] = ["p1/t1", "p1_t1"]
    with pytest.raises(InputError, match="p1_t1.nii.gz: would be written for two volumes; change the id of one"):
        write_nnunet(model, store, tmp_path / "set", GeneratedSet(1, 0, 1.0))
    assert not list(tmp_path.iterdir())


def test_only_data_sets_made_here_are_replaced(dataset: Path, heads: Path, tmp_path: Path):
    check_folder(tmp_path / "new", force=False)
    check_folder(dataset, force=True)
    shutil.copytree(heads, tmp_path / "heads")
    (tmp_path / "heads" / "cases.csv").write_text("id,t1,seg\n")  # as of phantoms, or of a user
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "cases.csv").write_text("id,ct\n")
    mixed = shutil.copytree(dataset, tmp_path / "mixed")
    (mixed / "notes.txt").write_text("mine")
    for folder in (tmp_path / "heads", tmp_path / "scans", mixed):
        with pytest.raises(InputError, match="holds other files than a data set made here"):
            check_folder(folder, force=True)
    with pytest.raises(InputError, match="use another --nnunet, or --force to replace it"):
        check_folder(dataset, force=False)


def test_a_store_with_generated_volumes_keeps_their_labels(run: Path, heads: Path, tmp_path: Path):
    words = [str(run), "--store", str(heads / "store.h5"), "--per_class", "2", "--out", str(tmp_path / "more.h5")]
    assert cli.run(augment.main, words) == 0
    made = Store(tmp_path / "more.h5")
    assert made.generated.sum() == 2 and made.label_names == LABEL_NAMES
    x = next(samples(load_model(run), [1])).volume
    np.testing.assert_array_equal(made.label_map(9), x[4:].argmax(0))
    np.testing.assert_allclose(made.volume(9)[:4].numpy(), x[:4], atol=2e-5)


def test_windows_of_inference_hold_every_channel(run: Path):
    model = load_model(run)
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.networks.volume(z)[0].numpy()
    windows = np.concatenate(list(volume_slabs(model, z, None, 4)), axis=1)
    np.testing.assert_allclose(windows, whole, atol=1e-5)
    assert files.load_model(run).description.label_names == LABEL_NAMES


def test_noise_on_labels_is_of_the_step_and_spares_images():
    x = torch.zeros(2, 8, 8, 16, 16)
    noisy = with_label_noise(x, 4, 0.3, np.array([5, 6]))
    assert torch.equal(noisy[:, :4], x[:, :4])
    assert noisy[:, 4:].std().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(noisy, with_label_noise(x, 4, 0.3, np.array([5, 6])))
    assert not torch.equal(noisy[0], with_label_noise(x, 4, 0.3, np.array([7, 6]))[0])
    # a sample has its own noise, whatever else is in its micro-batch
    assert torch.equal(noisy[1], with_label_noise(x[1:], 4, 0.3, np.array([6]))[0])


def test_discriminators_see_noisy_labels(heads: Path, tmp_path: Path):
    seen = {}
    for noise in (0.0, 0.5):
        trainer = make_trainer(heads / "store.h5", tmp_path / str(noise), channel_config("hagan", label_noise=noise))
        batch = replace(trainer.source.batch(0), phase="d", state=trainer.state)
        seen[noise] = trainer.method._augmented(batch, "real", batch.window, batch.low)
    for clean, noisy in zip(seen[0.0], seen[0.5], strict=True):
        assert torch.equal(clean[:, :4], noisy[:, :4])
        assert (noisy - clean)[:, 4:].std().item() == pytest.approx(0.5, abs=0.02)


def test_previews_show_every_channel_and_the_labels(run: Path, heads: Path, tmp_path: Path):
    model, store = load_model(run), Store(heads / "store.h5")
    preview = GenerationPreview(store, "train", 0, True, store.volume)
    with torch.no_grad():
        groups = preview.groups(model.networks)
        preview.write(tmp_path / "preview.png", model.networks, model.description)
    kinds = ("real", "generated", "reconstructed")
    assert list(groups) == [f"{kind} {name}" for kind in kinds for name in (*CHANNELS, "labels")]
    i = int(store.indices("train")[1])
    for channel, name in enumerate(CHANNELS):
        assert np.array_equal(groups[f"real {name}"][1], store.channel(i, channel).numpy())
    assert np.array_equal(groups["real labels"][1].label_map, store.label_map(i))
    with Image.open(tmp_path / "preview.png") as picture:
        assert picture.mode == "RGB"
