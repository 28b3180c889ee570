"""Evaluation of a run between two domains without pairs: distances between sets per direction, and cycle errors."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hagan3d import __version__
from hagan3d.checkpoint import TranslationModel
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.io.geometry import resample_onto, to_grid
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store.description import check_names
from hagan3d.data.store.preparation import check_preparation
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.metrics.distances import LEAST_SUBJECTS, fid, kid, rbf_mmd
from hagan3d.evaluation.metrics.estimate import Estimate, Subjects, one_per_subject_first
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.evaluation.translation.pairs import FOREGROUND, voxel_errors
from hagan3d.evaluation.translation.results import Spread, plain
from hagan3d.inference.directions import directed
from hagan3d.inference.translate_files import make_translator
from hagan3d.networks.state_hash import state_hash
from hagan3d.networks.translation import ROUTES

DOMAIN_PROTOCOL_VERSION = 4
SHOWN = 4  # volumes of each domain in the picture
NAMES = {direction: ROUTES[direction] for direction in ("a2b", "b2a")}


@dataclass
class DirectionEvaluation:
    """Translations of the held-out volumes of one domain against those of the other."""

    translated: dict[str, Estimate] = field(default_factory=dict)
    """FID, KID and MMD between translations and the held-out volumes of the other domain."""
    untranslated: dict[str, Estimate] = field(default_factory=dict)
    """The same of the volumes as they are: what doing nothing gives."""
    floor: dict[str, Estimate] = field(default_factory=dict)
    """The same of as many training volumes of the other domain: what perfect translations would give."""
    cycle: dict[str, Spread] = field(default_factory=dict)
    """Errors in the mask of volumes that were translated there and back."""
    paired: dict[str, Spread] = field(default_factory=dict)
    """Errors in the mask against the volume of the same subject in the other domain, where there is one of each."""
    paired_untranslated: dict[str, Spread] = field(default_factory=dict)
    """The same errors of the volumes as they are."""
    pairs: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        values = asdict(self)
        for name in ("translated", "untranslated", "floor"):
            values[name] = {key: estimate.to_dict() for key, estimate in getattr(self, name).items()}
        return dict(plain(values))


@dataclass(frozen=True)
class DomainEvaluation:
    """Results of the evaluation of a run between two domains, as written to metrics.json."""

    key: str
    origin: dict[str, Any]
    extractor: str
    directions: dict[str, DirectionEvaluation]
    volumes: dict[str, int]
    """Held-out volumes of each domain."""
    subjects: dict[str, int]
    """Subjects of them."""
    sheet: bytes

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, without the picture."""
        directions = {name: result.to_dict() for name, result in self.directions.items()}
        values = {"key": self.key, "origin": self.origin, "extractor": self.extractor, "volumes": self.volumes}
        return values | {"subjects": self.subjects, "directions": directions}


def domain_evaluation_key(
    model: TranslationModel, store: Store, depth: int | None, overlap: int, extractor: Extractor
) -> str:
    """Return a hash of everything that the results depend on: weights, store, windows, features."""
    weights = state_hash(model.networks.state_dict())
    content = [weights, model.step, store.store_fingerprint, depth, overlap, extractor.sha256]
    return hashlib.sha256(json.dumps(["domains", DOMAIN_PROTOCOL_VERSION, *content]).encode()).hexdigest()


def held_out_volumes(model: TranslationModel, store: Store) -> dict[str, list[int]]:
    """Return the indices of the held-out volumes of each domain.

    Raises:
        InputError: If a domain has volumes of fewer than three subjects, or the store does not fit the model.
    """
    own, names = store.description(), {"source": "source_channels", "target": "channels"}
    for domain, name in names.items():
        expected = model.description.on_grid_of(domain)
        channels = [getattr(one, name) or one.channels for one in (own, model.description)]
        check_names(store.path, f"{domain}s have the channels", *([one.name for one in each] for each in channels))
        check_preparation(store, expected, zip(*channels, strict=True), domain)
    return {domain: _held_out(store, domain) for domain in ("source", "target")}


