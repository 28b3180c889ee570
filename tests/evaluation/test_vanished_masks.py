"""Pairs whose mask has no voxel on the grid of the store: measured as whole volumes, and never called the worst."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d import cli
from hagan3d import evaluate as door
from hagan3d.checkpoint.files import Checkpoint, load_translation, path_of, save
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.evaluation.translation.pairs import evaluate_pairs
from hagan3d.inference.translate_files import make_translator
from hagan3d.methods.registry import make_networks
from tests.helpers import make_config

SIDE, NUMBER = 64, 12


def made_store(folder: Path, vanished: set[int]) -> Store:
    """Twelve pairs of volumes twice as fine as the store; the masks of some are single voxels."""
    for number in range(NUMBER):
        for name in ("source", "target"):
            seed = 100 * number + len(name) + ord(name[0])
            array = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE,) * 3), 3) * 4000
            nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), folder / f"{name}{number}.nii")
        mask = np.zeros((SIDE,) * 3, np.uint8)
        mask[(slice(20, 21 if number in vanished else 44),) * 3] = 1
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / f"mask{number}.nii")
    rows = [f"p{n},source{n}.nii,target{n}.nii,mask{n}.nii" for n in range(NUMBER)]
    (folder / "pairs.csv").write_text("\n".join(["id,source,target,mask", *rows]))
    config = PrepareConfig(size=(32, 32, 32), validation=0.6, workers=1)
    return Store(prepare(find_pairs([folder / "pairs.csv"]), folder / "s.h5", config, progress=False).path)


def untrained(folder: Path, store: Store) -> Path:
    """A run of an untrained cascade, which predicts its uncertainty."""
    config = make_config("upgan", width=4, levels=1, critic_width=4, residual=True, stages=1, ema=0.0)
    networks = make_networks(config)
    states = {name: networks[name].state_dict() for name in networks.names()}
    save(Checkpoint(config, store.description(), 1, states), path_of(folder / "run", 1))
    return folder / "run"


def test_a_volume_without_voxels_in_its_mask_is_shown_last(tmp_path: Path):
    store = made_store(tmp_path, set(range(0, NUMBER, 2)))
    model = load_translation(untrained(tmp_path, store), "ema", "cpu")
    found = evaluate_pairs([model], store, make_translator(model, None, 0), shown=NUMBER)
    rows = found.results.rows
    lost = [row.id for row in rows if np.isnan(row.psnr_db)]
    assert lost and set(lost) == {row.id for row in rows if int(row.id[1:]) % 2 == 0}
    assert len(rows) > len(lost) >= 1
    measured = sorted((row.psnr_db, row.id) for row in rows if row.id not in lost)
    shown = [case.id for case in found.worst]
    assert shown[: len(measured)] == [id for _, id in measured][: len(shown)]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_report_without_any_voxel_in_masks_is_written(tmp_path: Path):
    store = made_store(tmp_path, set(range(NUMBER)))
    run, out = untrained(tmp_path, store), tmp_path / "evaluation"
    assert cli.run(door.main, [str(run), "--store", str(store.path), "--out", str(out), "--device", "cpu"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    errors = metrics["summary"]["translated"]
    assert errors["whole"]["mae"]["mean"] > 0 and not errors["mask"]["mae"]["mean"]
    assert "calibration" not in metrics or not metrics["calibration"]
    assert "Worst cases" in (out / "report.html").read_text(encoding="utf-8")
