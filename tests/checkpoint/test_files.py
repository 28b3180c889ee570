"""Files of tensors: a disk that is full while one is written, and settings or geometry that do not fit."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hagan3d.checkpoint.files import _check_agreement, load_translation, write_tensors
from hagan3d.checkpoint.published import _description
from hagan3d.errors import InputError
from hagan3d.networks.tensor_files import read_tensors
from tests.data.samples import KINDS
from tests.methods.small import small_config

LIMITED = """
import resource, sys, torch
from pathlib import Path
from hagan3d.checkpoint.files import write_tensors
from hagan3d.errors import InputError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond fails as on a full disk
try:
    write_tensors(Path(sys.argv[1]), {"x": torch.ones(int(sys.argv[2]))})
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("count", [24_000, 30_000, 10_000_000])
def test_a_full_disk_leaves_the_file_that_was_there(count, tmp_path):
    path = tmp_path / "x.pt"
    write_tensors(path, {"x": torch.zeros(3)})
    words = [sys.executable, "-c", LIMITED, str(path), str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    too_large = count > 24_000
    assert done.stderr == "" and done.stdout.startswith(f"{path}: larger than" if too_large else "")
    assert bool(done.stdout) == too_large
    assert len(read_tensors(path)["x"]) == (3 if too_large else count)
    assert [one.name for one in tmp_path.iterdir()] == ["x.pt"]


def refusal(folder, change):
    """Return how a checkpoint is refused whose values are changed."""
    path = KINDS["checkpoint"].make(folder)
    values = read_tensors(path)
    change(values)
    write_tensors(path, values)
    with pytest.raises(InputError) as caught:
        load_translation(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("width", "reason"),
    [(2**20, "the weights of g do not fit the networks"), (2**40, "would have more than 2^63 weights")],
)
def test_widths_that_the_weights_do_not_have_are_refused_before_memory_is_taken(width, reason, tmp_path):
    assert reason in refusal(tmp_path, lambda values: values["config"]["pix2pix"].update(width=width))


LAST = [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        ([[1.0] * 4] * 3 + [[0.0] * 3], "the affine must be 4 x 4 numbers, of which the last four are 0, 0, 0, 1"),
        ([[1.0] * 4] * 3, "the affine must be 4 x 4 numbers"),
        ([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [1.0] * 4], "the affine must be 4 x 4"),
        ([[float("nan")] * 4] * 3 + [LAST], "header has a singular affine"),
        ([[1.0] * 4] * 3 + [LAST], "header has a singular affine"),
    ],
)
def test_an_affine_that_is_no_geometry_is_refused(affine, reason, tmp_path):
    message = refusal(tmp_path, lambda values: values["description"].update(affine=affine))
    assert message.startswith(f"data description: {reason}")


def change_channels(change):
    """Return the change of a checkpoint that changes the channels of its description."""
    return lambda values: values["description"].update(channels=change(values["description"]["channels"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_channels(lambda channels: [*channels, *channels]), "two channels have the same name"),
        (
            change_channels(lambda channels: [channels[0] | {"lo": 3.0, "hi": 3.0}]),
            "must be two finite numbers, the lower",
        ),
    ],
)
def test_channels_of_one_name_or_without_a_range_are_refused(change, reason, tmp_path):
    assert reason in refusal(tmp_path, change)


@pytest.mark.parametrize("changed", [{"size": (64, 64, 64)}, {"label_names": ("background", "tumour")}])
def test_a_description_of_other_volumes_than_are_generated_is_refused(changed):
    config = small_config("hagan")
    description = _description(config.data.size, 0, (-1024.0, 600.0), (1.0, 1.0, 1.0), "HU")
    _check_agreement(config, description)
    with pytest.raises(InputError, match="in its data description differ from its config"):
        _check_agreement(config, replace(description, **changed))
