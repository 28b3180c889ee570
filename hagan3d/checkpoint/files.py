"""Checkpoint files: tensors and plain values, written to a temporary name and renamed atomically."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast, get_type_hints

import torch
from torch import Tensor

from hagan3d.config import Config, VolumeDataConfig
from hagan3d.config.serialization import from_dict, has_type, to_dict
from hagan3d.data.io.files import replacing
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_networks, networks_class
from hagan3d.networks.generative import GenerativeNetworks
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.tensor_files import read_tensors
from hagan3d.networks.translation import TranslationNetworks

FORMAT = "hagan3d checkpoint 3"
FOLDER = "checkpoints"
OTHER_FILES = (".h5", ".yaml", ".yml", ".json")  # that people give in the place of a checkpoint
State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step: the model and all that a resume needs."""

    config: Config
    description: DataDescription
    """The data it was trained on."""
    step: int
    """Steps done."""
    networks: dict[str, State]
    """Weights of each network."""
    ema: dict[str, State] = field(default_factory=dict)
    """Averaged weights of some networks."""
    optimizers: dict[str, Any] = field(default_factory=dict)
    """Optimizer state of each phase."""
    scalers: dict[str, Any] = field(default_factory=dict)
    """Loss scaler state of each phase."""
    state: dict[str, float] = field(default_factory=dict)
    """Scalars that the method adapts."""
    unlogged: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Terms since the last row of the log: their sums and counts."""
    store: str = ""
    """Fingerprint of the store."""


AnyNetworks = TypeVar("AnyNetworks", bound=NetworkSet, covariant=True)


@dataclass(frozen=True)
class Loaded(Generic[AnyNetworks]):
    """A model loaded for inference."""

    networks: AnyNetworks
    """In evaluation mode, without gradients; networks that were not loaded are identities."""
    config: Config
    description: DataDescription
    step: int
    path: Path

    @property
    def loaded(self) -> list[str]:
        """Names of the networks that were loaded."""
        return [name for name in self.networks.names() if not isinstance(self.networks[name], torch.nn.Identity)]

    @property
    def num_classes(self) -> int:
        """Classes of a conditional model, else 0."""
        return _num_classes(self.config, self.description)

    @property
    def run_folder(self) -> Path:
        """Folder of the run that the checkpoint belongs to."""
        return self.path.parent.parent

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return next(self.networks.parameters()).device


Model = Loaded[GenerativeNetworks]
TranslationModel = Loaded[TranslationNetworks]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        InputError: If the disk is full or the place cannot be written to.
    """
    values = {field: getattr(checkpoint, field) for field in checkpoint.__dataclass_fields__}
    values |= {
        "format": FORMAT,
        "config": to_dict(checkpoint.config),
        "description": checkpoint.description.to_dict(),
    }
    write_tensors(path, values)


