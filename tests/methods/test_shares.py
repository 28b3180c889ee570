"""Every loss term of a shipped config has 1 % of the gradient at the start, or its config says why not."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.store.store import Store
from hagan3d.engine.loss_shares import loss_shares
from hagan3d.engine.updates import Updates
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.run_settings import load_config
from tests.helpers import CPU
from tests.methods.small import degradation

CONFIGS = sorted(
    path for path in (Path(__file__).parents[2] / "configs").glob("*_32*.yaml") if path.stem != "hagan_32_labels"
)
SMALL = "# Below 1 % at the start: "


def shares_of(path, store):
    """Return the share of each term of the phases with several terms, in their first step."""
    config = load_config(path)
    if config.translates and not config.data.degrade.active:
        config = load_config(path, data={"degrade": {"kind": degradation(config.name)}})
    torch.manual_seed(0)
    networks, method = make_networks(config), make_method(config)
    updates = Updates(config.train, method.training_phases(), networks, CPU)
    if config.name == "segan":  # random maps of three labels
        batch = method.zero_batch()
        labels = torch.randint(0, 3, batch.target.shape, generator=torch.Generator().manual_seed(0)) - 1.0
        source = 0.5 * labels + 0.1 * torch.randn(labels.shape, generator=torch.Generator().manual_seed(1))
        batch = replace(batch, source=source, target=labels)
    else:
        source = method.batches(Store(store), config.train.batch_size)
        batch = with_labels(source.batch(0), config.method.target_labels) if config.translates else source.batch(0)
    assert isinstance(batch, PairBatch) == config.translates
    found = {}
    for phase in (phase for phase in updates.phases if phase.weights or phase.shares):
        updates.prepare(phase.first)
        part = replace(batch, phase=phase.name, step=phase.first, state=method.initial_state())
        norms = updates.gradient_norms(phase, part)
        for row in loss_shares(phase, phase.weights_at(phase.first, {}), norms):
            found[f"{row.phase}/{row.term}"] = row.share
    return found


def with_labels(batch, count):
    """Return a batch whose targets have a label map too: their intensities in as many bins."""
    if not count:
        return batch
    bins = ((batch.target[:, :1] + 1) / 2 * count).long().clamp(0, count - 1)
    channels = 2.0 * (bins == torch.arange(count)[:, None, None, None]) - 1
    return replace(batch, target=torch.cat([batch.target, channels], dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_term_does_nothing_without_a_reason(path, phantom_store):
    lines = path.read_text(encoding="utf-8").splitlines()
    excused = {line.removeprefix(SMALL).split(":")[0] for line in lines if line.startswith(SMALL)}
    low = {name for name, share in shares_of(path, phantom_store).items() if share < 0.01}
    assert {
        name.split("/")[1].rstrip("_123").removesuffix("_source").removesuffix("_target") for name in low
    } <= excused
    assert not low or excused, low


@pytest.mark.slow
def test_label_maps_have_their_part_of_the_gradient(phantom_store):
    path = Path(__file__).parents[2] / "configs" / "pix2pix_32_labels.yaml"
    assert 0.05 < shares_of(path, phantom_store)["g/labels"] < 0.5
