"""Two domains, each on a grid of its own: preparation, training, translation and evaluation."""

import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from hagan3d import cli, evaluate, plan, train, translate
from hagan3d import prepare as prepare_command
from hagan3d.checkpoint import load_translation
from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.batches.slices import SlicePairSource, Slices
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.preprocess.pairing import find_domains
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.self_supervised import train_features
from hagan3d.evaluation.settings import FeatureTrainConfig
from hagan3d.methods.registry import make_method
from tests.helpers import assert_equal
from tests.methods.small import assert_counts_agree, make_trainer, small_config, train_with_stops

METHODS = ("cyclegan", "unit")
SIZE, SPACING = (32, 32, 32), (3.0, 3.0, 3.0)
SOURCE_SIZE, SOURCE_SPACING = (64, 32, 32), (1.5, 3.0, 2.8)
SHAPES = {"ct": ((48, 48, 60), (2.1, 2.1, 1.7)), "mr": ((48, 50, 32), (2.1, 2.0, 3.1))}  # of files, x y z
SUBJECTS = 10


def field(affine, shape, number, sign):
    """Return a smooth field of a subject, a function of the place in mm."""
    index = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(nib.affines.apply_affine(affine, index), -1, 0) / 40
    return (sign * np.cos(x + 0.3 * number) * np.cos(1.3 * y) * np.cos(z - 0.2 * number)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Files of the source domain ct and of the target domain mr, inverted, both centred at 0 mm."""
    folder = tmp_path_factory.mktemp("grids")
    for name, (shape, spacing) in SHAPES.items():
        (folder / name).mkdir()
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -np.array(spacing) * (np.array(shape) - 1) / 2
        for number in range(SUBJECTS):
            values = field(affine, shape, number, 1 if name == "ct" else -1)
            nib.save(nib.Nifti1Image(values, affine), folder / name / f"scan{number:02}.nii.gz")
    return folder


CONFIG = PrepareConfig(
    size=SIZE,
    spacing=SPACING,
    intensity="window",
    window=(-1.0, 1.0),
    validation=0.0,
    test=0.5,
    seed=2,
    workers=1,
)
SOURCES = DomainConfig(size=SOURCE_SIZE, spacing=SOURCE_SPACING, intensity="window", window=(-1.0, 1.0))


@pytest.fixture(scope="module")
def store(folders):
    domains = find_domains([folders / "ct", folders / "mr"])
    path = prepare(domains, folders / "own.h5", CONFIG, progress=False, sources_as=SOURCES).path
    train_features(Store(path), FeatureTrainConfig(steps=2, batch_size=2))
    return path


def config_of(method, **settings):
    own = {"degrade": DegradeConfig(), "paired": False, "source_size": SOURCE_SIZE, "size": SIZE}
    return small_config(method, **(own | settings))


@pytest.fixture(scope="module", params=METHODS)
def run(request, store, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    make_trainer(store, out, config_of(request.param, steps=1)).run()
    return out


def test_each_domain_has_the_voxels_of_a_store_of_it_alone(folders, store):
    both = Store(store)
    for domain, name, own in (
        ("source", "ct", {"size": SOURCE_SIZE, "spacing": SOURCE_SPACING}),
        ("target", "mr", {"size": SIZE, "spacing": SPACING}),
    ):
        alone = Store(
            prepare(folders / name, folders / f"{name}.h5", replace(CONFIG, **own, test=0.0), progress=False).path
        )
        chosen = [i for i in range(len(both)) if both.domains[i] == domain]
        assert len(chosen) == SUBJECTS
        for i, j in zip(chosen, range(SUBJECTS), strict=True):
            assert both.ids[i] == f"{domain}_{alone.ids[j]}" and both.size_of(i) == own["size"]
            assert torch.equal(both.volume(i), alone.volume(j)) and torch.equal(both.low(i), alone.low(j))
            np.testing.assert_array_equal(both.affines[i], alone.affines[j])
            assert torch.equal(both.window(i, 8, 4, 1), alone.window(j, 8, 4, 1))


def test_shards_of_domains_are_one_store(folders, store, tmp_path):
    domains = find_domains([folders / "ct", folders / "mr"])
    for k in range(1, 7):  # some have volumes of one domain only
        prepare(domains, tmp_path / "s", replace(CONFIG, shard=f"{k}/6"), progress=False, sources_as=SOURCES)
    whole, shards = Store(store), Store(tmp_path / "s")
    for i, name in enumerate(whole.ids):
        assert torch.equal(whole.volume(i), shards.volume(shards.ids.index(name)))


def test_one_grid_is_written_as_before(folders, tmp_path):
    domains = find_domains([folders / "ct", folders / "mr"])
    plain = prepare(domains, tmp_path / "a.h5", CONFIG, progress=False, sources_as=DomainConfig())
    same = DomainConfig(size=SIZE, spacing=SPACING)
    explicit = prepare(domains, tmp_path / "b.h5", CONFIG, progress=False, sources_as=same)
    assert plain.path.read_bytes() == explicit.path.read_bytes() and "source_grid" not in Store(plain.path).settings
    description = Store(plain.path).description()
    values = description.to_dict()
    del values["source_grid"]  # as in checkpoints made before
    assert DataDescription.from_dict(values) == description


def test_the_description_keeps_both_grids(store):
    description = Store(store).description()
    assert DataDescription.from_dict(description.to_dict()) == description
    source, target = (description.on_grid_of(domain) for domain in ("source", "target"))
    assert (source.size, source.spacing, target.size, target.spacing) == (SOURCE_SIZE, SOURCE_SPACING, SIZE, SPACING)
    np.testing.assert_allclose(source.voxel_spacing, SOURCE_SPACING)
    np.testing.assert_allclose(target.voxel_spacing, SPACING)
    assert source.source_grid is target.source_grid is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fit": "stretch"}, "source_grid must have the fields"),
        ({"size": [64, 31, 32]}, "every side D, H, W must be a multiple of 32"),
        ({"spacing": 3}, "spacing 3 is of another type"),
    ],
)
def test_a_damaged_grid_of_a_description_is_refused(store, change, said):
    values = Store(store).description().to_dict()
    values["source_grid"] = {"other": 1} if "fit" in change else values["source_grid"] | change
    with pytest.raises(InputError, match=said):
        DataDescription.from_dict(values)


def words_of(folders, out, *more):
    return ["--domains", str(folders / "ct"), str(folders / "mr"), "--output", str(out), "--workers", "1", *more]


def test_a_dry_run_shows_the_grids_and_a_preparation_the_next_line(folders, tmp_path, capsys):
    own = ["--size", "32", "32", "32", "--source.size", "64", "32", "32", "--source.spacing", "1.5", "3", "2.5"]
    assert cli.run(prepare_command.main, words_of(folders, tmp_path / "d.h5", *own, "--dry_run")) == 0
    shown = capsys.readouterr().out
    assert "grid of the source domain: 64 x 32 x 32 voxels of 1.5 x 3 x 2.5 mm, cropped or padded" in shown
    assert "grid of the target domain: 32 x 32 x 32 voxels, each volume stretched to them" in shown
    assert cli.run(prepare_command.main, words_of(folders, tmp_path / "d.h5", *own)) == 0
    assert "--data.size 32 32 32 --method METHOD --data.source_size 64 32 32 --out RUN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source.size", "24", "32", "32"], r"size \[24, 32, 32\]: every side D, H, W must be a multiple of 32"),
        (["--fit", "resize", "--source.spacing", "1", "1", "1"], "source.spacing: must be unset with --fit resize"),
        (["--source.size", "1", "32", "32"], r"source.size \[1, 32, 32\]: single slices and volumes do not mix"),
    ],
)
def test_impossible_grids_are_one_line(folders, tmp_path, capsys, words, said):
    status = cli.run(prepare_command.main, words_of(folders, tmp_path / "d.h5", "--size", "32", "32", "32", *words))
    error = capsys.readouterr().err.strip()
    assert status == 2 and len(error.splitlines()) == 1
    assert re.search(said, error)
    assert list(tmp_path.iterdir()) == []


def test_pairs_lie_on_one_grid(folders, tmp_path, capsys):
    words = ["--pairs", str(folders / "ct"), str(folders / "mr"), "--output", str(tmp_path / "p.h5")]
    assert cli.run(prepare_command.main, [*words, "--source.size", "32", "32", "64"]) == 2
    assert "a pair lies on one grid" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--data.paired true", "source and target of a pair lie on one grid"),
        ("--data.degrade.kind noise", "source and target of a pair lie on one grid"),
        ("--data.window patch --data.subvolume_depth 96 --data.size 96 32 32", "at most 64, got 96"),
        ("--cyclegan.critic_layers 4", "leaves 2 voxels of 32"),
    ],
)
def test_settings_that_cannot_have_two_sizes_are_refused(capsys, words, said):
    status = cli.run(
        plan.main, ["--config", "cyclegan_32", "--data.source_size", "64", "32", "32", *words.split(), "--vram", "8GB"]
    )
    error = capsys.readouterr().err
    assert status == 2 and said in error and len(error.strip().splitlines()) == 1


def test_a_run_must_name_the_size_of_the_source_domain(store, tmp_path, capsys):
    words = ["--config", "cyclegan_32", "--data.store", str(store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    expected = (
        "has volumes of [64, 32, 32] voxels, but data.source_size is [32, 32, 32]; use --data.source_size 64 32 32"
    )
    assert error[-1].endswith(expected) and not (tmp_path / "run").exists()
    pair_method = ["--config", "pix2pix_32", "--data.store", str(store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, pair_method) == 2
    assert "holds two domains without pairs" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_counts_both_sizes(store, method):
    config = config_of(method)
    zero, real = make_method(config).zero_batch(), make_method(config).batches(Store(store), 2).batch(0)
    assert zero.source.shape == real.source.shape and zero.target.shape == real.target.shape
    assert_counts_agree(config)
    one = config_of(method, source_size=None)
    read = [make_method(each).bytes_per_step() for each in (config, one)]
    assert read == [2 * 2 * 32**3 * 3, 2 * 2 * 32**3 * 2]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_resume_is_invisible_with_two_sizes(store, tmp_path, method):
    one, other = train_with_stops(store, tmp_path, config_of(method, steps=4, preview_every=2), (2,))
    for part in ("networks", "ema", "optimizers", "scalers", "state"):
        assert_equal(getattr(one, part), getattr(other, part))
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    assert logs[0] == logs[1] and list((tmp_path / "straight").rglob("*.png"))


@pytest.mark.slow
def test_translated_volumes_wait_in_a_pool_of_their_own_size(store, tmp_path):
    trainer = make_trainer(store, tmp_path, config_of("cyclegan", steps=3))
    trainer.run()
    pools = {name: trainer.networks[f"pool_{name}"].volumes for name in ("source", "target")}
    assert pools["target"].shape[2:] == SOURCE_SIZE and pools["source"].shape[2:] == SIZE
    assert all(pool.any() for pool in pools.values())


def test_windows_begin_at_about_the_same_fraction_of_both_domains(store):
    source = PairSource(Store(store), "train", 2, 0, paired=False, depth=16)
    augmented = replace(source, augment=AugmentConfig(noise=1e-6))
    for step in range(4):
        batch, whole = source.batch(step), replace(source, depth=0).batch(step)
        starts = {}
        for name, x, y in (("source", batch.source, whole.source), ("target", batch.target, whole.target)):
            assert x.shape[2:] == (16, 32, 32)
            length = y.shape[2]
            starts[name] = [
                next(at for at in range(length - 15) if torch.equal(x[k], y[k, :, at : at + 16])) for k in range(2)
            ]
            same = getattr(augmented.batch(step), name)
            torch.testing.assert_close(same, x, atol=1e-4, rtol=0)
        ends = [(a / 48, b / 16) for a, b in zip(starts["source"], starts["target"], strict=True)]
        assert all(abs(a - b) <= 0.5 for a, b in ends) and batch.start.tolist() == starts["target"]


def test_slices_of_both_domains_have_their_own_sides(store):
    source = SlicePairSource(Store(store), "train", 2, 0, paired=False, slices=Slices(axis=1))
    for batch in (source.batch(0), replace(source, augment=AugmentConfig(noise=1e-6)).batch(0)):
        assert batch.source.shape == (2, 1, 1, 64, 32) and batch.target.shape == (2, 1, 1, 32, 32)
    config = config_of("unit", size=(1, 32, 32), source_size=(1, 64, 32), slices="coronal")
    make_method(config).check_store(Store(store))
    with pytest.raises(InputError, match="the source domain has slices of .1, 64, 32. voxels"):
        make_method(config_of("unit", size=(1, 32, 32), source_size=None, slices="coronal")).check_store(Store(store))


@pytest.mark.parametrize(("direction", "name"), [("a2b", "ct"), ("b2a", "mr"), ("cycle", "ct")])
def test_translated_files_keep_the_grid_of_their_source(run, folders, tmp_path, direction, name):
    words = [str(run), "--input", str(folders / name), "--out", str(tmp_path), "--direction", direction]
    assert cli.run(translate.main, words) == 0
    made = sorted(tmp_path.glob("*.nii.gz"))
    assert len(made) == SUBJECTS
    for path in made:
        source, found = nib.load(folders / name / path.name), nib.load(path)
        assert found.shape == source.shape
        np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)


@pytest.mark.parametrize(("direction", "domain"), [("a2b", "source"), ("b2a", "target")])
def test_translated_volumes_of_a_store_keep_the_grid_of_their_domain(run, store, tmp_path, direction, domain):
    words = [str(run), "--input", str(store), "--out", str(tmp_path), "--direction", direction, "--split", "test"]
    assert cli.run(translate.main, words) == 0
    size, spacing = ((SIZE, SPACING), (SOURCE_SIZE, SOURCE_SPACING))[domain == "source"]
    made, stored = sorted(tmp_path.glob("*.nii.gz")), Store(store)
    assert made and all(path.name.startswith(domain) for path in made)
    for path in made:
        found = nib.load(path)
        assert found.shape == size[::-1]  # x y z
        np.testing.assert_allclose(spacing_of(found.affine), spacing[::-1], atol=1e-5)
        centre = nib.affines.apply_affine(found.affine, (np.array(found.shape) - 1) / 2)
        own = stored.affines[stored.ids.index(path.name.removesuffix(".nii.gz"))]
        expected = nib.affines.apply_affine(own, (np.array(size) - 1) / 2)
        np.testing.assert_allclose(centre, expected, atol=1e-4)


def test_memory_of_a_translation_is_that_of_the_grid_it_begins_on(run):
    from hagan3d.inference.directions import directed
    from hagan3d.inference.translate_files import make_translator

    least = {}
    for direction in ("a2b", "b2a"):
        with pytest.raises(InputError, match="too little for this model") as caught:
            make_translator(directed(load_translation(run), direction), None, 0, 1)
        least[direction] = int(str(caught.value).rsplit(" ", 1)[1].removesuffix("MB"))
    assert least["a2b"] > 1.5 * least["b2a"]


def test_a_store_on_another_grid_is_refused(run, folders, tmp_path, capsys):
    config = PrepareConfig(size=SIZE, validation=0.0, workers=1)
    other = prepare(folders / "ct", tmp_path / "ct.h5", config, progress=False).path
    assert cli.run(translate.main, [str(run), "--input", str(other), "--out", str(tmp_path / "t")]) == 2
    assert "volumes of [32, 32, 32] voxels, but the model's are [64, 32, 32]" in capsys.readouterr().err


def test_both_directions_are_evaluated_on_the_grid_of_the_other_domain(run, store, tmp_path):
    assert cli.run(evaluate.main, [str(run), "--store", str(store), "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())["directions"]
    assert found.keys() == {"a2b", "b2a"}
    for result in found.values():
        assert result["pairs"] >= 3 and {"psnr_db", "ssim"} <= result["paired"].keys() == result["cycle"].keys()
        assert result["untranslated"]["fid"]["value"] > result["floor"]["fid"]["value"]


def test_perfect_translations_are_perfect_on_the_other_grid(store):
    from hagan3d.evaluation.translation.domains import _errors, _held_out, _on_grid_of, _onto, _pairs

    both = Store(store)
    held = {domain: _held_out(both, domain) for domain in ("source", "target")}
    for one, other in (("source", "target"), ("target", "source")):
        pairs = _pairs(both, held[one], held[other])
        assert len(pairs) >= 3
        first, second = [held[one][k] for k, _ in pairs], [held[other][k] for _, k in pairs]
        perfect = [-both.volume(i)[0].numpy() for i in first]  # the domains are inverted
        expected = [both.volume(j)[0].numpy() for j in second]
        inside = (slice(4, -4),) * 3  # the grids do not end at the same place
        placed = [x[inside] for x in _onto(both, perfect, first, second)]
        assert _errors(placed, [y[inside] for y in expected])["mae_percent"].mean < 2
        for moved, i, j in zip(_on_grid_of(both, other, perfect, first), first, second, strict=True):
            assert moved.shape == both.size_of(j) != both.size_of(i)
