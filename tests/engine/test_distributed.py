"""Data-parallel training: two ranks train as one does, rank 0 alone writes, and no rank continues alone.

`torchrun` starts this file twice: each rank runs `main` and saves its observations to a file.
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

from hagan3d import cli
from hagan3d import train as train_command
from hagan3d.checkpoint import files
from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.config.serialization import to_dict
from hagan3d.data.batches.subvolumes import Batch
from hagan3d.data.phantoms.head import CHANNELS, LABEL_NAMES, write_heads
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.engine import distributed as engine_distributed
from hagan3d.engine import memory_plan
from hagan3d.engine.distributed import SINGLE, Distributed, from_environment, init_distributed
from hagan3d.engine.margins import Margins, current_margins
from hagan3d.engine.memory_plan import Plan, fitted
from hagan3d.engine.trainer import Trainer
from hagan3d.engine.training import fit, train
from hagan3d.errors import InputError
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.networks.state_hash import state_hash
from tests.helpers import CPU, make_config, weights

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
AUGMENT = DiffAugConfig(translate=0.1, brightness=0.2, contrast=0.2, probability=0.5, adaptive=True, ramp=40)
SETTINGS = {"batch_size": 8, "accumulate": 2, "r1_weight": 1.0, "autoencode": 1.0, "diffaug": AUGMENT}
COMMAND = (
    "--method hagan --hagan.latent-dim 8 --hagan.channels 64 --hagan.d-channels 64 "
    "--data.size 32 32 32 --data.subvolume-depth 8 "
    "--train.batch-size 2 --train.device cpu --log.every 1 --log.preview-every 0 --log.checkpoint-steps 1"
).split()


class Float64Batch(Batch):
    """A batch in float64, where rounding hides no difference."""

    def normal(self, name, count):
        return super().normal(name, count).double()

    def slabs(self):
        return (slab.double() for slab in super().slabs())


def make_trainer(store_path, out, distributed, **settings):
    defaults = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64}
    defaults |= {"batch_size": 2, "device": "cpu", "betas": (0.5, 0.99)}
    defaults |= {"preview_every": 2, "checkpoint_steps": 1, "log": {"every": 1}}
    defaults |= {"data": {"channels": len(CHANNELS), "labels": len(LABEL_NAMES)}}
    if "autoencode" in settings:
        defaults |= {"prior": "encoded"}
    config = make_config("hagan", **defaults | settings)
    store, method = Store(store_path), make_method(config)
    torch.manual_seed(0)
    nets = make_networks(config, method.num_classes(store))
    per_rank = distributed.per_rank_batch(config.train.batch_size, config.train.accumulate, config.group)
    source = method.batches(store, per_rank, distributed.rank, distributed.world_size)
    return Trainer(
        method, nets, source, store.description(), out, CPU, store.store_fingerprint, distributed=distributed
    )


def float64_batch(trainer):
    """Convert a trainer that has done no step to float64; return its first batch in float64."""
    trainer.networks.double()
    for average in trainer.updates.averages.values():
        average.state = {key: value.double() for key, value in average.state.items()}
    batch = trainer.source.batch(0)
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(Batch)}
    return Float64Batch(**values | {name: values[name].double() for name in ("window", "low")})


def observe_step(store, out, distributed):
    """Train a step; return the gradients of each phase, then the weights, their average, the terms and the state."""
    trainer = make_trainer(store, out, distributed, conditional=True, **SETTINGS)
    batch, gradients = float64_batch(trainer), {}
    for phase in trainer.phases:
        optimizer = trainer.updates.optimizers[phase.name]

        def record(*_, name=phase.name, updated=phase.updates, **__):
            for key, parameter in trainer.networks.named_parameters():
                if key.split(".")[0] in updated:
                    gradients[f"{name} {key}"] = parameter.grad.clone()

        optimizer.register_step_pre_hook(record)
    terms = trainer.step(batch)
    return gradients, weights(trainer.networks), trainer.updates.averages["g"].state, terms, trainer.state


def observe_refusal(store, out, distributed):
    """Train with another learning rate on each rank; return the error."""
    settings = {"batch_size": 2, "device": "cpu", "lr_g": 0.001 * (1 + distributed.rank)}
    try:
        train(make_config("hagan", store=str(store), **settings), out / "refused", distributed)
    except InputError as error:
        return str(error)
    return "no error"


def observe_fit(distributed):
    """Return the settings that fit a card which only rank 0 fits as it is, since its margins are smaller."""
    plan = Plan(make_config("hagan", batch_size=2, device="cpu"), 0, "cuda")
    card = plan.needed + 2**20
    memory_plan.current_margins = lambda: Margins(context=Margins().context + distributed.rank * 4 * 2**20)
    alone = fitted(plan, card)[0]
    config, _ = fit(plan.config, plan, card, torch.device("cpu"), distributed)
    memory_plan.current_margins = current_margins
    return alone, to_dict(config)


def observe_communication(distributed):
    """Return the means of terms and of gradients, and the error where ranks differ."""
    first = distributed.is_first
    terms, is_stopping = distributed.mean({"a": 1.0 if first else 4.0, "b": 0.0 if first else float("nan")}, not first)
    try:
        distributed.check_same_on_all_ranks({"seed": 1, "store": distributed.rank})
        message = ""
    except InputError as error:
        message = str(error)
    engine_distributed.BUCKET = 64
    sizes = [(3,), (2, 4), (5, 7), (1,), (2, 9)]
    tensors = [torch.full(size, 1.0 + distributed.rank + i) for i, size in enumerate(sizes)]
    tensors[1] = torch.arange(8.0).reshape(4, 2).T * (1 + distributed.rank)
    tensors[3] = tensors[3].double()
    distributed.average(tensors)
    engine_distributed.BUCKET = 32 * 2**20
    return terms, is_stopping, message, tensors


def observe_overflow(store, out, distributed):
    """Train a step in fp16 with an infinite gradient on one rank; return whether G is unchanged, and its loss scale."""
    trainer = make_trainer(store, out, distributed, precision="fp16", encoder=False)
    before = state_hash(trainer.networks.g.state_dict())
    weight = trainer.networks.g.low[2].weight
    if not distributed.is_first:
        weight.register_hook(lambda gradient: gradient * float("inf"))
    for scaler in trainer.updates.scalers.values():
        scaler.scale(torch.zeros(()))  # it has a scale from the first call on
        scaler.update(8.0)
    trainer.step(trainer.source.batch(0))
    return state_hash(trainer.networks.g.state_dict()) == before, trainer.updates.scalers["g"].get_scale()


def observe_stop(store, out, distributed):
    """Run until rank 1 gets a stop signal; return whether all steps are done, and their number."""
    trainer = make_trainer(store, out, distributed, steps=50, encoder=False)
    step = trainer.step

    def stopped_in_step_two(batch, signals):
        if not distributed.is_first and trainer.steps_done == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(batch, signals)

    trainer.step = stopped_in_step_two
    return trainer.run(), trainer.steps_done


def main(store, out):
    """What each of two ranks does."""
    with init_distributed() as distributed:
        own = out / f"rank{distributed.rank}"
        observed = {
            "distributed": (distributed.rank, distributed.world_size, distributed.local_rank),
            "single": observe_step(store, out / "single", SINGLE) if distributed.is_first else None,
            "step": observe_step(store, own, distributed),
            "refusal": observe_refusal(store, out, distributed),
            "fit": observe_fit(distributed),
            "communication": observe_communication(distributed),
            "overflow": observe_overflow(store, own, distributed),
            "stop": observe_stop(store, own, distributed),
        }
        torch.save(observed, out / f"observed{distributed.rank}.pt")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A store of volumes of four channels with label maps and classes."""
    folder = write_heads(tmp_path_factory.mktemp("heads"), 16, (32, 32, 32))
    lines = [f"head_{number:05d},{number % 2}" for number in range(16)]
    (folder / "classes.csv").write_text("\n".join(["id,class", *lines]))
    config = PrepareConfig(size=(32, 32, 32), labels=str(folder / "classes.csv"), validation=0.2)
    return prepare(find_inputs(None, nnunet=folder), folder / "s.h5", config, progress=False).path


