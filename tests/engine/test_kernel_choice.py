"""Forms of operators are chosen by time within the planned memory, kept in a file, and give the same step."""

import dataclasses
import json
import random
from types import SimpleNamespace

import pytest
import torch

from hagan3d import cli
from hagan3d import train as train_command
from hagan3d.checkpoint import files
from hagan3d.engine import kernel_calls, kernel_choice, kernel_file
from hagan3d.engine.distributed import SINGLE
from hagan3d.engine.kernel_calls import available_forms, call_seconds, counted_peak
from hagan3d.engine.kernel_choice import Choice, choose_forms, peak_with, recorded_calls
from hagan3d.engine.kernel_file import NAME, kernel_table, read_kernels
from hagan3d.engine.margins import Margins
from hagan3d.engine.memory_plan import Plan
from hagan3d.engine.training import train
from hagan3d.errors import InputError
from hagan3d.ops import forms
from hagan3d.ops.device import planned_for
from hagan3d.ops.forms import Call, Table
from tests.helpers import CPU, assert_equal, make_config
from tests.methods.small import float64, small_batch
from tests.methods.test_methods import gradients

UP = Call("upsample_conv3d", (2, 16, 8, 8, 8), (8, 16, 3, 3, 3), torch.float32, (0,), "xw")
FIRST = Call("conv3d", (2, 1, 8, 32, 32), (8, 1, 4, 4, 4), torch.bfloat16, ((2, 2, 2), (1, 1, 1)), "w")
NORM = Call("rms_norm", (2, 8, 4, 4, 4), (8,), torch.bfloat16, ("relu",), "xw")


def config(**settings):
    """A tiny HA-GAN with a gradient penalty; without encoders, as a step is counted often here."""
    defaults = {"latent_dim": 8, "channels": 64, "d_channels": 64, "subvolume_depth": 8, "encoder": False}
    defaults |= {"norm": "rms", "r1_weight": 1.0, "batch_size": 2, "device": "cpu"}
    defaults |= {"steps": 4, "preview_every": 0, "checkpoint_steps": 1, "log": {"every": 1}}
    return make_config("hagan", **defaults | settings)


@pytest.fixture
def timed(monkeypatch):
    """Times of forms by their name and setting, in place of a clock: set in `times`, 1 if not named."""
    times = {}

    def duration(call, form, device, timer):
        layout = forms._table.layout
        benchmark = torch.backends.cudnn.benchmark
        return times.get((call, form), times.get(form, 1.0)) * times.get(layout, 1) * times.get(benchmark, 1)

    monkeypatch.setattr(kernel_choice, "call_seconds", duration)
    return times


def taken(choice, calls):
    return {call: choice.table.forms.get(str(call)) for call in calls if call.operator == "upsample_conv3d"}


@pytest.fixture(scope="module")
def plan():
    return Plan(config(), 0, "cuda")


def test_the_fastest_form_is_chosen(plan, timed):
    calls = recorded_calls(plan)
    ups = [call for call in calls if call.operator == "upsample_conv3d"]
    halving = [call for call in calls if "blocks" in available_forms(call, "cuda")[0]]
    assert len(ups) > 3 and len(halving) > 3
    timed |= {
        (ups[0], "transposed"): 0.5,
        (ups[1], "parity"): 0.5,
        (ups[2], "parity"): 0.98,
        (halving[0], "blocks"): 0.9,
    }
    choice = choose_forms(plan, CPU)
    assert choice.table.forms[str(ups[1])] == "parity"
    assert choice.table.forms[str(halving[0])] == "blocks" and choice.table.forms[str(halving[1])] == "direct"
    for call in [ups[0], *ups[2:]]:  # 2 % is not clear
        rule = available_forms(call, "cuda")[1]
        assert choice.table.forms[str(call)] == ("transposed" if call == ups[0] else rule)
    assert choice.table == dataclasses.replace(choice.table, layout="default", benchmark=False)
    assert choice.seconds < choice.seconds_by_rule and "times the speed" in str(choice)


