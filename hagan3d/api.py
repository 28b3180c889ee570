"""The public Python API: `Store`, `Config`, `Run` and `Model`. Commands call the same functions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from hagan3d import checkpoint, cli, config, run_settings
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.store import store as stores
from hagan3d.data.store.description import DataDescription
from hagan3d.engine.memory_plan import Plan
from hagan3d.engine.plan_report import memory_lines
from hagan3d.engine.training import default_folder, train
from hagan3d.errors import InputError
from hagan3d.evaluation.run_evaluation import METRICS, run_evaluation
from hagan3d.evaluation.run_exploration import MODES, run_exploration
from hagan3d.evaluation.settings import EvaluateConfig, ExploreConfig
from hagan3d.inference.devices import inference_device
from hagan3d.inference.encoding import Input, inputs_of, latents
from hagan3d.inference.generation import class_index, samples, volume_slabs, write_slabs
from hagan3d.inference.translate_files import make_translator, sources_of, write_translations
from hagan3d.methods.registry import make_method


class Store(stores.Store):
    """Prepared volumes in an HDF5 file, or a folder of its shards: ``Store("scans.h5")``."""

    @classmethod
    def prepare(cls, inputs: str | Path | Sequence[str | Path], out: str | Path, **settings: Any) -> Self:
        """Make a store of files, as `hagan3d prepare`, unless it exists already.

        Args:
            inputs: Folders, text files that list paths, or volumes.
            out: The .h5 file.
            settings: Those of `hagan3d prepare --help`, such as ``size=(64, 64, 64)`` or ``intensity="window"``.

        Raises:
            InputError: If files cannot be used; the message has a line for each.
        """
        paths = [inputs] if isinstance(inputs, str | Path) else list(inputs)
        prepare([Path(path) for path in paths], Path(out), PrepareConfig(**settings), sources_as=DomainConfig())
        return cls(out)


class Config(config.Config):
    """Settings of a run."""

    @classmethod
    def load(cls, name: str | Path, **sections: dict[str, Any]) -> Self:
        """Load a YAML file, or a shipped config by its name, with changes to its sections.

        Args:
            name: A path, or a name such as ``hagan_64``.
            sections: Settings to change, such as ``data={"store": "a.h5"}``; those of the method by its name.

        Raises:
            InputError: If there is no such config, or a setting is unknown or invalid.
        """
        loaded = run_settings.load_config(name, **sections)
        return cls(loaded.method, loaded.data, loaded.train, loaded.log)

    def plan(self, vram: str = "16GB") -> str:
        """Return what a step needs of a card: peak memory, whether it fits, the largest batch, advice."""
        store = Store(self.data.store) if self.data.store else None
        plan = Plan(self, make_method(self).num_classes(store))
        return "\n".join(memory_lines(plan, cli.parse_bytes("vram", vram)))


@dataclass(frozen=True)
class Run:
    """One training run in a folder."""

    config: config.Config
    out: str | Path | None = None
    """Folder of the run. Default: runs/NAME_OF_STORE."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out) if self.out else default_folder(self.config)

    def train(self) -> bool:
        """Train, or resume the run that is in the folder; return whether all steps are done."""
        return train(self.config, self.folder)

    def model(self) -> "Model":
        """Load the newest checkpoint."""
        return Model.load(self.folder)


@dataclass(frozen=True)
class Volumes:
    """Volumes on one grid, in the units of the data."""

    arrays: np.ndarray
    """``[N, D, H, W]``, float32."""
    description: DataDescription
    interval: tuple[float, float]
    """Values of -1 and 1 of the networks, in file units."""

    def numpy(self) -> np.ndarray:
        """Return the voxels ``[N, D, H, W]`` in file units."""
        return self.arrays

    @property
    def affine(self) -> np.ndarray:
        """Index (d, h, w) to RAS mm ``[4, 4]``."""
        return self.description.affine_array

    @property
    def normalized(self) -> np.ndarray:
        """Voxels in [-1, 1]."""
        lo, hi = self.interval
        return np.clip(2 * (self.arrays - lo) / (hi - lo) - 1, -1, 1).astype(np.float32)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each volume as NIfTI, in its units and position; return the files."""
        paths = [Path(folder) / f"volume-{number:06d}.nii.gz" for number in range(len(self.arrays))]
        for path, x in zip(paths, self.normalized, strict=True):
            write_slabs([x], self.description, path, interval=self.interval)
        return paths

    def __len__(self) -> int:
        return len(self.arrays)


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; report.html and metrics.json are in its folder."""

    folder: Path
    results: dict[str, Any]
    """The content of metrics.json."""
    verdicts: list[str]
    """Lines that describe the result."""

    @property
    def metrics(self) -> dict[str, float]:
        """Value of each metric between generated and held-out volumes, in the first features."""
        if "features" not in self.results:  # a translation
            return {name: values["mean"] for name, values in self.results["summary"]["translated"]["whole"].items()}
        first = next(iter(self.results["features"].values()))
        return {
            name: value["value"]
            for name, value in first["generated vs held-out"].items()
            if isinstance(value, dict) and "value" in value
        }


