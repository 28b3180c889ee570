"""The layout of an nnU-Net data set (version 2): dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hagan3d.data.io.files import write_text

ENDING = ".nii.gz"
DATASET = "dataset.json"


def image_path(folder: Path, case: str, channel: int) -> Path:
    """Return the file of a channel of a training case."""
    return folder / "imagesTr" / f"{case}_{channel:04d}{ENDING}"


def label_path(folder: Path, case: str) -> Path:
    """Return the file of the label map of a training case."""
    return folder / "labelsTr" / f"{case}{ENDING}"


def write_dataset_json(
    folder: Path, channels: Sequence[str], label_names: Sequence[str], cases: int, **others: Any
) -> None:
    """Write dataset.json, which makes a folder of images and label maps a data set.

    Args:
        folder: The data set.
        channels: Names of the channels, in the order of their numbers.
        label_names: Names of the labels in the order of their values, the background first.
        cases: Number of training cases.
        others: Further entries, which nnU-Net ignores.
    """
    about = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        # nnU-Net looks for this name
        "labels": {"background" if not value else name: value for value, name in enumerate(label_names)},
        "numTraining": cases,
        "file_ending": ENDING,
        **others,
    }
    write_text(folder / DATASET, json.dumps(about, indent=1) + "\n")