@pytest.mark.parametrize(
    ("fast", "layout", "benchmark"), [("channels_last", "channels_last", False), (True, "default", True)]
)
def test_layout_and_benchmark_are_those_of_the_fastest_step(plan, timed, monkeypatch, fast, layout, benchmark):
    timed[fast] = 0.5
    needed = {"default": plan.peak, "channels_last": plan.peak}
    monkeypatch.setattr(kernel_choice, "peak_with", lambda plan, table: needed[table.layout])
    table = choose_forms(plan, CPU).table
    assert (table.layout, table.benchmark) == (layout, benchmark)
    needed["channels_last"] += 1
    assert choose_forms(plan, CPU).table.layout == "default"


@pytest.mark.slow
def test_a_form_that_takes_more_memory_than_the_plan_is_not_chosen(timed):
    plan = Plan(config(batch_size=32), 0, "cuda")
    timed["plain"] = 0.1  # stores the upsampled tensor
    calls = recorded_calls(plan)
    everywhere = Table(forms={str(call): "plain" for call in calls if call.operator == "upsample_conv3d"})
    assert peak_with(plan, everywhere) > plan.peak
    choice = choose_forms(plan, CPU)
    assert peak_with(plan, choice.table) <= plan.peak
    assert "plain" in taken(choice, calls).values() and set(taken(choice, calls).values()) != {"plain"}


def test_a_setting_in_which_a_call_lacks_memory_is_left_out(plan, monkeypatch):
    def duration(call, form, device, timer):
        return None if torch.backends.cudnn.benchmark and call.operator == "conv3d" else 1.0

    monkeypatch.setattr(kernel_choice, "call_seconds", duration)
    assert not choose_forms(plan, CPU).table.benchmark


def test_the_forms_of_devices():
    assert available_forms(UP, "cuda") == (["plain", "transposed", "parity"], "transposed")
    assert available_forms(FIRST, "cuda") == (["direct", "blocks"], "direct")
    assert available_forms(FIRST, "cpu") == available_forms(NORM, "cuda") == (["direct"], "direct")
    assert set(available_forms(UP, "cpu")[0]) >= {"plain", "transposed", "parity"}


@pytest.mark.parametrize("call", [UP, FIRST, NORM], ids=lambda call: call.operator)
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_form_can_be_timed_and_counted(call, kind):
    seen = []
    for form in available_forms(call, kind)[0]:
        with planned_for(kind):
            assert call_seconds(call, form, CPU, lambda run, device: seen.append(run()) or 1.5) == 1.5
        assert counted_peak(call, form, kind) > 0
    assert len(seen) == len(available_forms(call, kind)[0])
    assert counted_peak(UP, "plain", "cuda") > counted_peak(UP, "transposed", "cuda")


@pytest.mark.parametrize(("extra", "expected"), [(-1, 2.0), (1, None)])
def test_a_form_that_takes_more_of_the_gpu_than_was_planned_is_left_out(monkeypatch, extra, expected):
    planned = counted_peak(UP, "parity", "cuda") + Margins().workspace
    monkeypatch.setattr(kernel_calls, "_runner", lambda *_: lambda: None)
    monkeypatch.setattr(kernel_calls, "counted_peak", lambda *_: planned - Margins().workspace)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + planned + extra)
    assert call_seconds(UP, "parity", torch.device("cuda", 0), lambda run, device: 2.0) == expected


def failing(error):
    def timer(run, device):
        raise error

    return timer


def test_a_form_that_runs_out_of_memory_is_left_out():
    assert call_seconds(UP, "parity", CPU, failing(torch.OutOfMemoryError("CUDA out of memory"))) is None
    # outside the allocator, as of the workspace of a library
    assert call_seconds(UP, "parity", CPU, failing(torch.AcceleratorError("CUDA error: out of memory"))) is None


def test_a_form_that_the_device_does_not_compute_is_left_out_in_one_line(capsys):
    error = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED\nreproduce it with ...")
    assert call_seconds(UP, "parity", CPU, failing(error)) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"kernels: the form parity of {UP} is left out: cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"


