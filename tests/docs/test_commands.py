"""Every command of the README and of the documentation: known to the parsers, and run where a page marks it."""

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hagan3d import __main__, api, cli, phantoms, run_settings
from hagan3d.errors import InputError
from tests.docs import blocks
from tests.docs.blocks import ROOT, Block, described
from tests.docs.small import shortened, small_prepare, small_sections, write_dicom

PAGES = blocks.pages()
README, QUICK_START = ROOT / "README.md", ROOT / "docs" / "quick-start.md"
RUNNABLE = [page for page in PAGES if page != README and any(block.runs for block in blocks.blocks(page))]
PLACEHOLDER = re.compile(r"\b(COMMAND|METHOD|RUN\d?|NAME|classes\.yaml|mine\.yaml)\b")
"""Words for which a reader puts their own: lines with one cannot be parsed."""


class ParsedError(Exception):
    """Ends a command once its line is parsed."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def module_of(command: str):
    return importlib.import_module("hagan3d.checkpoint.__main__" if command == "checkpoint" else f"hagan3d.{command}")


def shell_commands(page: Path) -> list[tuple[str, list[str]]]:
    """Return the command lines of a page with the places where they stand."""
    fenced = [block for block in blocks.blocks(page) if block.language == "bash"]
    found = [(str(block), words) for block in fenced for words in block.commands]
    return found + [(f"{name_of(page)}, text", words) for words in blocks.inline_commands(page)]


def parse(command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Parse a line as its command does; return what is wrong with it. What is left out of a line may be required."""
    real = cli.Parser.parse_args

    def stop(parser, *args, **keywords):
        real(parser, *args, **keywords)
        raise ParsedError

    if command not in __main__.COMMANDS and command != "checkpoint":
        return "no such command"
    monkeypatch.setattr(cli.Parser, "parse_args", stop)
    try:
        module_of(command).main(arguments)
    except InputError as error:
        return None if re.search(r"required|but were not included|must be given together", str(error)) else str(error)
    except (ParsedError, SystemExit):  # SystemExit: --help, --print_config
        return None
    finally:
        monkeypatch.undo()
    raise AssertionError(f"{command}: parsed nothing")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_is_known_to_its_parser(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    problems = []
    for place, words in shell_commands(page):
        found = blocks.arguments_of(words)
        if found is None or found[0].startswith("-") or PLACEHOLDER.search(" ".join(words)):
            continue
        monkeypatch.chdir(ROOT)
        problem = parse(*found, monkeypatch)
        problems += [f"{place}: {' '.join(words)}: {problem}"] if problem else []
    assert not problems, "\n".join(problems)


def text_of(script):
    """Return the text of a script, of a table of settings next to it, and of the modules next to it that it imports."""
    text = script.read_text(encoding="utf-8")
    imported = (script.with_name(f"{name}.py") for name in re.findall(r"^import (\w+)$", text, re.MULTILINE))
    others = (script.with_suffix(".yaml"), *imported)
    return text + "".join(one.read_text(encoding="utf-8") for one in others if one.exists())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_script_and_option_exists(page, monkeypatch):
    for place, words in shell_commands(page):
        if "--" in words:  # what follows are arguments of `hagan3d train`
            assert parse("train", words[words.index("--") + 1 :], monkeypatch) is None, place
            words = words[: words.index("--")]
        scripts = [word for word in words if re.fullmatch(r"(benchmarks|examples)/\w+\.py", word)]
        for script in scripts:
            assert (ROOT / script).is_file(), f"{place}: no {script}"
            text = text_of(ROOT / script)
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            known = {option for option in options if f'"{option}"' in text or "." in option}
            if 'f"--{name}"' in text:  # options by names that stand in a table
                known |= {option for option in options if f": {option[2:]}\n" in text}
            assert set(options) <= known, f"{place}: {script} has no {set(options) - known}"


def test_a_wrong_line_is_reported(monkeypatch):
    assert "sizes" in parse("prepare", ["--input", "a", "--output", "b.h5", "--sizes", "3"], monkeypatch)
    assert parse("nonsense", [], monkeypatch) == "no such command"
    assert parse("train", ["--config", "hagan_64", "--train.steps", "5"], monkeypatch) is None


def test_what_the_readme_runs_is_in_the_quick_start():
    """So that it is run once."""
    marked, run = ([block.text for block in blocks.blocks(page) if block.runs] for page in (README, QUICK_START))
    assert marked and set(marked) <= set(run)


@pytest.fixture(scope="session")
def made_phantoms(tmp_path_factory):
    """Phantoms of each kind, which all pages share."""
    folder = tmp_path_factory.mktemp("phantoms")
    for kind in phantoms.KINDS:
        words = ["--kind", kind, "--out", str(folder / kind)]
        assert cli.run(phantoms.main, shortened("phantoms", words)) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_marked_blocks_run(page, made_phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real = run_settings.load_config
    monkeypatch.setattr(run_settings, "load_config", lambda name, **given: real(name, **small_sections(name, given)))
    monkeypatch.setattr(api, "prepare", small_prepare)
    if "DICOM/" in page.read_text(encoding="utf-8"):
        write_dicom(tmp_path / "DICOM", made_phantoms / "thorax" / "volumes")
    names = {"__name__": "documentation"}
    for block in blocks.blocks(page):
        if block.runs and block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
        elif block.runs:
            run_shell(block, made_phantoms)
    check_written_files(tmp_path)


def run_shell(block: Block, made_phantoms: Path) -> None:
    """Run the commands of a block: those of hagan3d in this process and with small networks, others as they are."""
    for words in block.commands:
        found = blocks.arguments_of(words)
        if found is None:
            subprocess.run(words, check=True, capture_output=True)
            continue
        command, arguments = found
        if command == "phantoms":
            kind = cli.option_value("--kind", arguments) or "thorax"
            shutil.copytree(made_phantoms / kind, str(cli.option_value("--out", arguments)))
            continue
        status = cli.run(module_of(command).main, shortened(command, arguments))
        assert status == 0, f"{block}: {' '.join(words)}"
        outputs = [cli.option_value(option, arguments) for option in ("--out", "--output", "--nnunet")]
        written = [Path(path) for path in outputs if path]
        assert all(path.exists() for path in written), f"{block}: {' '.join(words)} wrote none of {written}"


def check_written_files(folder: Path) -> None:
    """Check that the page on files describes every file of the runs, and every key of the evaluations."""
    runs = [path for path in folder.glob("runs/*") if path.is_dir()]
    assert runs
    for run in runs:
        names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
        assert names <= {name.partition("/")[0] for name in described("A run")}
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        assert rows and all("/" in key for row in rows for key in row if key != "step")
    for path in folder.rglob("metrics.json"):
        assert set(json.loads(path.read_text(encoding="utf-8"))) <= described("metrics.json")
