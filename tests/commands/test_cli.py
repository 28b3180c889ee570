"""What every command shares: how options are written, and how errors are told."""

import errno
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
import torch

import hagan3d
from hagan3d import __main__ as package
from hagan3d import cli, ops, phantoms, prepare, train
from hagan3d.config.methods import config_class, method_names
from hagan3d.config.serialization import differences, from_dict, to_dict
from hagan3d.config_file import check_config_file
from hagan3d.errors import InputError
from hagan3d.run_settings import config_path, parse_run
from tests.helpers import make_config
from tests.methods.small import small_config


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["--size", "64", "64", "64", "--x", "1"], ["--size", "[64,64,64]", "--x", "1"]),
        (["run", "--window", "-1024", "600"], ["run", "--window", "[-1024,600]"]),
        (["--lr", "1e-4"], ["--lr", "1e-4"]),
        (["--size=[1,2]", "7"], ["--size=[1,2]", "7"]),
        (["--input", "001", "002", "--size", "1", "2"], ["--input", "001", "002", "--size", "[1,2]"]),
        ([], []),
    ],
)
def test_several_numbers_after_an_option_are_a_list(written, read):
    assert cli.join_numbers(written, {"--input"}) == read


def test_folders_may_be_named_by_numbers(capsys):
    assert cli.run(prepare.main, ["--input", "001", "002", "--output", "x.h5", "--dry-run"]) == 2
    assert "error: 001: does not exist" in capsys.readouterr().err
    parser = cli.parser("test", "Test.")
    parser.add_argument("--domains", nargs=2)
    parser.add_argument("--on", type=bool, default=False)
    options = parser.parse_args(["--domains", "1", "2", "--on", "True"])
    assert options.domains == ["1", "2"] and options.on is True


def parsed(*words):
    method = [] if "--method" in words or "--config" in words else ["--method", "hagan"]
    return parse_run("train", "Train.", (), [*method, *words], lambda parser: None)[0]


def test_options_are_taken_as_people_write_them():
    config = parsed(
        "--data.size", "64", "32", "96", "--train.batch-size", "2", "--train.checkpointing", "--train.seed=1"
    )
    assert config.data.size == (64, 32, 96)
    assert config.train.batch_size == 2
    assert config.train.checkpointing


@pytest.mark.parametrize(
    ("command", "words", "names"),
    [
        ("evaluate", ["run"], "--store STORE is missing"),
        ("generate", [], "RUN and --out OUT are missing"),
        ("prepare", ["--input", "scans"], "--output OUTPUT is missing"),
    ],
)
def test_a_missing_argument_is_named_as_it_is_written(command, words, names, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hagan3d", command, *words])
    assert package.main() == 2
    assert capsys.readouterr().err == f"error: {names}; `hagan3d {command} --help` tells what belongs there\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.sise", "3"], "data.sise.*did you mean --data.size"),
        (["--steps", "3"], "did you mean --train.steps"),
        (["s.h5"], r"unrecognized arguments: s.h5; a value stands after its option \(--OPTION s.h5\)"),
        (["--data.subvolume_sampling", "foo"], "data.subvolume_sampling foo: must be one of even, uniform"),
        (["--hagan.fc_rank", "x"], "hagan.fc_rank x: must be a whole number"),
        (["--data.size", "33", "33", "33"], "multiple of 32"),
        (["--data.size", "64", "64", "64", "--data.subvolume_depth", "6"], "multiple of 4"),
        (["--hagan.objective", "foo"], "hagan.objective.*bce"),
        (["--train.batch_size", "x"], "train.batch_size.*int"),
        (["--train.batch_size", "4", "--train.accumulate", "3"], "must divide batch_size 4"),
        (["--train.lr_g", "-1"], "train.lr_g"),
        (["--hagan.channels", "100"], "multiple of 64"),
        (["--train.ema", "1"], "train.ema"),
    ],
)
def test_a_setting_that_cannot_work_is_named_in_one_line(words, message, capsys):
    import re

    assert cli.run(lambda argv: parsed(*argv), words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])