def test_an_error_that_ends_the_use_of_the_device_is_raised_with_advice():
    with pytest.raises(RuntimeError, match="illegal") as caught:
        call_seconds(UP, "parity", CPU, failing(RuntimeError("CUDA error: an illegal memory access")))
    assert "--train.kernels fixed" in caught.value.__notes__[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", forms.LAYOUTS)
@pytest.mark.parametrize("form", ["plain", "transposed", "parity"])
@pytest.mark.parametrize("phase", ["d", "g", "e_h"])
def test_a_step_has_the_same_gradients_in_all_forms(small_store, phase, form, layout):
    """D's phase differentiates twice: R1."""
    settings = config(ema=0.0, encoder=True, autoencode=1.0, prior="encoded")
    batch = float64(small_batch(settings, small_store))
    expected, terms = gradients(settings, phase, batch)
    with planned_for("cuda"):
        with forms.recording() as calls:
            gradients(settings, phase, batch)
        names = {"upsample_conv3d": form, "conv3d": "blocks"}
        table = Table(layout, forms={str(call): names[call.operator] for call in calls if call.operator in names})
        with forms.using(table):
            found, same_terms = gradients(settings, phase, batch)
    torch.testing.assert_close(same_terms, terms)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6)


def cpu_plan(**train):
    return Plan(config(**{"kernels": "measured"} | train), 0, "cpu")


@pytest.fixture
def clock(monkeypatch):
    """Every measurement makes another choice."""
    noise = random.Random(3)

    def choose(plan, device):
        times = {f"{UP} {i}": {form: noise.random() for form in ("plain", "transposed", "parity")} for i in range(9)}
        table = Table(forms={call: min(found, key=found.get) for call, found in times.items()})
        return Choice(table, times, 1.0, 2.0, 3)

    monkeypatch.setattr(kernel_file, "choose_forms", choose)
    monkeypatch.setattr(Plan, "peak", 10**9)
    monkeypatch.setattr(kernel_file, "peak_with", lambda plan, table: plan.peak)


def test_a_choice_is_kept_in_the_run(tmp_path, clock, monkeypatch, capsys):
    table = kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)
    assert len(set(table.forms.values())) > 1
    values = json.loads((tmp_path / NAME).read_text())
    assert values["forms"] == table.forms and values["milliseconds"].keys() == table.forms.keys()
    assert "kernels measured on CPU" in capsys.readouterr().err
    assert kernel_table(tmp_path, CPU, cpu_plan(steps=9), SINGLE) == table
    other_rank = SimpleNamespace(is_first=False, first_rank_first=SINGLE.first_rank_first)
    assert kernel_table(tmp_path, CPU, cpu_plan(checkpointing=True), other_rank) == table
    monkeypatch.setattr(kernel_file, "choose_forms", lambda *_: 1 / 0)
    for changed in (cpu_plan(checkpointing=True), cpu_plan(batch_size=4)):
        with pytest.raises(ZeroDivisionError):
            kernel_table(tmp_path, CPU, changed, SINGLE)
    monkeypatch.setattr(kernel_file, "describe", lambda device: "another device")
    with pytest.raises(ZeroDivisionError):
        kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)


@pytest.mark.parametrize("train", [{"kernels": "auto"}, {"kernels": "fixed"}])
def test_on_a_cpu_the_rules_stay_unless_told(tmp_path, train, monkeypatch):
    monkeypatch.setattr(kernel_file, "choose_forms", lambda *_: 1 / 0)
    assert kernel_table(tmp_path, CPU, cpu_plan(**train), SINGLE) == Table()
    assert not (tmp_path / NAME).exists()
    gpu = torch.device("cuda", 0)
    assert kernel_table(tmp_path, gpu, cpu_plan(kernels="fixed"), SINGLE) == Table()
    assert kernel_table(tmp_path, gpu, cpu_plan(kernels="auto", compile=True), SINGLE) == Table()
    monkeypatch.setattr(kernel_file, "describe", lambda device: "a GPU")
    with pytest.raises(ZeroDivisionError):
        kernel_table(tmp_path, gpu, cpu_plan(kernels="auto"), SINGLE)


def test_a_file_of_another_run_decides(tmp_path, clock, monkeypatch):
    table = kernel_table(tmp_path / "one", CPU, cpu_plan(), SINGLE)
    path = tmp_path / "one" / NAME
    values = json.loads(path.read_text()) | {"device": "some GPU", "layout": "channels_last"}
    path.write_text(json.dumps(values))
    monkeypatch.setattr(kernel_file, "choose_forms", lambda *_: 1 / 0)
    plan = cpu_plan(kernels=str(path), checkpointing=True)
    given = kernel_table(tmp_path / "two", CPU, plan, SINGLE)
    assert given == Table("channels_last", False, table.forms)
    path.unlink()
    assert kernel_table(tmp_path / "two", CPU, plan, SINGLE) == given  # as kept when the run began