@pytest.fixture(scope="module")
def two(heads, tmp_path_factory):
    """The folder of two ranks, and their observations."""
    out = tmp_path_factory.mktemp("two")
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]  # for tests.helpers
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    words = [*TORCHRUN, __file__, str(heads), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return out, [torch.load(out / f"observed{rank}.pt") for rank in (0, 1)]


def test_ranks_come_from_torchrun(two):
    assert [observed["distributed"] for observed in two[1]] == [(0, 2, 0), (1, 2, 1)]


def test_two_ranks_train_as_one(two):
    gradients, weights, average, terms, state = two[1][0]["single"]
    assert {key.split()[0] for key in gradients} == {"d", "g", "e_h"}
    for observed in two[1]:
        assert_close(gradients, observed["step"][0])
        assert_close(weights, observed["step"][1])
        assert_close(average, observed["step"][2])
        assert terms == pytest.approx(observed["step"][3], rel=1e-5)
        assert state == observed["step"][4] != {hagan.PROBABILITY: AUGMENT.probability}


def test_both_ranks_have_the_same_bits(two):
    one, other = (observed["step"] for observed in two[1])
    assert all(state_hash(one[i]) == state_hash(other[i]) for i in (0, 1, 2))
    assert one[3] == other[3]


def assert_close(one, other):
    """Equal to 1e-6 of the norm of each tensor; in float64 that holds even after Adam's division."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == torch.float64
        assert (value - other[key]).norm() <= 1e-6 * value.norm() + 1e-12, key


def test_ranks_with_other_margins_take_the_same_settings(two):
    (alone, config), (other_alone, other) = (observed["fit"] for observed in two[1])
    assert alone != other_alone and config == other


def test_an_environment_that_torchrun_did_not_make_is_one_line(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE 2, RANK unset: .*start with torchrun, or unset WORLD_SIZE"):
        from_environment()
    for rank in ("x", "2"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(InputError, match=f"WORLD_SIZE 2, RANK {rank}"):
            from_environment()


def test_terms_are_averaged_and_all_ranks_see_nan_and_stop(two):
    for observed in two[1]:
        terms, is_stopping, _, _ = observed["communication"]
        assert terms["a"] == 2.5 and terms["b"] != terms["b"] and is_stopping


def test_gradients_of_every_size_and_layout_are_averaged(two):
    for observed in two[1]:
        tensors = observed["communication"][3]
        for i in (0, 2, 3, 4):
            assert torch.equal(tensors[i], torch.full_like(tensors[i], 1.5 + i))
        assert torch.equal(tensors[1], torch.arange(8.0).reshape(4, 2).T * 1.5)


def test_a_rank_with_other_settings_or_another_store_is_refused_by_all(two):
    for observed in two[1]:
        assert "train.lr_g: process 1 has 0.002, process 0 has 0.001" in observed["refusal"]
        assert "store: process 1 has 1, process 0 has 0" in observed["communication"][2]


def test_an_overflow_on_one_rank_is_skipped_on_all(two):
    assert [observed["overflow"] for observed in two[1]] == [(True, 4.0), (True, 4.0)]


def test_all_ranks_stop_at_the_same_step_and_rank_0_alone_writes(two):
    out, observed = two
    assert [each["stop"] for each in observed] == [(False, 2), (False, 2)]
    assert not (out / "rank1").exists()
    assert [path.name for path in files.all_of(out / "rank0")] == ["step-00000001.pt", "step-00000002.pt"]
    assert {path.name for path in (out / "rank0").iterdir()} >= {"config.yaml", "metrics.jsonl", "previews"}


def test_a_batch_that_cannot_be_divided_over_ranks_is_refused():
    assert Distributed(1, 3).per_rank_batch(12, 2) == 4
    with pytest.raises(InputError, match="batch_size 8: .* multiple of 3 processes x train.accumulate 2 = 6"):
        Distributed(1, 3).per_rank_batch(8, 2)
    with pytest.raises(InputError, match="3 processes x train.accumulate 2 x 4 volumes .* = 24"):
        Distributed(1, 3).per_rank_batch(12, 2, group=4)


def command(store, out, steps):
    return ["--data.store", str(store), "--out", str(out), "--train.steps", str(steps), *COMMAND]


def process_of_rank(rank, parent):
    """Return the id of the process that ``parent`` started as ``rank``."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_a_killed_rank_ends_the_run_with_one_line_and_a_single_rank_resumes(small_store, tmp_path):
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
    assert "the same command again resumes" in errors[0]
    steps = int(files.newest(tmp_path).stem.removeprefix("step-")) + 1
    assert cli.run(train_command.main, command(small_store, tmp_path, steps)) == 0
    rows = [json.loads(row)["step"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, steps + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