def test_an_option_of_the_command_goes_before_those_of_sections(capsys):
    assert cli.run(train.main, ["--config", "hagan_32", "--output", "x"]) == 2
    assert "unrecognized arguments: --output x; did you mean --out?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such config"),
        (b"data: [1,2", "line 1: not valid YAML"),
        (b"\x80\xff\x00", "it is not text"),
        (b"", "holds no settings"),
        (b"- a", "holds no settings"),
        (b"data: !!python/object/apply:os.abort []", "could not determine a constructor"),
        (b"method: hagan\ndata:\n  sise: 3", "'sise'; did you mean data.size"),
        (b"train:\n  steps: 5\nmethod: hagan\n'train':\n  batch_size: 2", ", lines 1 and 4: train is set twice"),
        (b"method: hagan\ntrain: {lr_g: 1.0e-3,\n  steps: 5, lr_g: 2}", ", lines 2 and 3: lr_g is set twice"),
        (b"method: hagan\ntrain:\n  steps: many", "train.steps many: must be a whole number"),
    ],
)
def test_a_config_that_cannot_be_read_is_named_in_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_bytes(text)
    assert cli.run(train.main, ["--config", str(path), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {path}") and message in line
    assert not (tmp_path / "run").exists()


def test_a_mapping_of_yaml_may_override_what_it_merges_and_name_itself(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: &c [*a, {d: *c}]\n")
    check_config_file(tmp_path / "mine.yaml")


def test_a_config_is_not_blamed_for_what_is_written_beside_it(tmp_path, capsys):
    words = ["--config", str(config_path("hagan_32")), "--train.steps", "x", "--out", str(tmp_path / "run")]
    assert cli.run(train.main, words) == 2
    assert capsys.readouterr().err == "error: train.steps x: must be a whole number (int)\n"


def raising(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("scan.nii: no volume"), "error: scan.nii: no volume"),
        (MemoryError(), "error: out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "error: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "error: the disk is full: x.h5"),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.h5"),
            "error: Permission denied: x.h5: give access to it",
        ),
        (OSError(errno.EMFILE, "Too many open files", "x.h5"), "error: Too many open files: x.h5: raise the limit on"),
        (OSError(errno.EIO, "Input/output error"), "error: Input/output error: the disk or the way to it failed"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "error: No such file or directory: x\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_status_2(error, message, capsys):
    assert cli.run(raising(error), []) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        cli.run(raising(ValueError("a bug")), [])


def test_debug_shows_where_an_error_came_from(capsys):
    assert cli.run(raising(InputError("bad")), ["--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", package.COMMANDS)
def test_every_command_explains_itself(command):
    result = subprocess.run([sys.executable, "-m", f"hagan3d.{command}", "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"usage: hagan3d {command}" in result.stdout
    assert "examples:" in result.stdout


HELP = """
import runpy, sys, time
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as done:
    assert not done.code
print(time.process_time(), *(name for name in ("torch", "monai", "sklearn", "scipy") if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", package.COMMANDS)
def test_help_takes_less_than_a_second_and_does_not_import_torch(command):
    script = HELP.format(module=f"hagan3d.{command}")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *imported = result.stdout.splitlines()[-1].split()
    assert not imported
    assert float(seconds) < 1


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_help_of_a_method_lists_its_settings_and_bounds(method):
    words = [sys.executable, "-m", "hagan3d.train", "--method", method, "--help"]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    kind = config_class(method)
    for name, section in {method: kind, "data": kind.data_config}.items():
        types = get_type_hints(section)
        settings = [f.name for f in fields(section) if not is_dataclass(types[f.name])]
        assert all(f"--{name}.{setting}" in result.stdout for setting in settings)
    assert not any(f"--{other}." in result.stdout for other in set(method_names()) - {method})


def test_the_list_of_commands_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hagan3d"])
    assert package.main() == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("prepare", "train", "generate", "encode"))
    monkeypatch.setattr(sys, "argv", ["hagan3d", "trian"])
    assert package.main() == 2


def test_configs_survive_the_way_to_a_file_and_back():
    config = make_config("hagan", size=(64, 32, 32), lr_g=0.5)
    assert from_dict(to_dict(config)) == config
    assert differences(config, make_config("hagan")) == {
        "data.size": ([64, 32, 32], [32, 32, 32]),
        "train.lr_g": (0.5, 0.0001),
    }
    with pytest.raises(InputError, match="unknown setting 'sise' in SubvolumeDataConfig"):
        from_dict({"method": "hagan", "data": {"sise": 3}})


@pytest.mark.parametrize("method", method_names())
def test_settings_of_every_method_survive_the_round_trip(method):
    config = small_config(method)
    assert from_dict(to_dict(config)) == config


def test_one_volume_is_one():
    assert [cli.volumes(count) for count in (0, 1, 2)] == ["0 volumes", "1 volume", "2 volumes"]


def test_the_version_names_torch_cuda_and_operators(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["hagan3d", "--version"])
    assert package.main() == 0
    version, torch_line, operators = capsys.readouterr().out.splitlines()
    assert version == f"hagan3d {hagan3d.__version__}"
    assert torch_line.startswith(f"torch {torch.__version__} (") and ("no GPU" in torch_line or " x " in torch_line)
    assert operators == f"operators: {ops.backend()}"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_a_reader_that_stops_reading_is_no_error(words):
    made = subprocess.Popen([sys.executable, "-m", "hagan3d", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    made.stdout.close()
    _, error = made.communicate()
    assert error.decode() == "" and made.returncode == 0


def test_lines_to_run_next_quote_their_paths(tmp_path, capsys):
    out = tmp_path / "two words"
    assert cli.run(phantoms.main, ["--out", str(out), "--num", "1", "--size", "8", "8", "8", "--workers", "1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words[:4] == ["hagan3d", "prepare", "--input", str(out / "volumes")]
