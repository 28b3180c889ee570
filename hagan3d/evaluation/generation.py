"""Evaluation of a generative model: each image channel by the protocol, and the label maps."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import file_name
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.label_maps import LabelView
from hagan3d.evaluation.features.summary import ChannelView, Summary, View, VolumeSet
from hagan3d.evaluation.label_maps.compare import compare_labels
from hagan3d.evaluation.label_maps.overview import channel_summary, label_verdicts, overview_page
from hagan3d.evaluation.label_maps.results import Overview
from hagan3d.evaluation.memorisation.audit import audit, subject_groups
from hagan3d.evaluation.progress import ProgressCallback
from hagan3d.evaluation.report.folder import FEATURE_FOLDER, METRICS, is_done, write_results
from hagan3d.evaluation.report.html import report
from hagan3d.evaluation.report.protocol import (
    evaluate_channel,
    evaluation_key,
    load_extractors,
    origin_of,
    summarize_sets,
    volume_sets,
)
from hagan3d.evaluation.report.verdict import power_values, verdicts
from hagan3d.evaluation.settings import EvaluateConfig


@dataclass(frozen=True)
class ChannelEvaluation:
    """The evaluation of one image channel, in its own folder."""

    name: str
    index: int
    config: EvaluateConfig
    out: Path
    extractors: list[Extractor]
    key: str
    is_done: bool

    @property
    def view(self) -> ChannelView:
        """What is computed of each volume."""
        return ChannelView(self.out / FEATURE_FOLDER, self.extractors, self.index)


@dataclass(frozen=True)
class GenerationEvaluation:
    """An evaluation of a model against the held-out volumes of a store.

    A single image channel without label maps, or the one that the settings name, is evaluated in the output folder
    itself. Otherwise each image channel has a folder of its name, and the output folder holds an overview with the
    results on the label maps.
    """

    model: Model
    store: Store
    config: EvaluateConfig
    out: Path
    audited: bool
    """Whether to run the memorisation audit."""
    force: bool
    """Whether to replace another evaluation in the folder."""
    device: torch.device

    @property
    def has_overview(self) -> bool:
        """Whether the output folder holds an overview of several channels or of label maps."""
        return self.config.channel is None and bool(len(self.store.channels) > 1 or self.store.label_names)

    @cached_property
    def sets(self) -> dict[str, VolumeSet]:
        """The compared sets of volumes."""
        return volume_sets(self.model, self.store, self.config)

    @cached_property
    def channels(self) -> list[ChannelEvaluation]:
        """The image channels to evaluate."""
        return [self._channel(index) for index in self.store.channel_indices(self.config.channel)]

    def _channel(self, index: int) -> ChannelEvaluation:
        name = self.store.channels[index]
        config = replace(self.config, channel=name) if self.has_overview else self.config
        out = self.out / file_name(name) if self.has_overview else self.out
        sets = self.sets  # first, since it checks that model and store match
        extractors = load_extractors(self.model, self.store, config, self.device, index)
        key = evaluation_key(sets, extractors, config)
        done = is_done(out, key, self.audited, self.force)
        return ChannelEvaluation(name, index, config, out, extractors, key, done)

    def run(self, progress: ProgressCallback) -> list[str]:
        """Evaluate and write the reports; return lines that describe the results.

        Raises:
            InputError: If model and store do not match, or a folder holds another evaluation.
        """
        if self.audited:
            subject_groups(self.store, self.sets)
        remaining = [one for one in self.channels if not one.is_done]
        overview_key = _combined([one.key for one in self.channels])
        overview_done = not self.has_overview or is_done(self.out, overview_key, False, self.force)
        lines = [line for one in self.channels for line in self._feature_lines(one)]
        if not remaining and overview_done:
            return [*lines, "this evaluation is there already:"]
        views: list[View] = [one.view for one in remaining]
        views += [self._label_view] if self.has_overview and self.store.label_names else []
        summaries = summarize_sets(self.sets, views, self.config, progress)
        for one, own in zip(remaining, summaries, strict=False):
            lines += self._evaluate(one, own, progress)
        if self.has_overview:
            lines += self._write_overview(overview_key, summaries[len(remaining) :], progress)
        return [*lines, f"step {self.model.step} of {self.model.run_folder} evaluated:"]

    @property
    def _label_view(self) -> LabelView:
        return LabelView(self.out / FEATURE_FOLDER, len(self.store.channels), len(self.store.label_names))

    def _feature_lines(self, one: ChannelEvaluation) -> list[str]:
        title = f"{one.name}: " if self.has_overview else ""
        return [f"{title}features {e.name}: {e.dim} per volume, SHA-256 {e.sha256}" for e in one.extractors]

    def _evaluate(self, one: ChannelEvaluation, summaries: dict[str, Summary], progress: ProgressCallback) -> list[str]:
        """Evaluate an image channel and write its report."""
        run = evaluate_channel(
            self.model, self.store, self.sets, summaries, one.extractors, one.config, one.index, progress
        )
        if self.audited:
            audited = audit(self.model, self.store, self.sets, run.summaries, one.extractors[0], one.index, progress)
            run = replace(run, results=replace(run.results, audit=audited))
        page = report(run, self.model.description.affine_array, self.model.run_folder, one.config.shown)
        found = verdicts(run.results)
        values = {"verdicts": [asdict(verdict) for verdict in found], "power": power_values(run.results)}
        write_results(one.out, page, run.results.to_dict() | values)
        return [*([f"{one.name}:"] if self.has_overview else []), *map(str, found)]

    def _write_overview(
        self, key: str, label_summaries: list[dict[str, Summary]], progress: ProgressCallback
    ) -> list[str]:
        """Compare the label maps, write the overview, and return the verdicts on the labels."""
        labels = [
            one
            for summaries in label_summaries
            for one in compare_labels(self.model, self.store, self.sets, summaries, self.config, progress)
        ]
        overview = Overview(
            origin=replace(origin_of(self.model, self.store, self.sets, [], self.config), key=key),
            channels=tuple(channel_summary(one.name, one.out.name, _results_of(one.out)) for one in self.channels),
            labels=tuple(labels),
        )
        affine = self.model.description.affine_array
        write_results(self.out, overview_page(overview, self.sets, affine, self.config.shown), overview.to_dict())
        found = label_verdicts(overview.labels, overview.origin.subjects)
        return [*(["label maps:"] if found else []), *map(str, found)]


def _results_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    return values


def _combined(keys: list[str]) -> str:
    return hashlib.sha256(json.dumps(["overview", *keys]).encode()).hexdigest()