def evaluate_domains(
    model: TranslationModel,
    store: Store,
    extractor: Extractor,
    depth: int | None = None,
    overlap: int = 32,
    progress: ProgressCallback = no_progress,
) -> DomainEvaluation:
    """Translate the held-out volumes of both domains, there and back, and compare sets.

    A translation keeps the grid of its source. Where domains have grids of their own, translations and untranslated
    volumes are resampled to that of the other domain first, by the rule by which `prepare` resampled its files.

    Args:
        model: The run; in both directions if its networks can.
        store: Two domains, with held-out volumes of both.
        extractor: Features in which sets are compared.
        depth: Slices per window; 0: whole volumes; None: as `make_translator` chooses.
        overlap: Slices that windows share.
        progress: Shows progress.

    Raises:
        InputError: If a domain has held-out or training volumes of fewer than three subjects, or the store does not fit
            the model.
    """
    held_out = held_out_volumes(model, store)
    translate = partial(_translations, model, depth=depth, overlap=overlap, progress=progress)
    compare = _Comparison(model, store, extractor, held_out, translate)
    results: dict[str, DirectionEvaluation] = {}
    groups: dict[str, list[np.ndarray]] = {}
    affines: dict[str, np.ndarray] = {}
    for direction in (name for name in NAMES if name in model.networks.directions):
        results[direction], shown = compare.direction(direction)
        groups |= {title: each[:SHOWN] for title, each in shown.items()}
        affines |= dict.fromkeys(shown, model.description.on_grid_of(NAMES[direction][0]).affine_array)
    key = domain_evaluation_key(model, store, depth, overlap, extractor)
    counts = {domain: len(chosen) for domain, chosen in held_out.items()}
    subjects = {domain: len({*_subjects(store, chosen)}) for domain, chosen in held_out.items()}
    sheet = _sheet(groups, affines)
    return DomainEvaluation(key, _origin(model, store), extractor.name, results, counts, subjects, sheet)


@dataclass(frozen=True)
class _Comparison:
    """Held-out volumes of both domains, and how they are translated and compared."""

    model: TranslationModel
    store: Store
    extractor: Extractor
    held_out: dict[str, list[int]]
    translate: Callable[[str, Sequence[np.ndarray]], Iterator[np.ndarray]]

    @cached_property
    def volumes(self) -> dict[str, list[np.ndarray]]:
        """Volumes ``[D, H, W]`` of each domain."""
        return {domain: [self.store.volume(i)[0].numpy() for i in chosen] for domain, chosen in self.held_out.items()}

    @cached_property
    def features(self) -> dict[str, np.ndarray]:
        """Features of the volumes of each domain."""
        return {domain: self.extractor.features(each) for domain, each in self.volumes.items()}

    def direction(self, direction: str) -> tuple[DirectionEvaluation, dict[str, list[np.ndarray]]]:
        """Return the results of one direction, and the volumes to show by title."""
        domain, other = NAMES[direction]
        real, result = self.volumes[domain], DirectionEvaluation()
        made = list(self.translate(direction, real))
        moved, kept = (_on_grid_of(self.store, other, x, self.held_out[domain]) for x in (made, real))
        result.translated = self._distances(moved, self.held_out[domain], other)
        result.untranslated = self._distances(kept, self.held_out[domain], other)
        training = _training(self.store, other, len(made))
        result.floor = self._distances((self.store.volume(i)[0].numpy() for i in training), training, other)
        shown = {domain: real, f"{domain} to {other}": made}
        if {*NAMES} <= {*self.model.networks.directions}:
            back = next(name for name in NAMES if name != direction)
            shown[f"{domain} to {other} and back"] = cycled = list(self.translate(back, made))
            result.cycle = _errors(cycled, real)
        self._add_paired(result, made, domain, other)
        return result, shown

    def _distances(self, volumes: Iterable[np.ndarray], indices: Sequence[int], other: str) -> dict[str, Estimate]:
        """Compare volumes, those of ``indices`` in the store or their translations, with the other domain."""
        subjects, others = (np.array(_subjects(self.store, chosen)) for chosen in (indices, self.held_out[other]))
        return _distances(self.extractor.features(volumes), self.features[other], (subjects, others))

    def _add_paired(self, result: DirectionEvaluation, made: Sequence[np.ndarray], domain: str, other: str) -> None:
        """Add the errors against the volumes of the same subjects, if there are any."""
        pairs = _pairs(self.store, self.held_out[domain], self.held_out[other])
        if not pairs:
            return
        ones, others = ([self.held_out[name][pair[at]] for pair in pairs] for at, name in enumerate((domain, other)))
        expected = [self.volumes[other][k] for _, k in pairs]
        result.paired, result.paired_untranslated = (
            _errors(_onto(self.store, [x[k] for k, _ in pairs], ones, others), expected)
            for x in (made, self.volumes[domain])
        )
        result.pairs = len(pairs)


