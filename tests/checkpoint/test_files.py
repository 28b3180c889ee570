"""Files of tensors: a disk that is full while one is written, and settings or geometry that do not fit."""

import subprocess
import sys

import pytest
import torch

from hagan3d.checkpoint.files import load_translation, write_tensors
from hagan3d.errors import InputError
from hagan3d.networks.tensor_files import read_tensors
from tests.data.samples import KINDS

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


@pytest.mark.parametrize("affine", [[[1.0] * 4] * 3 + [[0.0] * 3], [[1.0] * 4] * 3, [[float("nan")] * 4] * 4])
def test_an_affine_that_is_no_matrix_of_finite_numbers_is_refused(affine, tmp_path):
    message = refusal(tmp_path, lambda values: values["description"].update(affine=affine))
    assert message == "data description: the affine must be 4 x 4 finite numbers"
