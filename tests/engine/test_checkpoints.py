"""Checkpoints of a run: when they are written, which are kept, and which of them a run resumes."""

import dataclasses
import signal
import time

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.engine import trainer as engine
from hagan3d.errors import InputError
from tests.methods.small import make_trainer, small_config


def with_log(config, **log):
    return dataclasses.replace(config, log=dataclasses.replace(config.log, **log))


def save_run(volumes, out, config, **changes):
    """Save a run before its first step, with other values of some fields of the checkpoint."""
    path = make_trainer(volumes, out, config).save()
    files.save(dataclasses.replace(files.load(path), **changes), path)


def test_checkpoints_at_the_ends_of_stages_are_kept(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, small_config("upgan", stages=3, stage_steps=2))
    for step in range(1, 7):
        trainer.steps_done = step
        trainer.save()
    assert [path.stem for path in files.all_of(tmp_path)] == [f"step-{step:08d}" for step in (2, 4, 6)]


def test_a_checkpoint_is_due_after_some_minutes_steps_or_a_signal(small_store, tmp_path):
    config = with_log(small_config("pix2pix", steps=100), checkpoint_minutes=2.0, checkpoint_steps=10, keep_last=9)
    trainer, written = make_trainer(small_store, tmp_path, config), []
    for step, seconds_left, is_stopping in ((3, 100, False), (4, -1, False), (5, 100, True), (10, 100, False)):
        trainer.steps_done, trainer._save_at = step, time.monotonic() + seconds_left
        trainer._save_if_due(is_stopping)
        written.append((files.path_of(tmp_path, step).exists(), trainer._save_at - time.monotonic() > 110))
    assert written == [(False, False), (True, True), (True, True), (True, True)]


def test_a_run_does_not_resume_on_another_store(small_store, tmp_path):
    config = small_config("pix2pix")
    save_run(small_store, tmp_path, config, store="of other volumes")
    with pytest.raises(InputError, match="was started on another store; use that one, or another --out"):
        make_trainer(small_store, tmp_path, config)


def test_imported_weights_are_not_trained_further(small_store, tmp_path):
    config = small_config("pix2pix")
    save_run(small_store, tmp_path, config, optimizers={})
    with pytest.raises(InputError, match="imported weights, which cannot be trained further; use another --out"):
        make_trainer(small_store, tmp_path, config)


def test_settings_that_change_no_result_may_change(small_store, tmp_path):
    save_run(small_store, tmp_path, small_config("pix2pix"), step=3)
    train = {"steps": 9, "accumulate": 2, "checkpointing": True, "kernels": "fixed", "loss_groups": False}
    train |= {"recompute_norms": False, "share_spectral": False, "tf32": False}
    config = with_log(small_config("pix2pix", store="elsewhere.h5", **train), every=7, keep_last=4)
    before = small_config("pix2pix")
    assert all(getattr(config.train, name) != getattr(before.train, name) for name in train)
    assert make_trainer(small_store, tmp_path, config).steps_done == 3
    with pytest.raises(InputError, match=r"was started with train.seed = 0, now it is 1"):
        make_trainer(small_store, tmp_path, small_config("pix2pix", seed=1))


def test_loss_scalers_are_resumed(small_store, tmp_path):
    config = small_config("pix2pix", precision="fp16")
    trainer = make_trainer(small_store, tmp_path, config)
    scaler = trainer.updates.scalers["g"]
    scaler.scale(torch.zeros(1))  # which makes its scale
    scaler.update(8.0)
    trainer.save()
    scales = {
        name: one.get_scale() for name, one in make_trainer(small_store, tmp_path, config).updates.scalers.items()
    }
    assert scales["g"] == 8 and scales["d"] > 8


def test_previews_show_the_networks_of_their_stage(small_store, tmp_path, monkeypatch):
    trainer = make_trainer(small_store, tmp_path, with_log(small_config("upgan"), preview_every=3))
    steps, written = [], []
    monkeypatch.setattr(trainer.networks, "set_step", steps.append)
    preview = type("Preview", (), {"write": staticmethod(lambda path, *_: written.append(path.name))})
    for step in (2, 3, 5, 6, 9):
        trainer.steps_done = step
        trainer._preview_if_due(preview)
    assert steps == [3, 6, 9] and written == [f"step-{step:08d}.png" for step in steps]


def test_a_signal_that_comes_again_at_once_is_the_same_one(monkeypatch):
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    with engine._stop_signals() as received:
        assert all(signal.getsignal(kind) != handler for kind, handler in before.items())
        for kind in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # from SLURM, and passed on by torchrun
            signal.raise_signal(kind)
        assert received == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
        later = time.monotonic() + engine.SECOND_SIGNAL_SECONDS + 1
        monkeypatch.setattr(engine.time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {kind: signal.getsignal(kind) for kind in before} == before
