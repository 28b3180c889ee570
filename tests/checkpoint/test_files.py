"""Files of tensors: a disk that is full while one is written."""

import subprocess
import sys

import pytest
import torch

from hagan3d.checkpoint.files import write_tensors
from hagan3d.networks.tensor_files import read_tensors

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
