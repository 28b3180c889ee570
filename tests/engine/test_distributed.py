"""Several processes: two train as one does, one of them writes, and none goes on alone.

`torchrun` starts this file twice: each process does what `main` says and leaves what it saw in a file.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hagan3d.engine.processes import ALONE, Processes, digest, together

from hagan3d import cli, train
from hagan3d.checkpoint import files
from hagan3d.config import Config, DataConfig, DiffAugConfig, LogConfig, ModelConfig, TrainConfig
from hagan3d.data.batches.subvolumes import Batch, BatchSource
from hagan3d.data.store.store import Store
from hagan3d.engine import processes as engine_processes
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.hagan.networks import Networks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
AUGMENT = DiffAugConfig(translate=0.1, brightness=0.2, contrast=0.2, probability=0.5, adaptive=True, ramp=40)
SETTINGS = {"batch_size": 8, "accumulate": 2, "r1_weight": 1.0, "autoencode": 1.0, "diffaug": AUGMENT}
COMMAND = (
    "--data.size 32 32 32 --data.subvolume-depth 8 --model.latent-dim 8 --model.channels 64 --model.d-channels 64 "
    "--train.batch-size 2 --train.device cpu --log.every 1 --log.preview-every 0 --log.checkpoint-steps 1"
).split()


class Float64Batch(Batch):
    """A batch of float64, in which rounding hides nothing."""

    def normal(self, name, count):
        return super().normal(name, count).double()

    def slabs(self):
        return (slab.double() for slab in super().slabs())


def make_trainer(store_path, out, processes, conditional=False, **settings):
    prior = "encoded" if "autoencode" in settings else "normal"
    config = Config(
        data=DataConfig(size=(32, 32, 32), subvolume_depth=8),
        model=ModelConfig(latent_dim=8, channels=64, d_channels=64, conditional=conditional, prior=prior),
        train=TrainConfig(**{"batch_size": 2, "device": "cpu", "betas": (0.5, 0.99)} | settings),
        log=LogConfig(every=1, preview_every=2, checkpoint_steps=1),
    )
    store, share = Store(store_path), processes.share_of(config.train.batch_size, config.train.accumulate)
    torch.manual_seed(0)
    nets = Networks(config.data.size, 8, config.model, 2 * conditional)
    source = BatchSource(store, "train", 8, share, 0, rank=processes.rank, world=processes.world)
    recipe, cpu = hagan.recipe(config.train), torch.device("cpu")
    return Trainer(
        config, recipe, nets, source, store.description(), out, cpu, store.store_fingerprint, processes=processes
    )


def float64_batch(trainer):
    """Let a trainer that has not begun compute in float64; return its first batch in it."""
    trainer.networks.double()
    for average in trainer.updates.averages.values():
        average.state = {key: value.double() for key, value in average.state.items()}
    batch = trainer.source.batch(0)
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(Batch)}
    return Float64Batch(**values | {name: values[name].double() for name in ("window", "low")})


def step_seen(store, out, processes):
    """Train a step; return the gradients of each phase, then the weights, their average, the terms and the state."""
    trainer = make_trainer(store, out, processes, conditional=True, **SETTINGS)
    batch, gradients = float64_batch(trainer), {}
    for phase in trainer.recipe.phases:
        optimizer = trainer.updates.optimizers[phase.name]

        def keep(*_, name=phase.name, updated=phase.updates, **__):
            for key, parameter in trainer.networks.named_parameters():
                if key.split(".")[0] in updated:
                    gradients[f"{name} {key}"] = parameter.grad.clone()

        optimizer.register_step_pre_hook(keep)
    terms = trainer.step(batch)
    weights = {key: value.clone() for key, value in trainer.networks.state_dict().items()}
    return gradients, weights, trainer.updates.averages["g"].state, terms, trainer.state


def refusal_seen(store, out, processes):
    """Train with another setting in each process; return what is said."""
    settings = TrainConfig(batch_size=2, device="cpu", lr_g=0.001 * (1 + processes.rank))
    try:
        train.train(Config(data=DataConfig(store=str(store)), train=settings), out / "refused", processes)
    except InputError as error:
        return str(error)
    return "nothing"


def words_seen(processes):
    """Return what processes tell each other when they differ."""
    first = processes.is_first
    terms, is_stopping = processes.mean({"a": 1.0 if first else 4.0, "b": 0.0 if first else float("nan")}, not first)
    try:
        processes.agree({"seed": 1, "store": processes.rank})
        message = ""
    except InputError as error:
        message = str(error)
    engine_processes.BUCKET = 64
    sizes = [(3,), (2, 4), (5, 7), (1,), (2, 9)]
    tensors = [torch.full(size, 1.0 + processes.rank + i) for i, size in enumerate(sizes)]
    tensors[1] = torch.arange(8.0).reshape(4, 2).T * (1 + processes.rank)
    tensors[3] = tensors[3].double()
    processes.average(tensors)
    engine_processes.BUCKET = 32 * 2**20
    return terms, is_stopping, message, tensors


def overflow_seen(store, out, processes):
    """Train a step of fp16 in which one process has an infinite gradient; return what G and its scaler became."""
    trainer = make_trainer(store, out, processes, precision="fp16", encoder=False)
    before = digest(trainer.networks.g.state_dict())
    weight = trainer.networks.g.low[2].weight
    if not processes.is_first:
        weight.register_hook(lambda gradient: gradient * float("inf"))
    for scaler in trainer.updates.scalers.values():
        scaler.scale(torch.zeros(()))  # it has a scale from the first call on
        scaler.update(8.0)
    trainer.step(trainer.source.batch(0))
    return digest(trainer.networks.g.state_dict()) == before, trainer.updates.scalers["g"].get_scale()


def stop_seen(store, out, processes):
    """Run until one process, not the first, is asked to stop; return whether all is done, and the steps."""
    trainer = make_trainer(store, out, processes, steps=50, encoder=False)
    step = trainer.step

    def asked_in_step_two(batch, signals):
        if not processes.is_first and trainer.steps_done == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(batch, signals)

    trainer.step = asked_in_step_two
    return trainer.run(), trainer.steps_done


def main(store, out):
    """What each of two processes does."""
    with together() as processes:
        own = out / f"process{processes.rank}"
        seen = {
            "processes": (processes.rank, processes.world, processes.local_rank),
            "alone": step_seen(store, out / "alone", ALONE) if processes.is_first else None,
            "step": step_seen(store, own, processes),
            "refusal": refusal_seen(store, out, processes),
            "words": words_seen(processes),
            "overflow": overflow_seen(store, own, processes),
            "stop": stop_seen(store, own, processes),
        }
        torch.save(seen, out / f"seen{processes.rank}.pt")


@pytest.fixture(scope="module")
def two(small_store, tmp_path_factory):
    """What two processes saw."""
    out = tmp_path_factory.mktemp("two")
    done = subprocess.run([*TORCHRUN, __file__, str(small_store), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, [torch.load(out / f"seen{rank}.pt") for rank in (0, 1)]


def test_torchrun_says_who_is_who(two):
    assert [seen["processes"] for seen in two[1]] == [(0, 2, 0), (1, 2, 1)]


def test_two_processes_train_as_one(two):
    gradients, weights, average, terms, state = two[1][0]["alone"]
    assert {key.split()[0] for key in gradients} == {"d", "g", "e_h", "e_g"}
    for seen in two[1]:
        assert_close(gradients, seen["step"][0])
        assert_close(weights, seen["step"][1])
        assert_close(average, seen["step"][2])
        assert terms == pytest.approx(seen["step"][3], rel=1e-5)
        assert state == seen["step"][4] != {hagan.PROBABILITY: AUGMENT.probability}


def test_both_processes_have_the_same_bits(two):
    one, other = (seen["step"] for seen in two[1])
    assert all(digest(one[i]) == digest(other[i]) for i in (0, 1, 2))
    assert one[3] == other[3]


def assert_close(one, other):
    """Equal to 1e-6 of the length of each tensor; in float64 that holds behind Adam's division too."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == torch.float64
        assert (value - other[key]).norm() <= 1e-6 * value.norm() + 1e-12, key


