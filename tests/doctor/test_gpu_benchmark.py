"""`make gpu`: each part is a process with a limit, and one that fails does not stop the others."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    sys.path.insert(0, str(PATH.parent))  # where a script finds the others
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(PATH.parent))
    return module


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(gpu, monkeypatch, tmp_path, capsys):
    python = (sys.executable, "-c")
    given = [
        gpu.Part("good", (*python, "print('right')"), 60),
        gpu.Part("bad", (*python, "raise SystemExit(3)"), 60),
        gpu.Part("slow", (*python, "import time; time.sleep(60)"), 1),
        gpu.Part("last", (*python, "print('reached')"), 60),
    ]
    monkeypatch.setattr(gpu, "parts", lambda *_: iter(given))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path)])
    assert gpu.main() == 1
    rows = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert [row["status"] for row in rows] == ["ok", "failed (3)", "out of time", "ok"]
    assert (tmp_path / "last.log").read_text() == "reached\n"
    assert "torch:" in (tmp_path / "summary.txt").read_text()


def test_runs_of_all_sizes_train_under_a_limit_of_memory(gpu, tmp_path):
    parts = list(gpu.parts("cuda", False, tmp_path, tmp_path))
    names = [part.name for part in parts]
    assert names[:5] == ["doctor", "tests", "kernels", "memory", "speed"]
    assert {"train_128", "train_256", "train_512", "generate_512"} <= set(names)
    assert all("16GB" in part.words for part in parts if part.name.startswith("train"))


@pytest.mark.slow
def test_training_and_sampling_run_here(gpu, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a relative --out is of the folder of the command
    (tmp_path / "results").mkdir()
    earlier = {"part": "doctor", "status": "ok", "seconds": 1.0, "command": "", "commit": "0"}
    (tmp_path / "results" / "summary.json").write_text(json.dumps({"parts": [earlier]}))
    words = ["gpu.py", "--device", "cpu", "--tiny", "--out", "results", "--only", "generate_32"]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu.main() == 0
    rows = json.loads((tmp_path / "results" / "summary.json").read_text())["parts"]
    assert [row["part"] for row in rows] == ["doctor", "phantoms_32", "prepare_32", "train_32", "generate_32"]


def test_unknown_parts_are_refused(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path / "x"), "--only", "kernel"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "--only kernel: the parts are doctor, tests, kernels" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
