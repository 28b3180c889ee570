"""`hagan3d evaluate`: a run is measured, what is there is not overwritten, and bad input is one line."""

import html.parser
import json
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import __main__, cli, evaluate, train
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.evaluation.metrics.voxels import Variety
from hagan3d.evaluation.report.verdict import variety_verdict

TINY = (
    "--data.size 32 32 32 --data.subvolume-depth 16 --hagan.latent-dim 8 --hagan.channels 64 --hagan.d-channels 64 "
    "--train.batch-size 2 --train.device cpu --train.steps 2 --log.preview-every 0 --log.every 1"
).split()
FAST = "--num 6 --bootstrap 3 --kid-subsets 2 --pairs 2 --shown 2 --reconstructions 2 --features random,encoder".split()


def make_store(folder, count=18, validation=0.4, size=(32, 32, 32), labels=None):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        volume = gaussian_filter(random.standard_normal(size), 3) * 3000 - 200
        nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([2.0, 2, 2, 1])), folder / f"s{number:02d}.nii.gz")
    settings = PrepareConfig(size=size, intensity="window", validation=validation, workers=1, labels=labels)
    prepare([folder], folder / "s.h5", settings, progress=False)
    return folder / "s.h5"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("evaluate") / "store")


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "run"
    assert cli.run(train.main, ["--data.store", str(store), "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture(scope="module")
def evaluated(run, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    assert cli.run(evaluate.main, [str(run), "--store", str(store), "--out", str(out), *FAST]) == 0
    return out


def status(capsys, run, store, out, *words):
    """Run the command and give its status and its lines on stderr that tell of an error."""
    capsys.readouterr()
    code = cli.run(evaluate.main, [str(run), "--store", str(store), "--out", str(out), *FAST, *words])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if line.startswith("error")]


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_the_report_is_one_file_that_needs_nothing_beside_it(evaluated):
    text = (evaluated / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert len(links.found) >= 7
    assert all(link.startswith("data:image/png;base64,iVBOR") for link in links.found)
    for heading in (
        "Real and generated",
        "Nearest real neighbours",
        "Variety",
        "Geometry",
        "Training",
        "Protocol 4",
        "Sharpness and texture",
    ):
        assert f"<h2>{heading}" in text


def test_the_numbers_say_what_was_measured(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert metrics["protocol"] == 4
    assert metrics["volumes"] == {"generated": 6, "held-out": 10, "train": 8}
    assert [(e["name"], len(e["sha256"])) for e in metrics["extractors"]] == [("random", 64), ("encoder", 64)]
    for found in metrics["features"].values():
        assert set(found) == {"generated vs held-out", "generated vs train", "train vs held-out"}
        assert found["train vs held-out"]["kid"]["value"] < found["generated vs held-out"]["kid"]["value"]
    ours, theirs = metrics["features"]["random"]["generated vs held-out"], metrics["fidelity"]
    assert theirs["fid"] == pytest.approx(ours["fid"]["value"], rel=1e-6)
    assert theirs["kid_mean"] == pytest.approx(ours["kid_subsets"]["mean"], rel=1e-6)
    assert theirs["recall"] == pytest.approx(ours["recall"]["value"], abs=1e-6)
    assert [row["voxels"] for row in metrics["variety"]["generated"]] == [32, 16, 8, 4]
    assert metrics["reconstruction"]["volumes"] == 2
    assert all(row["ok"] for row in metrics["geometry"])


def test_a_model_of_two_steps_is_told_apart_by_its_texture(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert set(metrics["texture"]) == {"generated vs held-out", "generated vs train", "train vs held-out"}
    assert metrics["subjects"] == metrics["volumes"] == {"generated": 6, "held-out": 10, "train": 8}
    assert metrics["power"]["sharpness and texture"]["spectrum"]["state"] == "bad"
    assert metrics["verdicts"][0]["state"] == "bad" and "sharpness and texture" in metrics["verdicts"][0]["text"]
    encoder = next(one for one in metrics["verdicts"] if one["text"].startswith("features 'encoder'"))
    assert encoder["state"] != "good"


@pytest.mark.slow
def test_a_conditional_model_is_asked_for_the_classes_of_the_training_volumes(tmp_path):
    lines = [f"s{number:02d},{'sick' if number % 3 else 'well'}" for number in range(18)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,class", *lines]))
    store, run, out = (
        make_store(tmp_path / "s", labels=str(tmp_path / "labels.csv")),
        tmp_path / "run",
        tmp_path / "out",
    )
    words = ["--data.store", str(store), "--out", str(run), *TINY, "--hagan.conditional", "true"]
    assert cli.run(train.main, words) == 0
    random = ["--features", "random", "--reconstructions", "0"]
    assert cli.run(evaluate.main, [str(run), "--store", str(store), "--out", str(out), *FAST[:-2], *random]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    opened = Store(store)
    trained = opened.labels[np.random.default_rng(0).permutation(opened.indices("train"))]
    assert metrics["run"]["labels"] == trained[:6].tolist()
    assert 1 <= metrics["classes"]["held-out"]["inception_score"]["value"] <= 2
    assert 0 <= metrics["classes"]["generated"]["accuracy"]["value"] <= 1
    assert "<h2>Classes" in (out / "report.html").read_text()


def test_the_sentences_name_a_collapse():
    for ratio, good in ((0.3, False), (0.97, True)):
        rows = {"generated": [Variety(32, ratio, 0.02)], "held-out": [Variety(32, 1.0, 0.02)]}
        verdict = variety_verdict(rows, subjects=40)
        assert verdict.good == good
        assert ("too little variety" in verdict.text) == (not good)


def test_the_same_line_again_changes_nothing_and_another_is_refused(run, store, evaluated, capsys):
    before = {path: path.read_bytes() for path in evaluated.rglob("*") if path.is_file()}
    assert status(capsys, run, store, evaluated) == (0, [])
    code, lines = status(capsys, run, store, evaluated, "--seed", "5")
    assert code == 2 and len(lines) == 1 and "--force" in lines[0]
    assert {path: path.read_bytes() for path in evaluated.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_from_what_is_kept_to_the_same_numbers(run, store, evaluated, tmp_path, capsys):
    shutil.copytree(evaluated / "features", tmp_path / "features")
    (tmp_path / "features" / "train-000000.npz").unlink()
    assert status(capsys, run, store, tmp_path) == (0, [])
    assert (tmp_path / "metrics.json").read_bytes() == (evaluated / "metrics.json").read_bytes()


@pytest.mark.slow
def test_features_kept_of_another_store_are_refused(run, store, evaluated, tmp_path, capsys):
    other = make_store(tmp_path / "other", count=16)
    out = tmp_path / "out"
    shutil.copytree(evaluated / "features", out / "features")
    code, lines = status(capsys, run, other, out)
    assert code == 2 and len(lines) == 1 and "another store" in lines[0]
    assert not (out / "report.html").exists()
    assert status(capsys, run, other, out, "--force") == (0, [])
    warnings = json.loads((out / "metrics.json").read_text())["warnings"]
    assert "trained on another store" in warnings[0]


def test_bad_input_is_one_line_and_status_2(run, store, small_store, tmp_path, capsys):
    wide = make_store(tmp_path / "wide", size=(32, 32, 64))
    weights = tmp_path / "resnet_10.pth"
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(2)}}, weights)
    for a_run, a_store, words, message in [
        (tmp_path / "nothing", store, [], "no such run"),
        (run, tmp_path / "nothing.h5", [], "does not exist"),
        (run, small_store, [], "0 held-out volumes (validation and test) and "),
        (run.parent, store, [], f"is no run, but holds some; give one of them: {run}"),
        (run / "checkpoints", store, [], f"holds the checkpoints of a run; give the run, {run}, or one of the files"),
        (run.with_name(f"{run.name}x"), store, [], f"no such run; did you mean {run}?"),
        (store, store, [], "is no checkpoint; give the folder of a run"),
        (run, small_store, ["--train-features"], "0 held-out volumes"),  # before minutes of training
        (run, wide, [], r"[32, 32, 64] voxels, but the model's"),
        (run, store, ["--features", "inception"], "self, encoder, random"),
        (run, store, ["--features", "self"], "--train-features"),
        (run, store, ["--medicalnet", str(weights)], "not the weights of MedicalNet"),
        (run, store, ["--num", "2"], "num: must be at least 5"),
    ]:
        code, lines = status(capsys, a_run, a_store, tmp_path / "out", *words)
        assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_audit_joins_an_evaluation_that_is_there(run, store, evaluated, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(evaluated, out)
    assert status(capsys, run, store, out, "--audit") == (0, [])
    before, metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (evaluated, out))
    audit = metrics.pop("audit")
    assert [one["state"] for one in metrics.pop("verdicts")[len(before["verdicts"]) :]] == ["good", "good"]
    assert metrics == {key: value for key, value in before.items() if key != "verdicts"}
    assert set(audit["spaces"]) == {"voxels", "features"} and audit["spaces"]["features"]["extractor"] == "random"
    assert [row["score"] for row in audit["membership"]] == ["d_h", "d_l", "sum"]
    assert audit["verdict"] == {"flagged": False, "generated_by": [], "discriminators_by": []}
    assert [pair["generated"] for pair in audit["pairs"]] == sorted(range(6), key=lambda i: _ratio(audit, i))
    text = (out / "report.html").read_text()
    assert "no evidence of memorisation in generated volumes" in text and "private" not in text
    assert "closest pairs 6 to 6" in text
    written = (out / "metrics.json").read_bytes()
    assert status(capsys, run, store, out, "--audit") == (0, [])
    assert status(capsys, run, store, out) == (0, [])
    assert (out / "metrics.json").read_bytes() == written


def _ratio(audit, generated):
    return next(pair["ratio"] for pair in audit["pairs"] if pair["generated"] == generated)


@pytest.mark.slow
def test_an_audit_without_discriminators_asks_the_volumes_alone(run, store, evaluated, tmp_path):
    shutil.copytree(evaluated / "features", tmp_path / "out" / "features")
    newest = sorted((run / "checkpoints").glob("*.pt"))[-1]
    values = torch.load(newest, weights_only=True)
    values["networks"] = {name: state for name, state in values["networks"].items() if not name.startswith("d_")}
    torch.save(values, tmp_path / "imported.pt")
    words = [str(tmp_path / "imported.pt"), "--store", str(store), "--out", str(tmp_path / "out"), *FAST, "--audit"]
    assert cli.run(evaluate.main, words) == 0
    audit = json.loads((tmp_path / "out" / "metrics.json").read_text())["audit"]
    assert audit["membership"] is None and audit["verdict"]["discriminators_by"] is None
    assert "holds no discriminators" in (tmp_path / "out" / "report.html").read_text()


def test_an_audit_wants_several_subjects(run, store, evaluated, tmp_path, capsys):
    one = tmp_path / "one.h5"
    shutil.copy(store, one)
    with h5py.File(one, "r+") as file:
        splits = file["split"].asstr()[:]
        file["subject"][:] = ["same" if split == "train" else f"s{i}" for i, split in enumerate(splits)]
    code, lines = status(capsys, run, one, tmp_path / "out", "--audit")
    assert code == 2 and len(lines) == 1 and "of 1 subjects" in lines[0]
    assert not (tmp_path / "out").exists()


def test_features_of_a_store_are_trained_by_the_command(store, tmp_path, capsys):
    own = tmp_path / "own.h5"
    shutil.copy(store, own)
    words = ["--store", str(own), "--train-features", "--feature-training.steps", "2"]
    assert cli.run(evaluate.main, words) == 0, capsys.readouterr().err
    features = tmp_path / "own.features.pt"
    made, content = features.stat().st_mtime_ns, features.read_bytes()
    capsys.readouterr()
    assert cli.run(evaluate.main, words) == 0  # a command that is repeated does not train again
    assert f"{features} is already there" in capsys.readouterr().out and features.stat().st_mtime_ns == made
    assert cli.run(evaluate.main, [*words[:-1], "3"]) == 0  # with other settings it does
    assert features.read_bytes() != content
    features.write_bytes(content[:-100])
    assert cli.run(evaluate.main, words) == 0  # so it does in place of a damaged file
    assert features.read_bytes() == content
    assert cli.run(evaluate.main, ["--store", str(own)]) == 2
    assert "a run and --out must be given together" in capsys.readouterr().err


def test_the_command_is_listed():
    assert "evaluate" in __main__.usage()