def test_terms_are_means_and_what_one_process_has_all_see(two):
    for seen in two[1]:
        terms, is_stopping, _, _ = seen["words"]
        assert terms["a"] == 2.5 and terms["b"] != terms["b"] and is_stopping


def test_gradients_of_every_size_and_layout_are_averaged(two):
    for seen in two[1]:
        tensors = seen["words"][3]
        for i in (0, 2, 3, 4):
            assert torch.equal(tensors[i], torch.full_like(tensors[i], 1.5 + i))
        assert torch.equal(tensors[1], torch.arange(8.0).reshape(4, 2).T * 1.5)


def test_a_process_with_other_settings_or_another_store_is_refused_by_all(two):
    for seen in two[1]:
        assert "train.lr_g: process 1 has 0.002, process 0 has 0.001" in seen["refusal"]
        assert "store: process 1 has 1, process 0 has 0" in seen["words"][2]


def test_an_overflow_in_one_process_is_skipped_in_all(two):
    assert [seen["overflow"] for seen in two[1]] == [(True, 4.0), (True, 4.0)]


def test_all_stop_at_the_same_step_and_the_first_alone_writes(two):
    out, seen = two
    assert [each["stop"] for each in seen] == [(False, 2), (False, 2)]
    assert not (out / "process1").exists()
    assert [path.name for path in files.all_of(out / "process0")] == ["step-00000001.pt", "step-00000002.pt"]
    assert {path.name for path in (out / "process0").iterdir()} >= {"config.yaml", "metrics.jsonl", "previews"}


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    assert Processes(1, 3).share_of(12, 2) == 4
    with pytest.raises(InputError, match="batch_size 8 .* multiple of 3 processes x train.accumulate 2 = 6"):
        Processes(1, 3).share_of(8, 2)


def command(store, out, steps):
    return ["--data.store", str(store), "--out", str(out), "--train.steps", str(steps), *COMMAND]


def process_of_rank(rank, parent):
    """Return the id of the process that ``parent`` started as ``rank``."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_a_killed_process_ends_the_run_with_a_line_and_one_process_goes_on(small_store, tmp_path):
    started = subprocess.Popen(
        [*TORCHRUN, "-m", "hagan3d.train", *command(small_store, tmp_path, 2000)], stderr=subprocess.PIPE, text=True
    )
    while files.newest(tmp_path) is None:
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.05)
    os.kill(process_of_rank(1, started.pid), signal.SIGKILL)
    errors = [line for line in started.communicate(timeout=60)[1].splitlines() if "error: " in line]
    assert started.returncode != 0
    assert len(errors) == 1 and "another process of this run has ended" in errors[0]
    assert "the same command again goes on" in errors[0]
    steps = int(files.newest(tmp_path).stem.removeprefix("step-")) + 1
    assert cli.run(train.main, command(small_store, tmp_path, steps)) == 0
    rows = [json.loads(row)["step"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, steps + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