def _sheet(groups: dict[str, list[np.ndarray]], affines: dict[str, np.ndarray]) -> bytes:
    """Return the picture of the volumes as PNG; groups and their affines by title."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "domains.png"
        comparison_sheet(groups, affines, path)
        return path.read_bytes()


def _on_grid_of(
    store: Store, other: str, volumes: Sequence[np.ndarray], indices: Sequence[int]
) -> Sequence[np.ndarray]:
    """Resample volumes of one domain, or their translations, to the grid of the other domain by its rule."""
    if not store.has_source_grid:
        return volumes
    rule = replace(store.description().on_grid_of(other).grid_rule, trim=False)  # blank slices are cropped already
    return [to_grid(x, store.affines[i], rule)[0] for x, i in zip(volumes, indices, strict=True)]


def _onto(
    store: Store, volumes: Sequence[np.ndarray], indices: Sequence[int], others: Sequence[int]
) -> Sequence[np.ndarray]:
    """Resample volumes onto the grids, in mm, of the volumes of the same subjects in the other domain."""
    if not store.has_source_grid:
        return volumes
    return [
        resample_onto(x, store.affines[i], store.affines[j], store.size_of(j))
        for x, i, j in zip(volumes, indices, others, strict=True)
    ]


def _held_out(store: Store, domain: str) -> list[int]:
    """Return the test volumes of a domain; without enough of them, its validation volumes."""
    for split in ("test", "validation"):
        chosen = [i for i, name in enumerate(store.splits) if name == split and store.domains[i] == domain]
        if len({*_subjects(store, chosen)}) >= LEAST_SUBJECTS:
            return chosen
    raise InputError(
        f"{store.path}: has fewer than {LEAST_SUBJECTS} held-out subjects of the {domain} domain; prepare it with a "
        "larger --test"
    )


def _training(store: Store, domain: str, count: int) -> list[int]:
    """Return the indices of so many training volumes of a domain, if there are; see `one_per_subject_first`.

    Raises:
        InputError: If they are of too few subjects.
    """
    order = one_per_subject_first(Pairs(store).indices("train", domain), store.subjects, seed=0)
    people = len({*_subjects(store, order)})
    if people < LEAST_SUBJECTS:
        raise InputError(
            f"{store.path}: the training volumes of the {domain} domain are of {people} subjects; an evaluation needs "
            f"at least {LEAST_SUBJECTS}"
        )
    return order[: max(LEAST_SUBJECTS, count)]


def _translations(
    model: TranslationModel,
    direction: str,
    volumes: Sequence[np.ndarray],
    depth: int | None,
    overlap: int,
    progress: ProgressCallback,
) -> Iterator[np.ndarray]:
    """Yield the translation ``[D, H, W]`` of each volume."""
    one = directed(model, direction)
    d, h, w = volumes[0].shape  # of a volume on its way back, that of the domain where it began
    one = replace(one, description=replace(one.description, size=(d, h, w)))
    translator = make_translator(one, depth, overlap)
    for x in track(volumes, f"translate {direction}", len(volumes), progress):
        yield translator.whole(torch.from_numpy(x)[None]).mean[0, 0].clamp(-1, 1).numpy()


def _distances(features: np.ndarray, others: np.ndarray, subjects: Subjects) -> dict[str, Estimate]:
    """FID, KID and MMD of features ``[M, dim]`` and ``[N, dim]`` of volumes of some subjects."""
    return {
        "fid": Estimate(fid(features, others)),
        "kid": kid(features, others, subjects=subjects),
        "mmd": rbf_mmd(features, others, subjects=subjects),
    }


def _subjects(store: Store, indices: Sequence[int]) -> list[str]:
    return [store.subjects[i] for i in indices]


def _errors(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, Spread]:
    """Errors in the foreground of the expected volumes, over volumes."""
    rows = []
    for x, y in zip(made, expected, strict=True):
        target = torch.from_numpy(y)[None]
        rows.append(voxel_errors(torch.from_numpy(x)[None], target, target > FOREGROUND, 1.0)["mask"])
    return {key: Spread.of([row[key] for row in rows]) for key in ("psnr_db", "ssim", "mae_percent")}


def _pairs(store: Store, ones: Sequence[int], others: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of volumes of the same subject, of which each domain has one."""
    subjects = [_subjects(store, chosen) for chosen in (ones, others)]
    shared = [s for s in subjects[0] if subjects[0].count(s) == 1 and subjects[1].count(s) == 1]
    return [(subjects[0].index(s), subjects[1].index(s)) for s in shared]


def _origin(model: TranslationModel, store: Store) -> dict[str, Any]:
    return {
        "method": model.config.name,
        "run": str(model.path),
        "step": model.step,
        "store": {"path": str(store.path), "fingerprint": store.store_fingerprint},
        "versions": {"hagan3d": __version__, "python": platform.python_version()},
    }
