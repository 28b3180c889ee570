"""`hagan3d train` as its user starts, stops and starts it again."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hagan3d import cli, train
from hagan3d.checkpoint import files
from hagan3d.config.methods import config_class, method_names
from hagan3d.run_settings import load_config

TINY = (
    "--data.size 32 32 32 --data.subvolume-depth 8 --hagan.latent-dim 8 --hagan.channels 64 --hagan.d-channels 64 "
    "--train.batch-size 2 --train.device cpu --log.every 1 --log.preview-every 0 --log.checkpoint-steps 1"
).split()


def command(store, out, steps):
    return ["--data.store", str(store), "--out", str(out), "--train.steps", str(steps), *TINY]


def start(store, out, steps):
    words = [sys.executable, "-m", "hagan3d.train", *command(store, out, steps)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(out, process, step):
    """Wait until a checkpoint of ``step`` or a later one is there."""
    for _ in range(1200):
        newest = files.newest(out)
        if newest is not None and int(newest.stem.removeprefix("step-")) >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step}")


@pytest.fixture(scope="module")
def straight(small_store, tmp_path_factory):
    """A run of 12 steps that was never stopped."""
    out = tmp_path_factory.mktemp("straight")
    finish(small_store, out)
    return out


def finish(store, out):
    """Train up to step 12 in a process of its own: as many threads as those that are stopped, so equal rounding."""
    process = start(store, out, 12)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def assert_same_run(one, other):
    checkpoints = [files.load(files.newest(out)) for out in (one, other)]
    assert [checkpoint.step for checkpoint in checkpoints] == [12, 12]
    for name, state in checkpoints[0].networks.items():
        for key, value in state.items():
            assert torch.equal(value, checkpoints[1].networks[name][key]), f"{name}.{key}"
    for key, value in checkpoints[0].ema["g"].items():
        assert torch.equal(value, checkpoints[1].ema["g"][key]), key
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_result(small_store, straight, tmp_path):
    for step in (2, 6):
        process = start(small_store, tmp_path, 12)
        wait_for_step(tmp_path, process, step)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert int(files.newest(tmp_path).stem.removeprefix("step-")) < 12
    finish(small_store, tmp_path)
    assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_saves_and_leaves_cleanly(small_store, straight, tmp_path, kind):
    process = start(small_store, tmp_path, 2000)
    wait_for_step(tmp_path, process, 2)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert "stopped and saved" in err and "the same command again resumes" in err
    stopped_at = int(files.newest(tmp_path).stem.removeprefix("step-"))
    assert stopped_at >= 2
    if stopped_at < 12:
        finish(small_store, tmp_path)
        assert_same_run(straight, tmp_path)


@pytest.mark.slow
def test_a_finished_run_is_left_alone(small_store, straight, capsys):
    before = files.newest(straight).stat().st_mtime_ns
    assert cli.run(train.main, command(small_store, straight, 12)) == 0
    assert files.newest(straight).stat().st_mtime_ns == before
    assert "step 12 is done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.size", "64", "64", "64", "--data.subvolume-depth", "8"], "use --data.size 32 32 32"),
        (["--data.split", "test"], "no volume for test"),
        (["--data.store", "/nowhere/x.h5"], "/nowhere/x.h5: does not exist"),
        (["--config", "/nowhere/x.yaml"], "/nowhere/x.yaml"),
        (["--train.optimizer", "apex"], "apex"),
        (["--train.device", "cuda"], "no GPU"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(small_store, tmp_path, words, message, capsys):
    if "cuda" in words and torch.cuda.is_available():
        words, message = ["--data.split", "test"], "no volume for test"
    assert cli.run(train.main, [*command(small_store, tmp_path / "run", 2), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_config_with_an_unknown_key_names_it(small_store, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("method: hagan\ntrain:\n  stepz: 3\n")
    assert cli.run(train.main, ["--config", str(tmp_path / "c.yaml"), "--data.store", str(small_store)]) == 2
    assert "stepz" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_store_phantoms_are_trained_on(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--data.phantoms", "8", "--train.steps", "1", *TINY, "--hagan.minibatch_std", "2"]
    assert cli.run(train.main, words) == 0
    assert "no data.store: making 8 phantoms" in capsys.readouterr().err
    assert len(list((tmp_path / "phantoms" / "volumes").glob("*.nii.gz"))) == 8
    assert files.newest(tmp_path).name == "step-00000001.pt"


def test_without_config_and_method_the_default_config_is_used_and_named(small_store, tmp_path, capsys):
    words = ["--data.store", str(small_store), "--out", str(tmp_path), "--train.steps", "1", "--train.batch_size", "2"]
    assert cli.run(train.main, [*words, "--hagan.channels", "64", "--hagan.d_channels", "64"]) == 0
    assert "no --config and no --method: using hagan_32" in capsys.readouterr().err
    config = files.load(files.newest(tmp_path)).config
    assert config.method == dataclasses.replace(load_config("hagan_32").method, channels=64, d_channels=64)


def test_the_default_config_trains_with_two_volumes_per_batch(small_store, tmp_path, capsys):
    words = [
        "--config",
        "hagan_32",
        "--data.store",
        str(small_store),
        "--out",
        str(tmp_path),
        "--train.batch_size",
        "2",
    ]
    assert cli.run(train.main, [*words, "--train.steps", "1", "--train.device", "cpu"]) == 0, capsys.readouterr().err
    assert files.newest(tmp_path).name == "step-00000001.pt"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "nonsense"], method_names()),
        (["--method", "hagn"], ("did you mean hagan?", *method_names())),
        (["--method", "hagan", "--upgan.stages", "2"], ("upgan.stages: is a setting of method upgan", "is hagan")),
        (["--method", "upgan", "--hagan.channels", "64"], ("hagan.channels: is a setting of method hagan", "is upgan")),
        (["--method", "hagan", "--data.fraction", "0.5"], ("data.fraction: method hagan does not read it",)),
        (["--config", "upgan_32", "--method", "hagan"], ("--method hagan", "settings of method upgan")),
    ],
)
def test_a_method_and_its_settings_must_go_together(tmp_path, words, expected, capsys):
    assert cli.run(train.main, [*words, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(text in line for text in expected), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["fraction", "degrade.kind", "window", "subvolume_sampling", "paired"])
def test_a_data_setting_of_other_methods_is_refused_with_their_names(setting, tmp_path, capsys):
    field = setting.partition(".")[0]
    readers = [name for name in method_names() if field in config_class(name).data_config.__dataclass_fields__]
    assert readers
    for method in set(method_names()) - set(readers):
        assert cli.run(train.main, ["--method", method, f"--data.{setting}", "1", "--out", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"methods that do: {', '.join(readers)}" in line


def test_a_setting_in_a_config_of_another_method_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("method: hagan\nupgan:\n  stages: 2\n")
    assert cli.run(train.main, ["--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "upgan" in line and "hagan" in line and str(tmp_path / "c.yaml") in line
