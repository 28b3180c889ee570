"""The log of a run: means over intervals, each step in one of them."""

import json

import pytest

from hagan3d.engine.logs import RunLog, RunningMeans


def rows_of(folder, first, last, every, means):
    """Log steps whose first term is their number, with a second one every third step; return the rows and the rest."""
    log = RunLog(folder, first, 7, every, means)
    for step in range(first + 1, last + 1):
        log.write(step, {"g/a": float(step), **({"g/b": 10.0 * step} if step % 3 == 0 else {})})
    log.close()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


EXPECTED = [
    {"step": 3, "g/a": 2.0, "g/b": 30.0},
    {"step": 6, "g/a": 5.0, "g/b": 60.0},
    {"step": 7, "g/a": 7.0},  # the last, though no interval ends there
]


def test_rows_are_means_of_the_steps_since_the_one_before(tmp_path):
    assert rows_of(tmp_path, 0, 7, 3, RunningMeans()) == EXPECTED


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_a_resumed_log_goes_on_and_repeats_nothing(tmp_path, stop):
    means = RunningMeans()
    rows_of(tmp_path, 0, stop, 3, means)
    kept = RunningMeans(means.sums)  # as a checkpoint keeps them
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "g/a": 0.0}\n')  # written after the checkpoint
    assert rows_of(tmp_path, stop, 7, 3, kept) == EXPECTED