def write_tensors(path: Path, values: Any) -> None:
    """Write a file of tensors and plain values, whole or not at all.

    Raises:
        InputError: If the disk is full or the place cannot be written to.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # the archive that torch closes hides the error of the disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load(path: Path, device: torch.device | str = "cpu", mapped: bool = False) -> Checkpoint:
    """Read a checkpoint without running any code that it might hold.

    Args:
        path: The file.
        device: Device of the tensors.
        mapped: Whether tensors are memory-mapped.

    Raises:
        InputError: If it is missing, truncated, not safe to load or not a checkpoint of this project.
    """
    if path.suffix in OTHER_FILES and path.is_file():
        raise InputError(f"{path}: is no checkpoint; give the folder of a run, or a .pt file in its folder {FOLDER}")
    values = read_tensors(path, device, mapped)
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT and str(found).startswith("hagan3d checkpoint"):
        raise InputError(
            f"{path}: written by another version ({found}, this one reads {FORMAT!r}); train the run again"
        )
    if found != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint of hagan3d (import published weights by `python -m hagan3d.checkpoint import`)"
        )
    values = {key: value for key, value in values.items() if key != "format"}
    fields = set(Checkpoint.__dataclass_fields__)
    if fields - set(values):
        missing = sorted(fields - set(values))
        raise InputError(f"{path}: the checkpoint lacks {missing[0]!r}; it is damaged or of another version")
    odd = [str(key) for key in values if key not in fields or not _has_its_type(key, values[key])]
    if odd:
        raise InputError(f"{path}: the checkpoint has an unexpected {odd[0]!r}; it is damaged or of another version")
    try:
        values["config"] = from_dict(values["config"])
        values["description"] = DataDescription.from_dict(values["description"])
        _check_agreement(values["config"], values["description"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Checkpoint(**values)


def _check_agreement(config: Config, description: DataDescription) -> None:
    """Raise InputError unless the described volumes have the size, channels and labels that networks generate."""
    data = config.data
    if isinstance(data, VolumeDataConfig):
        described = (tuple(description.size), len(description.channels), len(description.label_names))
        if described != (tuple(data.size), data.channels, data.labels):
            raise InputError(
                "the size, the number of channels or that of labels in its data description differ from its config; it "
                "is damaged"
            )


def _has_its_type(name: str, value: Any) -> bool:
    """Return whether the value of a field of a checkpoint has its type; configs check theirs."""
    if name in ("config", "description"):
        return isinstance(value, dict)
    if name in ("networks", "ema"):
        return isinstance(value, dict) and all(_is_state(state) for state in value.values())
    return has_type(value, get_type_hints(Checkpoint)[name])


def _is_state(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())


def path_of(run: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return run / FOLDER / f"step-{step:08d}.pt"


def all_of(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted((run / FOLDER).glob("step-*.pt"))


def newest(run: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    return next(reversed(all_of(run)), None)


def load_model(
    run: Path,
    weights: str = "ema",
    device: torch.device | str = "cpu",
    *,
    generate: bool = False,
    encode: bool = False,
) -> Model:
    """Load the networks of a run that generates volumes, for inference.

    Args:
        run: Folder of a run (its newest checkpoint is loaded) or a checkpoint file.
        weights: ``ema`` (the moving average, if there is one) or ``raw``.
        device: Device of the networks.
        generate: Load the networks that generate.
        encode: Load the networks that encode. With neither, all are loaded; others take no memory.

    Raises:
        InputError: If there is no usable checkpoint, or the run is a translation.
    """
    loaded = _load(run, weights, device, _Parts(generate, encode) if generate or encode else None)
    if not isinstance(loaded.networks, GenerativeNetworks):
        raise InputError(f"{run}: a translation model ({loaded.config.name}); use `hagan3d translate`")
    return cast(Model, loaded)


class _Parts(NamedTuple):
    """Purpose for which a model is loaded; it selects the networks."""

    generate: bool
    encode: bool

    def names(self, kind: type[NetworkSet]) -> Collection[str]:
        """Return the networks of a method that are needed."""
        if not issubclass(kind, GenerativeNetworks):
            return kind.averaged
        return (*(kind.generators if self.generate else ()), *(kind.encoders if self.encode else ()))


def load_translation(run: Path, weights: str = "ema", device: torch.device | str = "cpu") -> TranslationModel:
    """Load the generators of a translation run for inference; arguments as in `load_model`.

    Raises:
        InputError: If there is no usable checkpoint, or the run is not a translation.
    """
    loaded = _load(run, weights, device, None)
    if not isinstance(loaded.networks, TranslationNetworks):
        raise InputError(f"{run}: a model that generates volumes ({loaded.config.name}); use `hagan3d generate`")
    return cast(TranslationModel, loaded)


def translates(run: Path) -> bool:
    """Return whether a run is a translation; False if it has no checkpoint."""
    path = run if run.is_file() else newest(run)
    return path is not None and load(path, mapped=True).config.translates


def _load(run: Path, weights: str, device: torch.device | str, parts: _Parts | None) -> Loaded[NetworkSet]:
    if weights not in ("ema", "raw"):
        raise InputError(f"weights {weights}: must be ema or raw")
    path = run if run.is_file() else newest(run)
    if path is None:
        raise InputError(f"{run}: {_what_is_there(run)}")
    checkpoint = load(path, mapped=True)
    names = None if parts is None else parts.names(networks_class(checkpoint.config.name))
    networks = build(checkpoint, path, names)
    for name in networks.names():
        if not isinstance(networks[name], torch.nn.Identity):
            state = checkpoint.networks[name]
            load_weights(networks[name], checkpoint.ema.get(name, state) if weights == "ema" else state, path, name)
    networks.set_step(checkpoint.step)
    networks.to(device).eval().requires_grad_(False)
    return Loaded(networks, checkpoint.config, checkpoint.description, checkpoint.step, path)


def _what_is_there(folder: Path) -> str:
    """Say why a folder is no run with a checkpoint, and which one may be meant."""
    train = f"train one by `hagan3d train --out {folder}`"
    if not folder.exists():
        runs = [path.name for path in folder.parent.glob("*") if newest(path) is not None]
        near = difflib.get_close_matches(folder.name, runs, 1)
        return f"no such run; {f'did you mean {folder.parent / near[0]}?' if near else train}"
    if newest(folder.absolute().parent) is not None and folder.name == FOLDER:
        return f"holds the checkpoints of a run; give the run, {folder.parent}, or one of the files"
    runs = sorted(str(path) for path in folder.iterdir() if newest(path) is not None)
    if runs:
        return f"is no run, but holds some; give one of them: {', '.join(runs[:5])}{' ...' if len(runs) > 5 else ''}"
    return f"no checkpoint in {folder / FOLDER}; {train}"


def build(checkpoint: Checkpoint, path: Path, names: Collection[str] | None = None) -> NetworkSet:
    """Build the networks of a checkpoint's config without initializing their weights.

    Networks that it lacks, as imported weights may, and those not in ``names`` become identities; by default the latter
    are the discriminators of a translation.

    Raises:
        InputError: If its weights do not fit, before memory of the size that the config claims is taken.
    """
    config = checkpoint.config
    try:
        with torch.device("meta"):
            networks = make_networks(config, _num_classes(config, checkpoint.description))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if names is None and isinstance(networks, TranslationNetworks):
        names = networks.averaged
    for name in networks.names():
        state = checkpoint.networks.get(name)
        if state is None or (names is not None and name not in names):
            setattr(networks, name, torch.nn.Identity())
        elif _shapes(networks[name].state_dict()) != _shapes(state):
            raise _other_weights(path, name)
    return networks.to_empty(device="cpu")


def _shapes(state: State) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _num_classes(config: Config, description: DataDescription) -> int:
    return len(description.class_names) if config.conditional else 0


def load_weights(network: torch.nn.Module, state: State, path: Path, name: str) -> None:
    """Load the weights of the network ``name`` from the checkpoint ``path``; InputError if they do not fit."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise _other_weights(path, name) from error


def _other_weights(path: Path, name: str) -> InputError:
    return InputError(
        f"{path}: the weights of {name} do not fit the networks of its config; use the version of hagan3d that wrote it"
    )
