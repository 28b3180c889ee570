"""`hagan3d evaluate` and `explore` on a model of several channels with label maps."""

import csv
import html.parser
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from hagan3d import cli, evaluate, explore
from hagan3d.checkpoint import load_model
from hagan3d.data.phantoms.head import CHANNELS, LABEL_NAMES, write_heads
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.evaluation.exploration.strips import regions_of
from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.run_evaluation import EvaluationResult
from hagan3d.inference.encoding import inputs_of_store, latents
from hagan3d.inference.generation import samples
from tests.methods.small import make_trainer, small_config

FAST = "--num 6 --bootstrap 3 --kid-subsets 2 --pairs 2 --shown 2 --reconstructions 2 --features random,encoder".split()
IMAGES, LABELS = len(CHANNELS), len(LABEL_NAMES)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store of 24 head phantoms of four channels and four labels; the voxels of each have a size of their own."""
    folder = write_heads(tmp_path_factory.mktemp("heads"), 24, (32, 32, 32))
    config = PrepareConfig(size=(32, 32, 32), validation=0.4)
    path = prepare(find_inputs(None, nnunet=folder), folder / "store.h5", config, progress=False).path
    with h5py.File(path, "r+") as file:
        file["affine"][:, :3, :3] = file["affine"][:, :3, :3] * (1 + 0.02 * np.arange(24))[:, None, None]
    return path


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    data = {"channels": IMAGES, "labels": LABELS}
    make_trainer(store, out, small_config("hagan", data=data, steps=2)).run()
    return out


def call(command, *words) -> int:
    return cli.run(command.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def evaluated(run: Path, store: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    assert call(evaluate, run, "--store", store, "--out", out, *FAST) == 0
    return out


def results(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_every_channel_is_evaluated_in_its_own_folder(evaluated: Path, store: Path, run: Path):
    overview = results(evaluated)
    assert list(overview["channels"]) == list(CHANNELS) and list(overview["labels"]) == list(LABEL_NAMES[1:])
    model, opened = load_model(run), Store(store)
    _, inputs = inputs_of_store(store, model.description, "validation")
    pairs = [
        (item.reconstruction, item.input.x) for item, _ in zip(latents(model, inputs, True), range(2), strict=False)
    ]
    keys = set()
    for channel, name in enumerate(CHANNELS):
        own = results(evaluated / name)
        keys.add(own["key"])
        assert own["settings"]["channel"] == name and own["volumes"]["generated"] == 6
        # the errors are those of this channel
        mae = np.mean([np.abs(made[channel] - real[channel]).mean() for made, real in pairs])
        assert own["reconstruction"]["mae"] == pytest.approx(mae, rel=1e-4)
        held_out = [i for i, split in enumerate(opened.splits) if split != "train"]
        means = [opened.channel(i, channel)[0].mean().item() for i in held_out]
        assert own["coverage"]["slices"]["y_mean"][0] == pytest.approx(np.mean(means), abs=1e-4)
        brief = overview["channels"][name]
        assert brief["folder"] == name and brief["features"] == "random"
        assert brief["kid"]["value"] == own["features"]["random"]["generated vs held-out"]["kid"]["value"]
        assert "of all channels and labels at once" in own["extractors"][1]["note"]
    assert len(keys) == len(CHANNELS)
    assert "T1/kid" in EvaluationResult(evaluated, overview, []).metrics


@pytest.mark.slow
def test_labels_are_measured_in_millilitres(evaluated: Path, store: Path, run: Path):
    found, opened, model = results(evaluated)["labels"], Store(store), load_model(run)
    held_out = [i for i, split in enumerate(opened.splits) if split != "train"]
    made = [sample.volume[IMAGES:].argmax(0) for sample in samples(model, range(6))]
    voxel = np.abs(np.linalg.det(model.description.affine_array[:3, :3])) / 1000
    for value, name in enumerate(LABEL_NAMES[1:], 1):
        real = [
            (opened.label_map(i) == value).sum() * np.abs(np.linalg.det(opened.affines[i][:3, :3])) / 1000
            for i in held_out
        ]
        assert found[name]["held-out"]["mean_ml"]["value"] == pytest.approx(np.mean(real))
        assert found[name]["held-out"]["deviation_ml"] == pytest.approx(np.std(real, ddof=1))
        assert found[name]["held-out"]["absent"]["value"] == np.mean(np.array(real) == 0)
        own = [(labels == value).sum() * voxel for labels in made]
        assert found[name]["generated"]["mean_ml"]["value"] == pytest.approx(np.mean(own))
        columns = found[name]["distances"]
        assert list(columns) == ["generated vs held-out", "generated vs train", "train vs held-out"]
        train = [
            (opened.label_map(i) == value).sum() * np.abs(np.linalg.det(opened.affines[i][:3, :3])) / 1000
            for i in opened.indices("train")
        ]
        quantiles = np.linspace(0, 1, 20001)
        gap = np.abs(
            np.quantile(own, quantiles, method="inverted_cdf") - np.quantile(real, quantiles, method="inverted_cdf")
        )
        expected = gap.mean() / np.std(train)
        assert columns["generated vs held-out"]["label_volume"]["value"] == pytest.approx(expected, rel=2e-3)
    for value, name in enumerate(LABEL_NAMES[1:], 1):
        dice, inputs = [], inputs_of_store(store, model.description, "validation")[1]
        for item, _ in zip(latents(model, inputs, True), range(2), strict=False):
            one, other = (x[IMAGES:].argmax(0) == value for x in (item.reconstruction, item.input.x))
            if one.any() or other.any():
                dice.append(2 * (one & other).sum() / (one.sum() + other.sum()))
        assert found[name]["reconstruction_dice"]["value"] == pytest.approx(np.mean(dice))


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.headings = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name == "href"]
        self.headings += [tag] if tag in ("h2", "h3") else []


@pytest.mark.slow
def test_the_overview_links_to_the_channels(evaluated: Path):
    text, tags = (evaluated / "report.html").read_text(), Tags()
    tags.feed(text)
    assert tags.links == [f"{name}/report.html" for name in CHANNELS]
    assert all((evaluated / link).is_file() for link in tags.links)
    assert tags.headings.count("h3") == LABELS - 1 and "data:image/png" in text
    assert "channel T2" in (evaluated / "T2" / "report.html").read_text()


@pytest.mark.slow
def test_the_same_line_again_changes_nothing_and_goes_on_where_it_stopped(run, store, evaluated, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(evaluated, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    words = [run, "--store", store, "--out", copy, *FAST]
    assert call(evaluate, *words) == 0 and "is there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    for name in ("metrics.json", "report.html", "T1/metrics.json", "features/generated-000000.npz"):
        (copy / name).unlink()
    assert call(evaluate, *words) == 0
    for name in ("metrics.json", "T1/metrics.json", "T2/metrics.json"):
        assert (copy / name).read_bytes() == before[copy / name]
    assert call(evaluate, *words, "--seed", 3) == 2
    assert "T1/metrics.json: of another run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_channel_alone_and_its_audit(run, store, evaluated, tmp_path, capsys):
    words = [run, "--store", store, *FAST, "--channel", "T2", "--audit", "true"]
    assert call(evaluate, *words, "--out", tmp_path / "one") == 0
    one, among = results(tmp_path / "one"), results(evaluated / "T2")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["features", "metrics.json", "report.html"]
    assert one["features"] == among["features"] and one["voxels"] == among["voxels"]
    # discriminators see all channels: the logits, and so the AUC, do not depend on the audited channel
    assert call(evaluate, *words[:-4], "--channel", "T1", "--audit", "true", "--out", tmp_path / "other") == 0
    other = results(tmp_path / "other")
    assert one["audit"]["membership"] == other["audit"]["membership"]
    assert one["audit"]["spaces"]["voxels"] != other["audit"]["spaces"]["voxels"]
    # features of the audited channel: the median distance of held-out volumes to training volumes, mirrored or not
    opened, extractor, rows = Store(store), random_extractor(), {}
    for name in ("train", "held-out"):
        chosen = [i for i, split in enumerate(opened.splits) if (split == "train") == (name == "train")]
        x = [opened.channel(i, CHANNELS.index("T2")).numpy() for i in chosen]
        rows[name] = [extractor.features(iter(x)), extractor.features(one[..., ::-1].copy() for one in x)]
    deviation = rows["train"][0].std(axis=0)
    scale = np.maximum(deviation, 0.05 * np.median(deviation))
    distances = [cdist(rows["held-out"][0] / scale, train / scale) for train in rows["train"]]
    median = np.median(np.minimum(*distances).min(axis=1))
    assert one["audit"]["spaces"]["features"]["distances"]["held_train"] == pytest.approx(median, rel=1e-3)
    assert call(evaluate, *words[:-4], "--channel", "PET", "--out", tmp_path / "none") == 2
    assert "has no image channel 'PET'; use one of T1" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_features_are_trained_for_each_channel(store: Path, tmp_path: Path, capsys):
    path = tmp_path / "own.h5"
    path.write_bytes(store.read_bytes())
    few = "--feature_training.steps 2 --feature_training.batch_size 2 --train-features".split()
    assert call(evaluate, "--store", path, *few) == 0
    assert len(capsys.readouterr().out.splitlines()) == IMAGES
    files = {file.name: torch.load(file, weights_only=True) for file in tmp_path.glob("*.features.pt")}
    assert set(files) == {f"own.{name}.features.pt" for name in CHANNELS}
    assert len({values["sha256"] for values in files.values()}) == IMAGES
    assert call(evaluate, "--store", path, *few, "--channel", "T2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_a_walk_along_the_volume_of_a_label(run: Path, store: Path, tmp_path: Path, capsys):
    words = "--attribute label_edema_ml --steps 3 --starts 1 --seeds 1".split()
    assert call(explore, run, "--store", store, *words, "--out", tmp_path) == 0
    found = results_of_exploration(tmp_path)
    assert found["attribute"] == {"name": "label_edema_ml", "unit": "ml", "from": "label maps of the store"}
    assert found["measure"] == {"name": "label_edema_ml", "segmenter": "generated label maps"}
    assert "without calibration" in capsys.readouterr().out
    edema = LABEL_NAMES.index("edema")
    rows = list(csv.DictReader((tmp_path / "walk.csv").open()))
    assert len(rows) == 6
    for row in rows:
        labels = nib.load(tmp_path / "volumes" / row["file"].replace(f"_{CHANNELS[0]}.", "_seg."))
        millilitres = np.prod(labels.header.get_zooms()) / 1000
        measured = (np.asarray(labels.dataobj) == edema).sum() * millilitres
        assert float(row["measured"]) == pytest.approx(measured, rel=1e-4)
    opened = Store(store)
    real = [
        (opened.label_map(i) == edema).sum() * np.abs(np.linalg.det(opened.affines[i][:3, :3])) / 1000
        for i in range(len(opened))
    ]
    low, high = found["range"]["real"]
    assert min(real) - 1e-6 <= low < high <= max(real) + 1e-6
    assert Image.open(tmp_path / "strip.png").mode == "RGB"


def results_of_exploration(folder: Path) -> dict:
    return json.loads((folder / "explore.json").read_text())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("label_bone_ml", "no label bone; the label maps hold edema, "),
        ("age", "label maps give label_edema_ml, "),
    ],
)
def test_an_unknown_label_is_one_line(run, store, tmp_path, capsys, name, reason):
    assert call(explore, run, "--store", store, "--attribute", name, "--out", tmp_path / "out") == 2
    assert reason in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_pictures_tint_the_measured_label_alone():
    label_map = np.zeros((4, 4, 4), np.uint8)
    label_map[0], label_map[1] = 1, 3
    regions = regions_of(label_map == 3, label_map)
    assert [region.is_measured for region in regions] == [False, True]
    assert all((region.mask == (label_map == value)).all() for region, value in zip(regions, (1, 3), strict=True))
    assert len({region.colour for region in regions}) == 2