class Model:
    """A trained model, for inference."""

    def __init__(self, loaded: Any, run: Path) -> None:
        """Wrap a loaded checkpoint; use `load`."""
        self.loaded, self.run = loaded, run

    @classmethod
    def load(cls, run: str | Path, weights: str = "ema", device: str = "auto") -> Self:
        """Load the newest checkpoint of a run folder, or a checkpoint file.

        Args:
            run: The folder or file.
            weights: ``ema`` (the moving average) or ``raw``.
            device: ``auto``, ``cpu`` or ``cuda``.

        Raises:
            InputError: If there is no usable checkpoint.
        """
        path = Path(run)
        load = checkpoint.load_translation if checkpoint.translates(path) else checkpoint.load_model
        return cls(load(path, weights, inference_device(device)), path)

    def generate(self, num: int = 1, seed: int = 0, class_name: str | None = None, truncation: float = 1.0) -> Volumes:
        """Generate volumes from the seeds ``seed``, ``seed + 1``, ...; of a class, or of all in turn."""
        label = None if class_name is None else class_index(self._generative(), class_name)
        made = samples(self._generative(), range(seed, seed + num), label, truncation)
        return self._volumes([sample.volume for sample in made])

    def encode(self, inputs: "str | Path | stores.Store | Volumes", split: str = "all") -> np.ndarray:
        """Encode volumes, files or a store to latents ``[N, latent_dim]``."""
        if isinstance(inputs, Volumes):
            items: Iterator[Input] = self._inputs(inputs)
        else:
            path = inputs.path if isinstance(inputs, stores.Store) else Path(inputs)
            _, items = inputs_of(path, self._generative(), split)
        return np.stack([encoded.z for encoded in latents(self._generative(), items)])

    @torch.no_grad()
    def decode(self, z: np.ndarray, class_name: str | None = None) -> Volumes:
        """Generate volumes from latents ``[N, latent_dim]``; a conditional model needs a class."""
        model = self._generative()
        label = None if class_name is None else torch.tensor([class_index(model, class_name)], device=model.device)
        rows = (torch.from_numpy(row)[None].to(model.device) for row in np.asarray(z, np.float32))
        return self._volumes([np.concatenate(list(volume_slabs(model, row, label))) for row in rows])

    def translate(self, inputs: "str | Path | stores.Store", out: str | Path, split: str = "all") -> Path:
        """Translate files or the sources of a store to NIfTI in the folder ``out``, as `hagan3d translate`."""
        path = inputs.path if isinstance(inputs, stores.Store) else Path(inputs)
        _, sources = sources_of(path, self.loaded, split, simulate=False)
        write_translations(self.loaded, make_translator(self.loaded, 128, 32), sources, Path(out))
        return Path(out)

    def evaluate(
        self, store: "str | Path | stores.Store", out: str | Path | None = None, **settings: Any
    ) -> Evaluation:
        """Evaluate against the held-out volumes of a store, as `hagan3d evaluate`.

        Args:
            store: The store.
            out: Folder of the report. Default: ``evaluation`` in the folder of the run.
            settings: Those of `hagan3d evaluate --help`, such as ``num=50`` or ``features="random"``.
        """
        folder = Path(out) if out else self.loaded.run_folder / "evaluation"
        path = store.path if isinstance(store, stores.Store) else Path(store)
        lines = run_evaluation(self.run, path, folder, EvaluateConfig(**settings))
        return Evaluation(folder, json.loads((folder / METRICS).read_text(encoding="utf-8")), lines)

    def explore(
        self, store: "str | Path | stores.Store", attribute: str, out: str | Path | None = None, **settings: Any
    ) -> list[str]:
        """Walk along the latent direction of an attribute, as `hagan3d explore`; return lines on what was found.

        Args:
            store: Store of real volumes.
            attribute: A numeric column of the store, or what can be measured on volumes.
            out: Folder of pictures and tables. Default: ``explore-ATTRIBUTE`` in the folder of the run.
            settings: Those of `hagan3d explore --help`, such as ``source="generated"``.
        """
        folder = Path(out) if out else self.loaded.run_folder / f"explore-{attribute}"
        path = store.path if isinstance(store, stores.Store) else Path(store)
        modes = {name: attribute if name == "attribute" else None for name in MODES}
        return run_exploration(self.run, path, folder, modes, ExploreConfig(**settings))

    def _generative(self) -> checkpoint.Model:
        if self.loaded.config.translates:
            raise InputError(f"{self.run}: a translation model ({self.loaded.config.name}); use translate")
        return self.loaded

    def _volumes(self, arrays: list[np.ndarray]) -> Volumes:
        description = self.loaded.description
        lo, hi = description.lo, description.hi
        return Volumes((np.stack(arrays) + 1) * np.float32((hi - lo) / 2) + np.float32(lo), description, (lo, hi))

    def _inputs(self, volumes: Volumes) -> Iterator[Input]:
        lo, hi = volumes.interval
        for number, x in enumerate(volumes.normalized):

            def read(start: int, depth: int, x: np.ndarray = x) -> np.ndarray:
                return x[start : start + depth]

            yield Input(f"volume-{number:06d}", read, len(x), volumes.affine, lo, hi)
