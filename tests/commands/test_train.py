"""`hagan3d train` as its user starts, stops and starts it again."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hagan3d import cli, train
from hagan3d.checkpoint import files
from hagan3d.config import DataConfig

TINY = (
    "--data.size 32 32 32 --data.subvolume-depth 8 --model.latent-dim 8 --model.channels 64 --model.d-channels 64 "
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


def test_a_killed_run_goes_on_as_if_nothing_had_been(small_store, straight, tmp_path):
    for step in (2, 6):
        process = start(small_store, tmp_path, 12)
        wait_for_step(tmp_path, process, step)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert int(files.newest(tmp_path).stem.removeprefix("step-")) < 12
    finish(small_store, tmp_path)
    assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_cleanly(small_store, straight, tmp_path, kind):
    process = start(small_store, tmp_path, 2000)
    wait_for_step(tmp_path, process, 2)
    process.send_signal(kind)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped and saved" in out and "the same command again goes on" in out
    stopped_at = int(files.newest(tmp_path).stem.removeprefix("step-"))
    assert stopped_at >= 2
    if stopped_at < 12:
        finish(small_store, tmp_path)
        assert_same_run(straight, tmp_path)


def test_a_finished_run_is_left_alone(small_store, straight, capsys):
    before = files.newest(straight).stat().st_mtime_ns
    assert cli.run(train.main, command(small_store, straight, 12)) == 0
    assert files.newest(straight).stat().st_mtime_ns == before
    assert "step 12 is done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.size", "64", "64", "64", "--data.subvolume-depth", "8"], "give --data.size 32 32 32"),
        (["--data.split", "test"], "no volume for test"),
        (["--data.store", "/nowhere/x.h5"], "/nowhere/x.h5: does not exist"),
        (["--config", "/nowhere/x.yaml"], "/nowhere/x.yaml"),
        (["--train.optimizer", "apex"], "apex"),
        (["--train.device", "cuda"], "no GPU"),
    ],
)
def test_what_cannot_work_is_one_line(small_store, tmp_path, words, message, capsys):
    if "cuda" in words and torch.cuda.is_available():
        words, message = ["--data.split", "test"], "no volume for test"
    assert cli.run(train.main, [*command(small_store, tmp_path / "run", 2), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_config_with_an_unknown_key_names_it(small_store, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("train:\n  stepz: 3\n")
    assert cli.run(train.main, ["--config", str(tmp_path / "c.yaml"), "--data.store", str(small_store)]) == 2
    assert "stepz" in capsys.readouterr().err


def test_without_a_store_phantoms_are_trained_on(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--data.phantoms", "8", "--train.steps", "1", *TINY, "--model.minibatch_std", "2"]
    assert cli.run(train.main, words) == 0
    assert "training on phantoms" in capsys.readouterr().err
    assert len(list((tmp_path / "phantoms" / "volumes").glob("*.nii.gz"))) == 8
    assert files.newest(tmp_path).name == "step-00000001.pt"


def test_every_config_that_comes_with_it_is_valid(capsys):
    names = ["hagan_32", "hagan_32_published", "hagan_64", "hagan_128", "hagan_256", "hagan_512"]
    names += [
        "upgan_32",
        "upgan_256",
        "pix2pix_32",
        "medgan_32",
        "cyclegan_32",
        "cyclegan_128",
        "dagan_32",
        "red_wgan_32",
    ]
    names += ["low_dose_32", "thin_slices_32", "unit_32"]
    for name in names:
        path = train.config_file(f"{name}.yaml")
        assert path.exists(), path
        with pytest.raises(SystemExit) as done:
            train.main(["--config", str(path), "--print_config"])
        assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "subvolume_depth" in shown and "checkpoint_minutes" in shown
    assert DataConfig(size=(512, 512, 512)).factor == 8
