"""`hagan3d train` and `hagan3d plan` with translation recipes, as their user types them."""

import pytest

from hagan3d import cli, generate, plan, train
from hagan3d.checkpoint import files

SMALL = (
    "--translation.width 4 --translation.levels 1 --translation.critic_width 4 --translation.critic_layers 1 "
    "--train.batch_size 2 --train.device cpu --train.objective lsgan --log.every 1"
).split()
CASCADE = "--recipe upgan --translation.cascade.stages 2 --translation.cascade.stage_steps 1".split()


def test_trains_with_pictures_and_goes_on(small_store, tmp_path, capsys):
    words = ["--data.store", str(small_store), "--data.degrade.kind", "noise", "--out", str(tmp_path), *SMALL, *CASCADE]
    words += "--log.preview_every 1 --log.keep_last 1".split()
    assert cli.run(train.main, [*words, "--train.steps", "2"]) == 0
    assert "hagan3d translate" in capsys.readouterr().out
    assert cli.run(train.main, [*words, "--train.steps", "3"]) == 0
    assert "going on at step 2 of 3" in capsys.readouterr().err
    assert [path.stem for path in files.all_of(tmp_path)] == ["step-00000001", "step-00000002", "step-00000003"]
    assert len(list((tmp_path / "previews").glob("*.png"))) == 3
    assert cli.run(generate.main, [str(tmp_path), "--num", "1", "--out", str(tmp_path / "made")]) == 2
    assert "hagan3d translate" in capsys.readouterr().err


def test_plans_a_stage_and_the_tuning(capsys):
    one = "--recipe upgan --translation.cascade.stages 1 --translation.cascade.stage_steps 5".split()
    assert cli.run(plan.main, [*one, *SMALL, "--train.steps", "10", "--vram", "4GB"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in ("g_1", "d_1", "g", "static")) and "fits" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "upgan"], "data.degrade.kind"),
        (["--recipe", "pix2pix", "--translation.cascade.stages", "2"], "translation.cascade: recipe pix2pix has none"),
        (["--translation.width", "8"], "translation: recipe hagan does not translate"),
        (["--data.degrade.kind", "noise"], "data.degrade: recipe hagan does not translate"),
        (["--data.fraction", "0.5"], "data.fraction: recipe hagan does not translate"),
        (["--recipe", "upgan", "--model.channels", "64"], "model: the networks of recipe upgan"),
        (["--recipe", "upgan", "--train.r1_weight", "1"], "train.r1_weight: recipe upgan has none"),
        (["--recipe", "upgan", "--data.subvolume_depth", "8"], "whole volumes are translated"),
        (["--recipe", "upgan", "--translation.critic_layers", "4"], "makes 2 voxels of 32"),
        (["--recipe", "upgan", "--translation.cascade.parts", "[0.5,0.1,0.1]"], "add up to 1"),
        (["--recipe", "pix2pix", "--translation.residual", "--translation.target_channels", "2"], "residual"),
        (["--recipe", "pix2pix", "--train.lr_decay", "[5,2]"], "train.lr_decay: want two shares"),
        (["--train.lr_decay", "[5,.inf]"], "train.lr_decay: want two shares"),
        (["--train.steps", "8", "--train.lr_decay", "[2,6]"], "rates would be 0 from step 6 to 8"),
        (["--train.steps", "8", "--train.lr_decay", "[0.2,0.75]"], "rates would be 0 from step 6 to 8"),
        (["--recipe", "pix2pix", "--translation.source_channels", "2"], "holds one volume"),
        (["--recipe", "nonsense"], "recipe"),
    ],
)
def test_what_cannot_work_is_one_line(small_store, tmp_path, words, message, capsys):
    out = ["--data.store", str(small_store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*out, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "checkpoints").exists()
