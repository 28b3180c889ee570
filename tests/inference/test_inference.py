"""Generation and encoding: units and position are those of the data, and equal input gives equal output."""

import csv
import gzip
import subprocess
import sys
from dataclasses import replace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

from hagan3d import cli
from hagan3d import encode as encode_command
from hagan3d import generate as generate_command
from hagan3d.checkpoint import files, load_model, load_translation
from hagan3d.data.store.store import Store
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import GeneratedSet
from hagan3d.inference.encoding import inputs_of_files, inputs_of_store, latents
from hagan3d.inference.features import encode
from hagan3d.inference.generation import generate, latent, samples, volume_slabs
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import CPU, make_config


def make_run(store_path, out, norm="rms", conditional=True, encoder=True):
    sizes = {"latent_dim": 8, "channels": 64, "d_channels": 64, "subvolume_depth": 8}
    settings = {"steps": 2, "batch_size": 2, "device": "cpu", "preview_every": 0}
    config = make_config("hagan", norm=norm, conditional=conditional, encoder=encoder, **sizes, **settings)
    store, method = Store(store_path), make_method(config)
    torch.manual_seed(0)
    nets = make_networks(config, method.num_classes(store))
    Trainer(method, nets, method.batches(store, 2), store.description(), out, CPU, store.store_fingerprint).run()
    return out


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    return make_run(small_store, tmp_path_factory.mktemp("run"))


def test_volumes_have_the_units_and_the_position_of_the_data(run, tmp_path):
    model = load_model(run)
    (path,) = generate(model, [3], tmp_path)
    image = nib.load(path)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (2, 2, 2))
    np.testing.assert_allclose(image.affine[:3, 3], (-31, -40, 100), atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    sample = next(samples(model, [3]))
    expected = (sample.volume[0].transpose(2, 1, 0) + 1) * 812 - 1024
    np.testing.assert_allclose(image.get_fdata(), expected, atol=0.01)


def test_a_seed_determines_the_volume(run, tmp_path):
    model = load_model(run)
    generate(model, [3, 4], tmp_path / "a")
    generate(model, [4], tmp_path / "b", label=0)
    one, other = (nib.load(tmp_path / name / "volume-000004.nii.gz").get_fdata() for name in "ab")
    np.testing.assert_array_equal(one, other)
    rows = list(csv.DictReader((tmp_path / "a" / "samples.csv").open()))
    assert [(row["file"], row["seed"], row["class"]) for row in rows] == [
        ("volume-000003.nii.gz", "3", "b"),
        ("volume-000004.nii.gz", "4", "a"),
    ]
    np.testing.assert_array_equal(np.float32([rows[1][f"z{i}"] for i in range(8)]), latent(model, 4, 0))
    assert (tmp_path / "a" / "samples.png").stat().st_size > 1000


def test_int16_differs_from_float_by_half_a_unit(run, tmp_path):
    model = load_model(run)
    generate(model, [0], tmp_path / "f")
    generate(model, [0], tmp_path / "i", dtype="int16")
    whole, real = (nib.load(tmp_path / name / "volume-000000.nii.gz") for name in "if")
    assert whole.get_data_dtype() == np.int16
    np.testing.assert_allclose(whole.get_fdata(), real.get_fdata(), atol=0.51)


def test_windows_equal_the_whole_volume(run):
    model = load_model(run)
    z, label = torch.randn(1, 8), torch.tensor([1])
    with torch.no_grad():
        whole = model.networks.g.volume(z, label)[0]
        slabs = np.concatenate(list(volume_slabs(model, z, label)), axis=1)
        torch.testing.assert_close(torch.from_numpy(slabs), whole, atol=1e-5, rtol=0)


def test_truncation_and_raw_weights_change_the_volume(run):
    model = load_model(run)
    plain = next(samples(model, [0])).volume
    assert not np.array_equal(plain, next(samples(load_model(run, "raw"), [0])).volume)
    truncated = next(samples(load_model(run), [0], truncation=0.5))
    mean = latent(model, 0, 0, truncation=0)
    np.testing.assert_allclose(truncated.z - mean, (latent(model, 0, 0) - mean) / 2, atol=1e-6)
    assert not np.array_equal(plain, truncated.volume)


def test_an_unknown_class_is_refused(run, small_store, tmp_path):
    with pytest.raises(InputError, match="classes are a, b"):
        next(samples(load_model(run), [0], label=2))
    plain = load_model(make_run(small_store, tmp_path, conditional=False))
    with pytest.raises(InputError, match="without classes"):
        next(samples(plain, [0], label=0))


def test_a_seed_is_a_volume_whatever_else_is_generated(run):
    model = load_model(run)
    both, alone = list(samples(model, [4, 5])), next(samples(model, [5]))
    assert [sample.label for sample in both] == [0, 1] and alone.label == 1
    np.testing.assert_array_equal(alone.volume, both[1].volume)


def test_what_is_noticed_about_files_is_printed(run, tmp_path, capsys):
    image = nib.Nifti1Image(1600 * np.random.default_rng(0).random((32, 32, 32), np.float32) - 1024, None)
    image.header["pixdim"][1:4] = 1
    nib.save(image, tmp_path / "scan.nii.gz")
    count, inputs = inputs_of_files(tmp_path, load_model(run).description)
    assert count == len(list(inputs)) == 1
    assert "scan.nii.gz: " in capsys.readouterr().err
    nib.save(nib.Nifti1Image(image.get_fdata() / 1600, np.eye(4)), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="its values run from .* -1024 to 600 HU; give a volume in those units"):
        inputs_of_files(tmp_path, load_model(run).description)


def test_scans_are_not_replaced_by_reconstructions(run, small_store, tmp_path, capsys):
    scan = tmp_path / "study" / "reconstructions" / "a.nii.gz"
    scan.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(1600 * np.random.default_rng(0).random((32, 32, 32), np.float32) - 1024, np.eye(4)), scan)
    before = scan.read_bytes()
    for given in (scan.parent, small_store):
        words = [str(run), "--input", str(given), "--out", str(tmp_path / "study"), "--reconstruct", "--device", "cpu"]
        assert cli.run(encode_command.main, words) == 2
        assert "reconstructions: holds volumes that are no reconstructions (a.nii.gz)" in capsys.readouterr().err
    assert scan.read_bytes() == before
    words = [str(run), "--input", str(small_store), "--out", str(tmp_path / "z"), "--reconstruct", "--device", "cpu"]
    assert cli.run(encode_command.main, words) == 0
    assert cli.run(encode_command.main, [*words, "--force"]) == 0  # its own results
    written = {path.name for path in (tmp_path / "z" / "reconstructions").iterdir()}
    assert written == {f"{name}.nii.gz" for name in Store(small_store).ids}


