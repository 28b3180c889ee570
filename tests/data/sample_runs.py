"""Small valid files that this project writes, how they are read, and how their inner parts are mutated."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import torch
import yaml

from hagan3d import checkpoint
from hagan3d.checkpoint.files import Checkpoint, path_of
from hagan3d.config.serialization import to_dict
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.data.store.store import Store
from hagan3d.methods.registry import make_networks
from hagan3d.networks.extractors.feature_net import FORMAT, FeatureNet, read_features
from hagan3d.networks.extractors.weight_files import load_exactly, read_weights
from hagan3d.networks.state_hash import state_hash
from tests.data.conftest import smooth
from tests.data.mutations import Random, mutate_bytes, replace_value
from tests.data.sample_scans import AFFINE, VOLUMES
from tests.helpers import make_config

CHANNEL = Channel("image", "window", -1000.0, 1000.0, "HU")
DESCRIPTION = DataDescription(
    (32, 32, 32), "RAS", "axial", tuple(map(tuple, AFFINE.tolist())), (CHANNEL,), source_channels=(CHANNEL,)
)
SCALES = {"calibration": {"scale": 1.5}, "steps": 10}


def _small_config() -> Any:
    return make_config("pix2pix", size=(32, 32, 32), width=4, levels=2, critic_width=4, critic_layers=2)


def make_config_file(folder: Path) -> Path:
    (folder / "a.yaml").write_text(yaml.safe_dump(to_dict(_small_config()), sort_keys=False), encoding="utf-8")
    return folder / "a.yaml"


def make_store(folder: Path) -> Path:
    source = folder / "in"
    (source / "v").mkdir(parents=True)
    for number, name in enumerate(VOLUMES):
        nib.save(nib.Nifti1Image(smooth((12, 12, 12), number), AFFINE), source / name)
    nib.save(nib.Nifti1Image((smooth((12, 12, 12)) > 0).astype(np.uint8), AFFINE), source / "v/s.nii")
    (source / "cases.csv").write_text("id,t1,seg\na,v/a.nii,v/s.nii\nb,v/b.nii,v/s.nii\n")
    settings = PrepareConfig(size=(32, 32, 32), label_names=("no", "yes"), validation=0, workers=1)
    prepare(source / "cases.csv", folder / "a.h5", settings, progress=False)
    return folder / "a.h5"


def read_store(path: Path) -> np.ndarray:
    store = Store(path)
    try:
        store.description()
        parts = [store.volume(i).numpy() for i in range(min(len(store), 2))]
        parts += [store.low(i).numpy() for i in range(min(len(store), 2))]
        return np.concatenate([part.ravel() for part in parts])
    finally:
        store.close()


def in_store(data: bytes, random: Random) -> bytes:
    """Replace a setting, or a data set by one of another shape, type or content."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        if random.random() < 0.5:
            settings = replace_value(json.loads(bytes(file.attrs["settings"])), random)
            file.attrs["settings"] = np.bytes_(json.dumps(settings).encode())
            return _closed(file, buffer)
        name = list(file)[int(random.integers(len(file)))]
        values = file[name][:]
        del file[name]
        change = int(random.integers(5))
        if change == 1:
            file[name] = values[:-1]
        elif change == 2:
            file.create_dataset(name, (2**20,) * 3, "f8", chunks=(1, 64, 64))  # declared, not allocated
        elif change == 3:
            file[name] = np.array([1.5, np.nan])
        elif change == 4 and values.dtype.kind in "iuf":
            file[name] = np.full_like(values, np.iinfo(values.dtype).min if values.dtype.kind in "iu" else np.inf)
        return _closed(file, buffer)


def _closed(file: h5py.File, buffer: io.BytesIO) -> bytes:
    file.flush()
    file.close()
    return buffer.getvalue()


def make_checkpoint(folder: Path) -> Path:
    config = _small_config()
    networks = make_networks(config, 0)
    states = {name: networks[name].state_dict() for name in networks.names()}
    path = path_of(folder, 3)
    path.parent.mkdir(parents=True)
    checkpoint.save(Checkpoint(config, DESCRIPTION, 3, states, ema={"g": states["g"]}), path)
    return path


def read_checkpoint(path: Path) -> np.ndarray:
    loaded = checkpoint.load_translation(path)
    state = loaded.networks["g"].state_dict()
    return np.concatenate([np.zeros(0), *(x.flatten().float().numpy() for x in state.values())])


def in_tensors(data: bytes, random: Random) -> bytes:
    """Replace a value of a nested file of tensors, or mutate its pickle, with checksums that fit."""
    if random.random() < 0.5:
        buffer = io.BytesIO()
        torch.save(replace_value(torch.load(io.BytesIO(data), weights_only=True), random), buffer)
        return buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            inner = source.read(name)
            target.writestr(name, mutate_bytes(inner, random, 4096) if name.endswith("data.pkl") else inner)
    return buffer.getvalue()


def make_features(folder: Path) -> Path:
    torch.manual_seed(0)
    state = FeatureNet().state_dict()
    values = {"format": FORMAT, "store": "s", "channel": "image", "state": state, "sha256": state_hash(state)}
    torch.save(values, folder / "a.features.pt")
    return folder / "a.features.pt"


def read_feature_net(path: Path) -> np.ndarray:
    state = read_features(path, "s", "image").state_dict()
    return torch.cat([x.flatten().float() for x in state.values()]).numpy()


def make_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(8, 8).state_dict(), folder / "a.pth")
    return folder / "a.pth"


def read_layer(path: Path) -> np.ndarray:
    network = torch.nn.Linear(8, 8)
    load_exactly(network, read_weights(path, "a layer"), path, "a layer")
    return network.weight.detach().numpy()
