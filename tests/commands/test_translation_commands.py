"""`hagan3d train` and `hagan3d plan` with translation methods, as their user types them."""

import pytest

from hagan3d import cli, generate, plan, train
from hagan3d.checkpoint import files

SMALL = (
    "--method upgan --upgan.width 4 --upgan.levels 1 --upgan.critic_width 4 --upgan.critic_layers 1 "
    "--upgan.objective lsgan --train.batch_size 2 --train.device cpu --log.every 1"
).split()
CASCADE = "--upgan.stages 2 --upgan.stage_steps 1".split()


@pytest.mark.slow
def test_trains_with_pictures_and_goes_on(small_store, tmp_path, capsys):
    words = ["--data.store", str(small_store), "--data.degrade.kind", "noise", "--out", str(tmp_path), *SMALL, *CASCADE]
    words += "--log.preview_every 1 --log.keep_last 1".split()
    assert cli.run(train.main, [*words, "--train.steps", "2"]) == 0
    assert "hagan3d translate" in capsys.readouterr().out
    assert cli.run(train.main, [*words, "--train.steps", "3"]) == 0
    assert "resuming at step 2 of 3" in capsys.readouterr().err
    assert [path.stem for path in files.all_of(tmp_path)] == ["step-00000001", "step-00000002", "step-00000003"]
    assert len(list((tmp_path / "previews").glob("*.png"))) == 3
    assert cli.run(generate.main, [str(tmp_path), "--num", "1", "--out", str(tmp_path / "made")]) == 2
    assert "hagan3d translate" in capsys.readouterr().err


@pytest.mark.slow
def test_plans_a_stage_and_the_tuning(capsys):
    one = "--upgan.stages 1 --upgan.stage_steps 5".split()
    assert cli.run(plan.main, [*one, *SMALL, "--train.steps", "10", "--vram", "4GB"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in ("g_1", "d_1", "g", "static")) and "fits" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method upgan", "data.degrade.kind"),
        ("--method pix2pix --upgan.stages 2", "upgan.stages: is a setting of method upgan"),
        ("--method hagan --upgan.width 8", "upgan.width: is a setting of method upgan"),
        ("--method hagan --data.degrade.kind noise", "data.degrade.kind: method hagan does not read it"),
        ("--method hagan --data.fraction 0.5", "data.fraction: method hagan does not read it"),
        ("--method upgan --hagan.channels 64", "hagan.channels: is a setting of method hagan"),
        ("--method upgan --upgan.r1_weight 1", "upgan.r1_weight"),
        ("--method upgan --data.subvolume_depth 8", "whole volumes are translated"),
        ("--method upgan --upgan.critic_layers 4", "leaves 2 voxels of 32"),
        ("--method upgan --upgan.parts [0.5,0.1,0.1]", "add up to 1"),
        ("--method pix2pix --pix2pix.residual --pix2pix.target_channels 2", "residual"),
        ("--method pix2pix --train.lr_decay [5,2]", "train.lr_decay: must be two fractions"),
        ("--method hagan --train.lr_decay [5,.inf]", "train.lr_decay: must be two fractions"),
        ("--method hagan --train.steps 8 --train.lr_decay [2,6]", "rates would be 0 from step 6 to 8"),
        ("--method hagan --train.steps 8 --train.lr_decay [0.2,0.75]", "rates would be 0 from step 6 to 8"),
        ("--method pix2pix --pix2pix.source_channels 2 --data.degrade.kind noise", "holds one channel"),
        ("--method nonsense", "method 'nonsense': unknown"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(small_store, tmp_path, words, message, capsys):
    out = ["--data.store", str(small_store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*out, *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "checkpoints").exists()
