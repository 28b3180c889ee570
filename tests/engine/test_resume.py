"""Checkpoints and resume: that a resume changes nothing, what is kept, and what stops a run."""

import dataclasses
import json

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.engine.training import train
from hagan3d.errors import InputError
from hagan3d.methods.hagan import losses as hagan
from tests.engine.small_runs import make_trainer, tiny_config
from tests.helpers import assert_equal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_after", "settings", "every"),
    [(1, {}, 1), (3, {"optimizer_state": "bf16"}, 1), (3, {}, 2), (3, {"muon": ("g", "e_g")}, 1)],
)
def test_resuming_equals_an_uninterrupted_run(small_store, tmp_path, stop_after, settings, every):
    augment = DiffAugConfig(translate=0.1, brightness=0.2, contrast=0.2, probability=0.2, adaptive=True, ramp=20)
    config = tiny_config(diffaug=augment, r1_weight=0.1, r1_every=2, **settings)
    config = dataclasses.replace(config, log=dataclasses.replace(config.log, every=every))
    straight = make_trainer(small_store, tmp_path / "straight", config)
    assert straight.run()
    all_kept = dataclasses.replace(config, log=dataclasses.replace(config.log, keep_every=1))
    make_trainer(small_store, tmp_path / "stopped", all_kept).run()
    for step in range(stop_after + 1, 5):
        files.path_of(tmp_path / "stopped", step).unlink()
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "d/gan": 1.0}\n{"step": 1')  # written after the last checkpoint, then cut off
    resumed = make_trainer(small_store, tmp_path / "stopped", config)
    assert resumed.steps_done == stop_after
    assert resumed.run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("straight", "stopped"))
    assert (one.step, one.state) == (other.step, other.state) == (4, one.state)
    assert one.state[hagan.PROBABILITY] != 0.2
    for name in ("networks", "ema", "optimizers", "scalers"):
        assert_equal(getattr(one, name), getattr(other, name))
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    assert logs[0] == logs[1]
    rows = [json.loads(row) for row in logs[0].splitlines()]
    assert len(rows) == 4 // every
    assert all(("d/r1" in row) == (every == 2 or row["step"] % 2 == 1) for row in rows)  # a row of two steps has one


def test_weights_of_other_networks_are_not_resumed(small_store, tmp_path):
    make_trainer(small_store, tmp_path).run()
    path = files.newest(tmp_path)
    checkpoint = files.load(path)
    checkpoint.networks["e_g"]["mean"] = torch.zeros(3)
    files.save(checkpoint, path)
    with pytest.raises(InputError, match="the weights of e_g do not fit"):
        make_trainer(small_store, tmp_path)


def test_an_optimizer_of_other_networks_is_not_resumed(small_store, tmp_path):
    """As in runs of a version in which a phase updated other networks."""
    make_trainer(small_store, tmp_path).run()
    path = files.newest(tmp_path)
    checkpoint = files.load(path)
    checkpoint.optimizers["g"] = checkpoint.optimizers["e_g"]
    files.save(checkpoint, path)
    with pytest.raises(
        InputError, match=r"step-00000004.pt: the optimizer of phase g is of another version .* --train.weights"
    ):
        make_trainer(small_store, tmp_path)


def test_a_full_disk_keeps_the_last_checkpoint(small_store, tmp_path, monkeypatch):
    trainer = make_trainer(small_store, tmp_path)
    trainer.step(trainer.source.batch(0))
    good = trainer.save()
    trainer.step(trainer.source.batch(1))

    def full(values, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="disk is full"):
        trainer.save()
    assert [path.name for path in good.parent.iterdir()] == [good.name]


def test_the_last_and_every_nth_checkpoint_are_kept(small_store, tmp_path):
    config = tiny_config(steps=5)
    log = dataclasses.replace(config.log, keep_last=1, keep_every=2, checkpoint_steps=0, checkpoint_minutes=1e3)
    config = dataclasses.replace(config, log=log)
    make_trainer(small_store, tmp_path, config).run()
    assert [path.stem for path in files.all_of(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lr_g": 0.01}, "train.lr_g = 0.0001, now it is 0.01"), ({"batch_size": 4}, "train.batch_size")],
)
def test_a_run_does_not_resume_with_other_settings(small_store, tmp_path, change, named):
    make_trainer(small_store, tmp_path, tiny_config(steps=1)).run()
    with pytest.raises(InputError, match=named):
        make_trainer(small_store, tmp_path, tiny_config(steps=2, **change))


def test_a_run_records_the_precision_that_auto_was(small_store, tmp_path, monkeypatch, capsys):
    config = tiny_config(steps=1, precision="auto")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, store=str(small_store)))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert train(config, tmp_path)
    assert files.load(files.newest(tmp_path)).config.train.precision == "bf16"
    assert "precision: bf16" in (tmp_path / "config.yaml").read_text()
    assert "; cpu, bf16; " in capsys.readouterr().err
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # of another node
    assert train(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2)), tmp_path)
    assert files.load(files.newest(tmp_path)).config.train.precision == "bf16"


def test_learning_rate_decay_may_be_set_and_unset_on_resume(small_store, tmp_path):
    def rates(config):
        trainer = make_trainer(small_store, tmp_path, config)
        assert trainer.run()
        states = files.load(files.newest(tmp_path)).optimizers
        return {name: state["param_groups"][0]["lr"] for name, state in states.items()}

    whole = rates(tiny_config(steps=1))
    half = rates(tiny_config(steps=4, lr_decay=(1, 5)))  # the last update is that of step 3
    assert half == pytest.approx({name: rate / 2 for name, rate in whole.items()})
    assert min(half.values()) > 0
    assert rates(tiny_config(steps=5)) == whole
    last = rates(tiny_config(steps=8, lr_decay=(0.5, 1.0)))  # from step 4 to 8
    assert last == pytest.approx({name: rate / 4 for name, rate in whole.items()})


def test_a_damaged_checkpoint_is_named(small_store, tmp_path):
    make_trainer(small_store, tmp_path, tiny_config(steps=1)).run()
    path = files.newest(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"{path.name}: truncated"):
        make_trainer(small_store, tmp_path, tiny_config(steps=2))


def test_two_processes_cannot_train_in_one_folder(small_store, tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            make_trainer(small_store, tmp_path).run()


def test_a_config_written_by_hand_is_not_replaced(small_store, tmp_path):
    (tmp_path / "config.yaml").write_text("# why: pilot\ntrain: {lr_g: 1.0e-5}\n")
    with pytest.raises(InputError, match="config.yaml: would be replaced by all settings of the run"):
        make_trainer(small_store, tmp_path).run()
    assert (tmp_path / "config.yaml").read_text().startswith("# why: pilot")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.jsonl").write_text("{}")
    with pytest.raises(InputError, match="metrics.jsonl: is of no run, and would be replaced"):
        make_trainer(small_store, tmp_path / "mine").run()
    assert (tmp_path / "mine" / "metrics.jsonl").read_text() == "{}"
    begun = make_trainer(small_store, tmp_path / "run", tiny_config(steps=1))  # killed before its first checkpoint
    begun._write_config()
    make_trainer(small_store, tmp_path / "run", tiny_config(steps=1, lr_g=0.01)).run()
    assert "lr_g: 0.01" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_disk_without_locks_is_no_second_process(small_store, tmp_path, monkeypatch, capsys):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    make_trainer(small_store, tmp_path, tiny_config(steps=1)).run()
    assert "no locks (No locks available)" in capsys.readouterr().err
    assert files.newest(tmp_path) is not None
