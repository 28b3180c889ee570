"""A full card: what is read as one, and what goes on after it."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from hagan3d.config import LogConfig
from hagan3d.engine import training
from hagan3d.engine.distributed import Distributed
from hagan3d.engine.trainer import Trainer
from hagan3d.errors import InputError
from hagan3d.methods.generation import GenerationPreview
from tests.helpers import make_config

SMALL = {"subvolume_depth": 8, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 2, "minibatch_std": 2}


def run(store, out, **settings):
    config = make_config("hagan", data={"store": str(store)}, train={"steps": 2, "device": "cpu"}, **SMALL | settings)
    return training.train(config, out)


@pytest.mark.parametrize("text", ["CUDA out of memory", "unable to find an engine to execute this computation"])
def test_a_preview_without_memory_is_a_warning_and_the_run_is_saved(small_store, tmp_path, monkeypatch, capsys, text):
    def fail(*_):
        assert list((tmp_path / "checkpoints").glob("step-*2.pt")), "the checkpoint comes before the preview"
        raise RuntimeError(text)

    monkeypatch.setattr(GenerationPreview, "groups", fail)
    assert run(small_store, tmp_path, log=vars(LogConfig(preview_every=2)))
    assert "step 2: no preview" in capsys.readouterr().err


def test_another_error_of_a_preview_is_not_hidden(small_store, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes disagree")

    monkeypatch.setattr(GenerationPreview, "groups", fail)
    with pytest.raises(RuntimeError, match="shapes disagree"):
        run(small_store, tmp_path, log=vars(LogConfig(preview_every=2)))


@pytest.mark.parametrize("text", ["unable to find an engine", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_a_full_card_is_one_line_with_advice(small_store, tmp_path, monkeypatch, text):
    def fail(self):
        raise RuntimeError(text)

    monkeypatch.setattr(Trainer, "run", fail)
    monkeypatch.setattr(training, "is_on_gpu", lambda device: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 8 * 10**9))
    with pytest.raises(InputError, match=r"the card is full \(7.0 of 8.0 GB in use\).*is intact"):
        run(small_store, tmp_path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("Connection closed by peer"), InputError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), torch.AcceleratorError),
        (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ],
)
def test_a_fault_of_the_gpu_is_not_read_as_a_dead_rank(monkeypatch, error, kind):
    class Group:
        def allreduce(self, *_):
            raise error

    monkeypatch.setattr(dist, "group", SimpleNamespace(WORLD=Group()))
    with pytest.raises(kind) as raised:
        Distributed(0, 2)._sum(torch.zeros(1))
    assert type(raised.value) is kind
