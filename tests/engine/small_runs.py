"""Runs of a tiny HA-GAN for the tests of the trainer."""

import dataclasses

import torch

from hagan3d.data.store.store import Store
from hagan3d.engine.trainer import Trainer
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import CPU, make_config


def tiny_config(**settings):
    """Config of a tiny HA-GAN on volumes of 32^3 voxels; with `autoencode`, as in the configs for small volumes."""
    defaults = {"latent_dim": 8, "channels": 64, "d_channels": 64, "subvolume_depth": 8}
    defaults |= {"steps": 4, "batch_size": 2, "device": "cpu", "betas": (0.5, 0.99)}
    defaults |= {"preview_every": 0, "checkpoint_steps": 1, "keep_last": 2, "log": {"every": 1}}
    if "autoencode" in settings:
        defaults |= {"prior": "encoded", "output_skip": True}
    return make_config("hagan", **defaults | settings)


def make_trainer(store_path, out, config=None):
    config = config or tiny_config()
    store, method = Store(store_path), make_method(config)
    torch.manual_seed(config.train.seed)
    nets = make_networks(config, method.num_classes(store))
    source = method.batches(store, config.train.batch_size)
    return Trainer(method, nets, source, store.description(), out, CPU, store.store_fingerprint)


def with_train(config, **train):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def phase_of(trainer, name):
    return next(phase for phase in trainer.phases if phase.name == name)
