"""The pages of the documentation: links lead somewhere, generated pages are current, formats are those of the code."""

import dataclasses
import re
import shutil
from pathlib import Path

import h5py
import pytest
import yaml

from benchmarks import reference
from hagan3d.checkpoint.files import FORMAT as CHECKPOINT_FORMAT
from hagan3d.checkpoint.files import Checkpoint
from hagan3d.data.store.format import FORMAT as STORE_FORMAT
from hagan3d.evaluation.report.results import Evaluation, Origin
from hagan3d.evaluation.translation.results import ChannelEvaluation, PairEvaluation
from tests.docs import blocks
from tests.docs.blocks import ROOT, described

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LARGEST_README, LARGEST_PICTURE = 8000, 300_000  # bytes


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    return {anchor(found) for found in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", blocks.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        other = page.parent / path if path else page
        assert other.is_file(), f"{page}: {target} leads nowhere"
        assert not heading or heading in anchors(other), f"{page}: {other.name} has no heading {heading}"


def test_the_navigation_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named: list[str] = []

    def collect(entry):
        if isinstance(entry, str):
            named.append(entry)
        for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            collect(value)

    collect(yaml.safe_load(text)["nav"])
    assert sorted(named) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


@pytest.mark.slow
def test_the_reference_is_that_of_the_parsers():
    for name, text in reference.pages().items():
        written = (reference.FOLDER / name).read_text(encoding="utf-8")
        assert written == text, f"{name} is not current: run python benchmarks/reference.py --write"


def test_the_readme_is_short_and_pictures_are_small():
    assert (ROOT / "README.md").stat().st_size < LARGEST_README
    pictures = [path for path in (ROOT / "docs" / "images").iterdir()]
    assert pictures and all(path.stat().st_size < LARGEST_PICTURE for path in pictures)
    text = "".join(page.read_text(encoding="utf-8") for page in blocks.pages())
    assert not [path.name for path in pictures if path.name not in text]


def test_the_format_of_a_store_is_described(small_store, tmp_path):
    copy = shutil.copy(small_store, tmp_path)  # HDF5 does not open a file in two modes of locking at once
    with h5py.File(copy) as file:
        names, attributes = set(file), set(file.attrs)
    optional = {"label_map", "source_high", "source_low", "mask"}
    assert described("A store") - optional == names | attributes
    assert STORE_FORMAT in (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")


def test_the_format_of_a_checkpoint_is_described():
    assert described("A checkpoint") == {field.name for field in dataclasses.fields(Checkpoint)} | {"format"}
    assert CHECKPOINT_FORMAT in (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")


def test_the_keys_of_metrics_json_are_described():
    fields = {field.name for kind in (Origin, Evaluation) for field in dataclasses.fields(kind)} - {
        "origin",  # its fields are keys themselves
        "coverage_floor",  # the key `floor` of coverage
    }
    pairs = {field.name for kind in (PairEvaluation, ChannelEvaluation) for field in dataclasses.fields(kind)}
    assert described("metrics.json") >= fields | pairs - {"origin", "channels"}
