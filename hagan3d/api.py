"""The public Python API: `Store`, `Config`, `Run` and `Model`. Commands call the same functions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch

from hagan3d import checkpoint, cli, config, run_settings
from hagan3d.config.bounds import MOST_TRUNCATION
from hagan3d.config.serialization import section_from_dict
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import DomainConfig, PrepareConfig
from hagan3d.data.store import store as stores
from hagan3d.engine.distributed import init_distributed
from hagan3d.engine.memory_plan import Plan
from hagan3d.engine.plan_report import memory_lines
from hagan3d.engine.training import default_folder, train
from hagan3d.errors import InputError
from hagan3d.evaluation.features.self_supervised import train_missing_features
from hagan3d.evaluation.report.folder import METRICS
from hagan3d.evaluation.run_evaluation import EvaluateOptions, EvaluationResult, check_sets, run_evaluation
from hagan3d.evaluation.run_exploration import MODES, run_exploration
from hagan3d.evaluation.settings import EvaluateConfig, ExploreConfig
from hagan3d.inference.devices import inference_device
from hagan3d.inference.directions import directed
from hagan3d.inference.encoding import Input, inputs_of, latents
from hagan3d.inference.generation import class_index, samples, volume_slabs
from hagan3d.inference.inputs import check_translations_out
from hagan3d.inference.translate_files import make_translator, sources_of, write_translations
from hagan3d.inference.volume_series import VolumeSeries
from hagan3d.methods.registry import make_method

Settings = TypeVar("Settings")

OVERLAP = 32  # slices that windows of a translation share, as in `hagan3d translate`


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
        prepare(
            [Path(path) for path in paths], Path(out), _settings(PrepareConfig, settings), sources_as=DomainConfig()
        )
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
        if store is not None:
            make_method(self).check_store(store)
        kind = "cpu" if self.train.device == "cpu" else "cuda"
        plan = Plan(self, make_method(self).num_classes(store), kind)
        return "\n".join(memory_lines(plan, cli.parse_bytes("vram", vram)))


@dataclass(frozen=True)
class Run:
    """One training run in a folder."""

    config: config.Config
    out: str | Path | None = None
    """Folder of the run. Default: runs/NAME_OF_STORE."""

    def train(self) -> bool:
        """Train, or resume the run that is in the folder; return whether all steps are done."""
        with init_distributed() as distributed:  # of torchrun, if it started this process
            return train(self.config, Path(self.out) if self.out else default_folder(self.config), distributed)


class Model:
    """A trained model, for inference."""

    def __init__(self, loaded: Any, run: Path, weights: str, device: str) -> None:
        """Wrap a loaded checkpoint; use `load`."""
        self.loaded, self.run, self.weights, self.device = loaded, run, weights, device

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
        return cls(load(path, weights, inference_device(device)), path, weights, device)

    def generate(
        self, num: int = 1, seed: int = 0, class_name: str | None = None, truncation: float = 1.0
    ) -> VolumeSeries:
        """Generate volumes from the seeds ``seed``, ``seed + 1``, ...; of a class, or each of its seed's.

        Raises:
            InputError: If the model translates, ``num`` is below 1, ``seed`` below 0, ``truncation`` not above 0 and at
                most 10, or there is no such class.
        """
        if num < 1 or seed < 0 or not 0 < truncation <= MOST_TRUNCATION:
            raise InputError(
                "num, seed, truncation: must be at least 1, at least 0, above 0 and at most "
                f"{MOST_TRUNCATION}, got {num}, {seed}, {truncation}"
            )
        label = None if class_name is None else class_index(self._generative(), class_name)
        made = samples(self._generative(), range(seed, seed + num), label, truncation)
        return self._series([sample.volume for sample in made])

    def encode(self, inputs: "str | Path | stores.Store | VolumeSeries", split: str = "all") -> np.ndarray:
        """Encode volumes, files or a store to latents ``[N, latent_dim]``."""
        if isinstance(inputs, VolumeSeries):
            items: Iterator[Input] = inputs.inputs()
        else:
            _, items = inputs_of(_path(inputs), self._generative(), split)
        return np.stack([encoded.z for encoded in latents(self._generative(), items)])

    @torch.no_grad()
    def decode(self, z: np.ndarray, class_name: str | None = None) -> VolumeSeries:
        """Generate volumes from latents ``[N, latent_dim]``; a conditional model needs a class.

        Raises:
            InputError: If the model translates, the latents have another shape or are not finite, or no class is given.
        """
        model = self._generative()
        is_shape = np.ndim(z) == 2 and len(z) and np.shape(z)[1] == model.networks.latent_dim
        if not is_shape or not np.isfinite(z).all():
            raise InputError(
                f"latents: must be finite numbers [N, {model.networks.latent_dim}], got {list(np.shape(z))}"
            )
        if model.num_classes and class_name is None:
            raise InputError(f"class_name: this model needs one of {', '.join(model.description.class_names)}")
        label = None if class_name is None else torch.tensor([class_index(model, class_name)], device=model.device)
        rows = (torch.from_numpy(row)[None].to(model.device) for row in np.asarray(z, np.float32))
        return self._series([np.concatenate(list(volume_slabs(model, row, label)), axis=1) for row in rows])

    def translate(
        self,
        inputs: "str | Path | stores.Store",
        out: str | Path | None = None,
        split: str = "all",
        direction: str = "a2b",
    ) -> Path:
        """Translate files or the sources of a store to NIfTI, as `hagan3d translate`; return the folder.

        Args:
            inputs: Files of any kind that `hagan3d prepare` reads, or a store.
            out: Folder to write to. Default: ``translations`` in the folder of the run.
            split: Part of a store.
            direction: Of a model of two domains also ``b2a``, ``cycle`` or ``reconstruct``.
        """
        if not self.loaded.config.translates:
            raise InputError(f"{self.run}: a generating model ({self.loaded.config.name}); use generate")
        folder, model = Path(out) if out else self.loaded.run_folder / "translations", directed(self.loaded, direction)
        check_translations_out(_path(inputs), folder)
        _, sources = sources_of(_path(inputs), model, split, simulate=False)
        write_translations(model, make_translator(model, None, OVERLAP), sources, folder)
        return folder

    def evaluate(
        self, store: "str | Path | stores.Store", out: str | Path | None = None, **settings: Any
    ) -> EvaluationResult:
        """Evaluate against the held-out volumes of a store, as `hagan3d evaluate`.

        Args:
            store: The store.
            out: Folder of the report. Default: ``evaluation`` in the folder of the run.
            settings: Those of `hagan3d evaluate --help`, such as ``num=50``. Without ``features``, the extractor of the
                store is trained first unless it was before (minutes).
        """
        folder = Path(out) if out else self.loaded.run_folder / "evaluation"
        config = _settings(EvaluateConfig, settings)
        if not self.loaded.config.translates and config.features is None:
            check_sets(self.run, _path(store), config)
            train_missing_features(stores.Store(_path(store)), self.device, config.channel)
        options = EvaluateOptions(weights=self.weights, device=self.device)
        lines = run_evaluation(self.run, _path(store), folder, config, options)
        return EvaluationResult(folder, json.loads((folder / METRICS).read_text(encoding="utf-8")), lines)

    def explore(
        self,
        store: "str | Path | stores.Store",
        attribute: str,
        out: str | Path | None = None,
        force: bool = False,
        **settings: Any,
    ) -> list[str]:
        """Walk along the latent direction of an attribute, as `hagan3d explore`; return lines on what was found.

        Args:
            store: Store of real volumes.
            attribute: A numeric column of the store, or what can be measured on volumes.
            out: Folder of pictures and tables. Default: ``explore-ATTRIBUTE`` in the folder of the run.
            force: Whether to replace another exploration there.
            settings: Those of `hagan3d explore --help`, such as ``source="generated"``.
        """
        folder = Path(out) if out else self.loaded.run_folder / f"explore-{attribute}"
        modes = {name: attribute if name == "attribute" else None for name in MODES}
        config = _settings(ExploreConfig, settings)
        return run_exploration(
            self.run, _path(store), folder, modes, config, weights=self.weights, device=self.device, force=force
        )

    def _series(self, arrays: list[np.ndarray]) -> VolumeSeries:
        return VolumeSeries.from_normalized(arrays, self.loaded.description)

    def _generative(self) -> checkpoint.Model:
        if self.loaded.config.translates:
            raise InputError(f"{self.run}: a translation model ({self.loaded.config.name}); use translate")
        return self.loaded


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Return settings by name; InputError if a name is unknown or a value is invalid."""
    return section_from_dict(run_settings.plain(values), kind)


def _path(store: "str | Path | stores.Store") -> Path:
    return store.path if isinstance(store, stores.Store) else Path(store)