def test_a_file_whose_forms_do_not_fit_the_plan_is_refused(tmp_path, clock, monkeypatch):
    kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)
    monkeypatch.setattr(kernel_file, "peak_with", lambda plan, table: plan.peak + 1)
    with pytest.raises(InputError, match="planned are .* use train.kernels measured or fixed"):
        kernel_table(tmp_path / "two", CPU, cpu_plan(kernels=str(tmp_path / NAME)), SINGLE)


BROKEN = {
    "no JSON": lambda values: "{",
    "not an object": lambda values: "[1, 2]",
    "empty": lambda values: "{}",
    "another format": lambda values: json.dumps(values | {"format": "kernels 9"}),
    "another layout": lambda values: json.dumps(values | {"layout": "diagonal"}),
    "another form": lambda values: json.dumps(values | {"forms": {"upsample_conv3d 1": "fast"}}),
    "a form of another operator": lambda values: json.dumps(values | {"forms": {"conv3d 1": "parity"}}),
    "forms in a list": lambda values: json.dumps(values | {"forms": ["parity"]}),
    "a number as form": lambda values: json.dumps(values | {"forms": {"conv3d 1": ["direct"]}}),
    "benchmark as text": lambda values: json.dumps(values | {"cudnn_benchmark": "yes"}),
    "settings in a list": lambda values: json.dumps(values | {"settings": []}),
    "not text": lambda values: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line(tmp_path, clock, kind):
    kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)
    path, content = tmp_path / NAME, BROKEN[kind](json.loads((tmp_path / NAME).read_text()))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"{NAME}: .*delete it to measure again") as error:
        kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)
    assert "\n" not in str(error.value)


def test_a_missing_or_broken_file_ends_train_with_status_2(tmp_path, small_store, monkeypatch, capsys):
    settings = f"--method hagan --data.size 32 32 32 --data.store {small_store} --train.device cpu"
    words = ["train", *settings.split(), "--out", str(tmp_path / "run")]
    (tmp_path / "broken.json").write_text("{")
    for name, said in (("none.json", "no such file"), ("broken.json", "is damaged")):
        monkeypatch.setattr("sys.argv", [*words, "--train.kernels", str(tmp_path / name)])
        assert cli.run(train_command.main) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert len(lines) == 1 and said in lines[0] and name in lines[0]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_with_compile_nothing_is_measured():
    with pytest.raises(InputError, match="train.kernels measured: works without train.compile"):
        config(kernels="measured", compile=True)


@pytest.mark.slow
def test_a_resumed_run_takes_the_forms_it_began_with(tmp_path, small_store, monkeypatch):
    noise = random.Random(3)
    monkeypatch.setattr(kernel_choice, "call_seconds", lambda *_: noise.random())

    def run(name, steps, kernels="measured"):
        train(config(kernels=kernels, steps=steps, data={"store": str(small_store)}), tmp_path / name)
        return files.load(files.newest(tmp_path / name))

    run("stopped", 1)
    text = (tmp_path / "stopped" / NAME).read_text()
    assert len(set(json.loads(text)["forms"].values())) > 1
    resumed = run("stopped", 3)  # a new measurement would choose otherwise
    assert (tmp_path / "stopped" / NAME).read_text() == text
    straight = run("straight", 3, kernels=str(tmp_path / "stopped" / NAME))
    assert_equal(resumed.networks, straight.networks)
    assert_equal(resumed.optimizers, straight.optimizers)
    rules = run("rules", 3, kernels="auto")
    assert not (tmp_path / "rules" / NAME).exists()
    with pytest.raises(AssertionError):
        assert_equal(rules.networks, straight.networks)  # other forms round otherwise


def test_a_file_that_was_read_is_written_as_it_is(tmp_path, clock):
    kernel_table(tmp_path, CPU, cpu_plan(), SINGLE)
    kernels = read_kernels(tmp_path / NAME)
    kernel_file.write_kernels(kernels, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / NAME).read_text()