@pytest.mark.slow
def test_generation_imports_no_training_code(run, tmp_path):
    """The store, MONAI, HDF5, TensorBoard and the DICOM readers are not needed to generate."""
    code = (
        "import sys\n"
        "for name in ('h5py', 'monai', 'SimpleITK', 'pydicom', 'tensorboard', 'torch_fidelity', 'hagan3d.engine',\n"
        "             'hagan3d.methods.hagan.losses', 'hagan3d.losses', 'hagan3d.data.store.store'):\n"
        "    sys.modules[name] = None\n"
        "from hagan3d import cli\n"
        "from hagan3d.generate import main\n"
        f"sys.exit(cli.run(main, [{str(run)!r}, '--num', '1', '--out', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "volume-000000.nii.gz").exists()


def test_encoding_a_store(run, small_store, tmp_path):
    model = load_model(run)
    count, inputs = inputs_of_store(small_store, model.description, "all")
    assert encode(model, inputs, tmp_path, reconstruct=True) == count == 8
    saved = np.load(tmp_path / "features.npz", allow_pickle=False)
    assert saved["z"].shape == (8, 8)
    assert saved["id"].tolist() == [f"scan{i}" for i in range(8)]
    rows = list(csv.DictReader((tmp_path / "features.csv").open()))
    np.testing.assert_allclose([float(rows[2][f"z{i}"]) for i in range(8)], saved["z"][2], rtol=1e-6)
    real = nib.load(small_store.parent / "scan2.nii.gz")
    reconstructed = nib.load(tmp_path / "reconstructions" / "scan2.nii.gz")
    np.testing.assert_allclose(reconstructed.affine, real.affine, atol=1e-4)
    clipped = np.clip(real.get_fdata(), -1024, 600)
    assert float(rows[2]["mae"]) == pytest.approx(np.abs(reconstructed.get_fdata() - clipped).mean(), rel=1e-3)
    assert (tmp_path / "reconstructions.png").exists()


@pytest.mark.parametrize(("names", "labels"), [(("a", "b"), [0, 1]), (("b", "c", "a"), [2, 0]), (("b",), [-1, 0])])
def test_classes_of_a_store_are_those_of_the_model_by_name(small_store, names, labels):
    description = replace(Store(small_store).description(), class_names=names)
    _, inputs = inputs_of_store(small_store, description, "all")
    assert [one.label for one in inputs] == labels * 4


def test_encoding_files_gives_the_latents_of_their_store(run, small_store):
    model = load_model(run)
    _, stored = inputs_of_store(small_store, model.description, "all")
    files_count, read = inputs_of_files(small_store.parent / "scan5.nii.gz", model.description)
    from_file = next(iter(latents(model, read)))
    from_store = [done for done in latents(model, stored) if done.input.id == "scan5"][0]
    assert files_count == 1
    np.testing.assert_allclose(from_file.z, from_store.z, atol=2e-3)


def test_a_model_without_encoders_cannot_encode(small_store, tmp_path):
    model = load_model(make_run(small_store, tmp_path, encoder=False))
    _, inputs = inputs_of_store(small_store, model.description, "all")
    with pytest.raises(InputError, match="without an encoder"):
        encode(model, inputs, tmp_path / "features")


def test_windows_with_group_norm_equal_the_whole_volume(small_store, tmp_path):
    model = load_model(make_run(small_store, tmp_path, norm="group", conditional=False))
    z = torch.randn(1, 8)
    with torch.no_grad():
        whole = model.networks.g.volume(z)[0].numpy()
        windows = np.concatenate(list(volume_slabs(model, z, None, 4)), axis=1)
        np.testing.assert_allclose(windows, whole, atol=1e-5)


def test_only_the_networks_that_are_needed_are_loaded(run):
    whole, generator = load_model(run), load_model(run, generate=True)
    assert whole.loaded == ["g", "d_h", "d_l", "e_h", "e_g"]
    assert generator.loaded == ["g"] and generator.num_classes == 2
    assert load_model(run, encode=True).loaded == ["e_h", "e_g"]
    assert generator.networks.state_dict().keys() == {f"g.{key}" for key in whole.networks.g.state_dict()}
    for key, value in generator.networks.g.state_dict().items():
        torch.testing.assert_close(value, whole.networks.g.state_dict()[key], atol=0, rtol=0)


def command(module, *words):
    """Exit status and standard error of a command, in this process."""
    return cli.run(module.main, [str(word) for word in words])


def test_every_format_and_thickness_holds_the_same_volume(run, tmp_path):
    for name, words in {"a": [], "b": ["--format", "nii", "--memory", "20MB"], "c": ["--format", "h5"]}.items():
        assert command(generate_command, run, "--num", 1, "--out", tmp_path / name, *words) == 0
    packed, plain = (nib.load(tmp_path / name) for name in ("a/volume-000000.nii.gz", "b/volume-000000.nii"))
    np.testing.assert_array_equal(packed.affine, plain.affine)
    np.testing.assert_allclose(packed.get_fdata(), plain.get_fdata(), atol=1e-2)  # HU
    with h5py.File(tmp_path / "c" / "volume-000000.h5") as file:
        np.testing.assert_array_equal(file["voxels"][:].transpose(2, 1, 0), packed.get_fdata(dtype=np.float32))
    assert command(generate_command, run, "--num", 1, "--out", tmp_path / "c") == 2  # holds volumes already


@pytest.mark.slow
def test_too_little_memory_is_one_line_that_names_the_minimum(run, small_store, tmp_path, capsys):
    assert command(generate_command, run, "--out", tmp_path, "--memory", "1MB") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --memory 1MB: too little for this model; the minimum is ")
    minimum = message.split()[-1]
    assert command(generate_command, run, "--num", 1, "--out", tmp_path, "--memory", minimum) == 0
    words = [run, "--input", small_store, "--reconstruct", "--out", tmp_path / "e", "--memory"]
    assert command(encode_command, *words, "1MB") == 2
    assert command(encode_command, *words, capsys.readouterr().err.split()[-1]) == 0


def test_encoding_never_reads_more_than_a_slab_of_a_store(run, small_store, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the whole volume was read")

    depths = []
    window = Store.window
    monkeypatch.setattr(Store, "volume", refuse)
    monkeypatch.setattr(Store, "window", lambda *a: depths.append(a[3]) or window(*a))
    model = load_model(run)
    encode(model, inputs_of_store(small_store, model.description, "all")[1], tmp_path, reconstruct=True)
    assert depths and max(depths) == 8


def test_an_interrupted_generation_leaves_whole_files_only(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gzip.GzipFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(load_model(run), [0], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("0-2,7", [0, 1, 2, 7])])
def test_seeds_are_parsed(text, seeds):
    assert cli.parse_seeds(text) == seeds


def test_bad_seeds_are_refused():
    with pytest.raises(InputError, match="0-99,200"):
        cli.parse_seeds("1..3")
    with pytest.raises(InputError, match="0-99,200"):
        cli.parse_seeds("")
    for text in ("5,5", "0-3,2", "3-1"):
        with pytest.raises(InputError, match=f"--seeds {text}: ranges must ascend, and no seed may occur twice"):
            cli.parse_seeds(text)
    with pytest.raises(InputError, match="are more than 1000000; generate them by several commands"):
        cli.parse_seeds("7,0-99999999999")
    with pytest.raises(InputError, match="must be at most 9223372036854775807"):
        cli.parse_seeds(f"0,{2**63}")
    with pytest.raises(InputError, match=r"--first-seed from 0 up \(to 9223372036854775807\)"):
        GeneratedSet(first_seed=2**63)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/hagan3d-was-here", "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "x"}, "not a checkpoint of hagan3d"),
        ([1, 2], "not a checkpoint of hagan3d"),
        (Evil(), "could run code"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "step-00000001.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=message):
        load_model(path)
    path.write_bytes(b"no zip at all")
    with pytest.raises(InputError, match="not a file of tensors"):
        files.load(path)
    with pytest.raises(InputError, match="no such run"):
        load_model(tmp_path / "nothing")


def test_a_model_that_generates_volumes_does_not_translate(run):
    with pytest.raises(InputError, match="a model that generates volumes"):
        load_translation(run)


def test_a_checkpoint_of_another_method_is_refused(run, tmp_path):
    values = torch.load(files.newest(run), weights_only=True)
    values["config"]["method"] = "cyclegan"
    torch.save(values, tmp_path / "other.pt")
    with pytest.raises(InputError, match="cyclegan"):
        load_model(tmp_path / "other.pt")
