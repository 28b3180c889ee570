"""The diagnosis of an installation: a right one passes, and faults that are put in are found."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from hagan3d import cli, doctor, ops
from hagan3d.diagnosis import environment, operators, run_diagnosis, speed, steps
from hagan3d.diagnosis.report import Finding, check_report, page, run_check
from hagan3d.diagnosis.steps import margins_of
from hagan3d.engine import margins
from hagan3d.engine.kernel_choice import Choice
from hagan3d.engine.margins import Margins, current_margins, save_margins
from hagan3d.engine.memory_plan import with_margin
from hagan3d.errors import InputError
from hagan3d.ops import conv, extension
from hagan3d.ops.forms import Table
from tests.helpers import CPU


def failed(findings):
    return [finding.check for finding in findings if finding.status == "FAILED"]


@pytest.mark.slow
def test_this_installation_is_right(tmp_path, capsys):
    path = tmp_path / "doctor.json"
    assert cli.run(doctor.main, ["--device", "cpu", "--out", str(path)]) == 0
    found = json.loads(path.read_text())
    assert {"versions", "operators", "rms_norm relu", "step of hagan_32", "gradient penalty"} <= {
        f["check"] for f in found
    }
    assert f"all {len(found)} checks passed" in capsys.readouterr().out


def test_a_failure_is_status_1_and_said(monkeypatch, tmp_path, capsys):
    found = [Finding("a", "ok", "right"), Finding("b", "FAILED", "wrong")]
    monkeypatch.setattr(run_diagnosis, "diagnose", lambda *_: iter(found))
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--device", "cpu", "--out", str(tmp_path / "doctor.json")])
    assert ended.value.code == 1
    assert page(found).endswith("1 of 2 checks failed") and page(found) in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["value", "gradient"])
def test_a_wrong_kernel_is_found(monkeypatch, fault):
    right = ops.rms_norm

    def wrong(x, weight, bias, *rest, **keywords):
        y = right(x, weight, bias, *rest, **keywords)
        if fault == "gradient":
            return y + 0.1 * (bias[0] - bias[0].detach())
        return torch.cat([y[..., :-1], y[..., -1:] + 0.1], 4)  # the last voxel of each row, as of a wrong loop bound

    monkeypatch.setattr(ops, "rms_norm", wrong)
    assert failed(operators.operators(CPU)) == ["rms_norm none", "rms_norm relu"]


def test_a_kernel_that_does_not_repeat_is_found(monkeypatch):
    right = ops.ggd_sigma
    monkeypatch.setattr(ops, "ggd_sigma", lambda *x: right(*x) + 1e-3 * torch.rand(()))
    (finding,) = operators.determinism(CPU)
    assert finding.status == "FAILED" and "ggd_sigma" in finding.detail


def test_a_library_that_cannot_be_loaded_is_found(monkeypatch):
    monkeypatch.setattr(extension, "_NO_CPU", "cannot be loaded: undefined symbol")
    assert failed(environment.environment(CPU)) == ["operators"]


@pytest.mark.slow
def test_a_wrong_gradient_in_a_branch_of_the_gpu_is_found(monkeypatch):
    right = conv._contraction

    def wrong(*options):
        maps = right(*options)
        return maps._replace(both=lambda x, weight, y: [1.05 * g for g in maps.both(x, weight, y)])

    monkeypatch.setattr(conv, "_contraction", wrong)
    assert failed(steps.step_against_cpu("pix2pix_32", CPU)) == ["step of pix2pix_32"]


@pytest.mark.parametrize("what", ["term", "network"])
def test_nan_is_the_largest_difference(what, monkeypatch):
    nan = float("nan")
    right = {"d/gan": 1.0, "g/gan": 2.0}, {"d, d": torch.ones(2), "g, g": torch.ones(2)}
    wrong = {
        "term": ({**right[0], "g/gan": nan}, right[1]),
        "network": (right[0], {**right[1], "g, g": nan * torch.ones(2)}),
    }
    results = iter([right, wrong[what]])
    monkeypatch.setattr(steps, "gradients", lambda *_: next(results))
    (finding,) = steps.step_against_cpu("pix2pix_32", CPU)
    assert finding.status == "FAILED" and "nan (g" in finding.detail


def test_a_machine_without_a_compiler_is_no_failure(monkeypatch):
    monkeypatch.setattr(extension, "_NO_CPU", "not built")
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = {finding.check: finding for finding in environment.environment(CPU)}
    assert found["operators"].status == "note" and "no C++ compiler" in found["operators"].detail
    monkeypatch.setenv("CXX", sys.executable)
    assert failed(environment.environment(CPU)) == ["operators"]


@pytest.mark.parametrize("text", ["{}", "[]", '""', "[1]", '[{"name": 1}]'])
def test_other_files_are_no_reports(text, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(InputError, match="is no report of doctor"):
        check_report(tmp_path / "mine.json")


def test_a_check_that_raises_is_a_failure_with_its_place():
    def check():
        yield Finding("first", "ok", "")
        raise RuntimeError("CUDA error: no kernel image\nmore")

    first, second = run_check("second", check)
    assert first.status == "ok"
    assert second.status == "FAILED" and second.detail.startswith(
        "RuntimeError: CUDA error: no kernel image (test_doctor"
    )


@pytest.mark.parametrize(
    ("version", "status"),
    [(90701, "ok"), (90800, "FAILED"), (91400, "FAILED"), (91500, "ok"), (92600, "ok"), (0, "FAILED")],
)
def test_versions_of_cudnn_without_kernels_for_volumes_are_named(version, status):
    assert environment._cudnn(version).status == status


@pytest.mark.parametrize(
    ("capability", "status"), [((7, 0), "FAILED"), ((7, 5), "ok"), ((8, 9), "ok"), ((12, 0), "ok"), ((6, 1), "FAILED")]
)
def test_a_gpu_that_torch_has_no_kernels_for_is_named(monkeypatch, capability, status):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 16 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"])
    assert environment._card(torch.device("cuda", 0)).status == status


def test_the_choice_of_kernels_is_said(monkeypatch):
    (note,) = speed.choice(CPU)
    assert (note.status, "fixed rules" in note.detail) == ("note", True)
    choice = Choice(Table("channels_last", True), {"a": {}, "b": {}}, 0.01, 0.02, 1)
    monkeypatch.setattr(speed, "choose_forms", lambda plan, device: choice)
    monkeypatch.setattr(speed, "describe", lambda device: "a GPU")
    (finding,) = speed.choice(SimpleNamespace(type="cuda"))
    assert finding.detail == f"hagan_64 on a GPU: {choice}" and "1 of 2 calls by another form" in finding.detail
    assert "2.00 times the speed" in finding.detail and finding.values["seconds"] == 0.01


def test_a_slow_kernel_is_found_on_a_gpu(monkeypatch):
    times = iter([1.0, 100.0, 1.0, 1.0])  # of a copy, then of the operators
    monkeypatch.setattr(speed, "seconds", lambda call, device, rounds: next(times))
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch, "randn", lambda *shape, device: torch.zeros(1, 32, 2, 2, 2))
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    assert failed(speed.kernels(gpu)) == ["speed of rms_norm"]


def test_measured_margins_are_those_of_the_plan_on_that_gpu_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = save_margins("one", Margins(10**9, 2 * 10**9, 0.5))
    save_margins("two", Margins(1, 2, 0.25))
    assert current_margins() == Margins()  # there is no GPU
    monkeypatch.setattr(margins.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(margins.torch.cuda, "get_device_name", lambda: "one")
    found = current_margins()
    assert (found.context, found.workspace, found.fragmentation) == (10**9, 2 * 10**9, 0.5)
    assert "measured" in str(found) and with_margin(10) == 15 + 3 * 10**9
    path.write_text("{damaged")
    assert current_margins() == Margins()


def test_a_file_of_others_is_not_replaced_by_the_findings(tmp_path, capsys):
    path = tmp_path / "notes.json"
    for text in ("mine", '{"a": 1}', "[1, 2]"):
        path.write_text(text)
        assert cli.run(doctor.main, ["--device", "cpu", "--out", str(path)]) == 2
        assert "notes.json: exists and is no report of doctor" in capsys.readouterr().err
        assert path.read_text() == text


def test_segments_of_small_runs_are_no_share_of_large_ones():
    small = (100 * 2**20, 110 * 2**20, 160 * 2**20, 700 * 2**20)  # counted, of tensors, of the allocator, lost
    large = (4 * 2**30, 5 * 2**30, 6 * 2**30, 6 * 2**30 + 300 * 2**20)
    found = margins_of([small])
    assert (found.context, found.workspace, found.fragmentation) == (540 * 2**20, 60 * 2**20, Margins().fragmentation)
    found = margins_of([small, large])
    assert (found.context, found.workspace, found.fragmentation) == (540 * 2**20, 2**30, 0.2)


@pytest.mark.parametrize(("lost", "kept"), [(2 * 2**30, True), (3 * 2**30, False)])
def test_the_memory_of_other_processes_is_no_margin(lost, kept, monkeypatch):
    saved = []
    monkeypatch.setattr(steps, "_measured", lambda config, device: (10**8, 10**8, 10**8 + lost))
    monkeypatch.setattr(steps, "save_margins", lambda name, found: saved.append(found) or "margins.json")
    monkeypatch.setattr(steps, "count_step", lambda method, kind: {"g": 10**8})
    for name, value in (("mem_get_info", (0, 10**12)), ("get_device_name", "one")):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    findings = list(steps.memory(SimpleNamespace(type="cuda")))
    assert len(saved) == kept and ("other processes use 3.2 GB" in findings[-1].detail) != kept
