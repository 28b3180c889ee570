"""What makes the commands of the documentation short enough for a test: options that are added, and input files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import yaml

from hagan3d.checkpoint.files import translates
from hagan3d.data.preprocess.pipeline import Prepared, prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.run_settings import config_path
from tests.data.conftest import rewrite, write_series

SIZE = "--size 32 32 32"
ADDED = {
    "phantoms": f"--num 20 {SIZE} --workers 1",
    "prepare": f"{SIZE} --workers 1 --validation 0.4",
    "train": "--data.size 32 32 32 --train.steps 2 --train.batch_size 2 --train.device cpu --log.preview_every 0",
    "generate": "--num 2",
    "evaluate": "--num 5 --bootstrap 2 --kid_subsets 1 --pairs 0 --shown 1 --reconstructions 1 "
    "--feature_training.steps 2 --feature_training.batch_size 2",
    "explore": "--steps 3 --starts 1 --seeds 1",
    "augment": "--per_class 2",
}
"""Options added to the end of a line, where they win."""
NETWORKS: dict[str, dict[str, Any]] = {
    "hagan": {
        "latent_dim": 8,
        "channels": 64,
        "d_channels": 64,
        "features": 8,
        "high_convs": 0,
        "minibatch_std": 2,
    },
    "pix2pix": {"width": 4, "levels": 2, "critic_width": 4, "critic_layers": 1},
    "upgan": {"width": 4, "levels": 1, "critic_width": 4, "critic_layers": 1, "stages": 1, "stage_steps": 1},
}
"""Settings of small networks of the methods that the tutorials train."""
WINDOW = {"hagan": {"subvolume_depth": 8}}
TRAIN = {"steps": 2, "batch_size": 2, "device": "cpu"}


def shortened(command: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command with options that make it short."""
    added = ADDED.get(command, "").split()
    if command == "generate" and "--seeds" in arguments:
        added = []
    if command == "evaluate" and not arguments[0].startswith("-") and translates(Path(arguments[0])):
        added = []
    elif command == "evaluate" and not any(option in arguments for option in ("--train-features", "--audit")):
        added = [*added, "--features", "random"]
    if command == "train":
        method = method_of(arguments[arguments.index("--config") + 1])
        settings = [(f"{method}.{name}", value) for name, value in NETWORKS[method].items()]
        settings += [(f"data.{name}", value) for name, value in WINDOW.get(method, {}).items()]
        added += [word for name, value in settings for word in (f"--{name}", str(value))]
    return [*arguments, *added]


def small_sections(name: str | Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a Python call that loads a config, changed as `shortened` changes a line."""
    method = method_of(str(name))
    data = {"size": [32, 32, 32], **WINDOW.get(method, {})}
    small = {method: NETWORKS[method], "data": data, "train": TRAIN, "log": {"preview_every": 0}}
    return {key: {**sections.get(key, {}), **small.get(key, {})} for key in {*sections, *small}}


def method_of(config: str) -> str:
    """Return the method of a shipped config."""
    return str(yaml.safe_load(config_path(config).read_text(encoding="utf-8"))["method"])


def small_prepare(inputs: Any, output: Path, config: PrepareConfig, **more: Any) -> Prepared:
    """Prepare a store as a Python call does, with its settings changed as `shortened` changes a line."""
    return prepare(inputs, output, replace(config, size=(32, 32, 32), workers=1, validation=0.4), **more)


def write_dicom(folder: Path, volumes: Path) -> None:
    """Write the input that a page presupposes: a folder of CT series, here of phantoms."""
    for path in sorted(volumes.glob("*.nii.gz")):
        series = folder / path.name.removesuffix(".nii.gz")
        series.mkdir(parents=True)
        write_series(series, nibabel.load(path).get_fdata().transpose(2, 1, 0).astype("int16"))
        for file in series.iterdir():
            rewrite(file, PatientID=series.name)
