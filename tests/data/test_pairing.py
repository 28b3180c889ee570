"""Pairs and domains: what belongs together, on one grid, each in its own units; and bad input, one line each."""

import dataclasses
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d import cli
from hagan3d import prepare as door
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import Pairs, PairSource
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.io.geometry import GridRule, resample_onto, to_grid
from hagan3d.data.io.volumes import Volume, read_volume
from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.data.preprocess.pairing import find_domains, find_pairs
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import ChannelConfig, DomainConfig, PrepareConfig
from hagan3d.data.preprocess.volume import check_overlap, same_grid
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from tests.data.conftest import rewrite, smooth

SETTINGS = PrepareConfig(size=(32, 32, 32), validation=0.0, workers=1)


def field(affine: np.ndarray, shape: tuple[int, ...], phase: float = 0.0) -> np.ndarray:
    """Voxels of one smooth function of the place in mm, so that any grid shows the same."""
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(ijk @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    return (np.sin(x / 9 + phase) + np.cos(y / 11) + np.sin(z / 13) * 0.5).astype(np.float32)


def affine_of(
    spacing: float | tuple[float, ...], origin: tuple[float, ...] = (0, 0, 0), turn: float = 0.0
) -> np.ndarray:
    affine = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(np.broadcast_to(spacing, 3))
    affine[:3, 3] = origin
    return affine


@pytest.fixture
def write(tmp_path):
    def write(name: str, array: np.ndarray, affine: np.ndarray) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
        return path

    return write


@pytest.fixture
def folders(write, tmp_path):
    """Four pairs: sources of 2 mm voxels in other units, shifted; targets of 1.5 mm."""
    for k in range(4):
        fine, coarse = affine_of(1.5), affine_of(2.0, (-5, -4, -3))
        write(f"targets/p{k}.nii.gz", 100 * field(fine, (40, 36, 34), k), fine)
        write(f"sources/p{k}.nii.gz", 5 * field(coarse, (38, 36, 34), k) + 7, coarse)
    return tmp_path / "sources", tmp_path / "targets"


def test_a_source_lies_on_the_grid_of_its_target_in_units_of_its_own(folders, tmp_path):
    rule = DomainConfig(intensity="window", window=(-10.0, 30.0), units="SUV")
    settings = dataclasses.replace(SETTINGS, intensity="window", window=(-300.0, 300.0))
    made = prepare(find_pairs(folders), tmp_path / "s.h5", settings, progress=False, sources_as=rule)
    store = Store(made.path)
    assert store.has_sources and store.source_intervals.tolist() == [[[-10, 30]]] * 4
    pair = Pairs(store).pair(2)
    source = (pair.source[0].numpy() + 1) * 20 - 10
    target = denormalize(pair.target[0].numpy(), *store.intervals[2, 0])
    np.testing.assert_allclose(((source - 7) / 5)[1:-1, 1:-1, 1:-1], (target / 100)[1:-1, 1:-1, 1:-1], atol=0.05)
    (channel,) = store.description().source_channels
    assert (channel.name, channel.units, *channel.interval) == ("source", "SUV", -10, 30)
    again = prepare(find_pairs(folders), tmp_path / "s.h5", settings, progress=False, sources_as=rule)
    assert again.done_before


def test_a_label_map_without_labels_is_a_target_or_a_source(folders, tmp_path):
    affine, names = affine_of(1.5), ("sources", "targets")
    for k in range(4):
        lesion = np.zeros((40, 36, 34), np.uint8)
        lesion[:20, :9] = k % 2
        nibabel.save(nibabel.Nifti1Image(lesion, affine), tmp_path / "targets" / f"p{k}.nii.gz")
    labels = dataclasses.replace(SETTINGS, intensity="labels", window=(0.0, 1.0))
    store = Store(prepare(find_pairs(folders), tmp_path / "s.h5", labels, progress=False).path)
    volumes = [Pairs(store).pair(k).target[0].numpy() for k in range(4)]
    assert [bool((x > 0).any()) for x in volumes] == [False, True, False, True] and len(store) == 4
    rule = DomainConfig(intensity="labels", window=(0.0, 1.0))
    back = find_pairs([tmp_path / name for name in names[::-1]])
    store = Store(prepare(back, tmp_path / "b.h5", SETTINGS, progress=False, sources_as=rule).path)
    assert [bool((Pairs(store).pair(k).source > 0).any()) for k in range(4)] == [False, True, False, True]


def test_a_grid_that_another_volume_has_is_the_one_it_was_brought_to():
    """Resampling onto the grid that `to_grid` chose is what `to_grid` does, and turned axes show the same field."""
    rng, rule = np.random.default_rng(0), SETTINGS
    grid_rule = GridRule(rule.size, "RAS", "axial", None, "resize", False)
    array, affine = (
        gaussian_filter(rng.standard_normal((50, 44, 40)), 2).astype(np.float32),
        affine_of((1.0, 1.2, -2.0)),
    )
    wanted, grid = to_grid(array, affine, grid_rule)
    np.testing.assert_allclose(resample_onto(array, affine, grid, rule.size), wanted, atol=1e-6)
    turned, shape = affine_of(1.0, (-5, -15, -90), turn=0.3), (60, 70, 100)
    made = resample_onto(field(turned, shape), turned, grid, rule.size)
    inside = made != field(turned, shape).min()
    assert 0.5 < inside.mean() < 1
    np.testing.assert_allclose(made[inside], field(grid, rule.size)[inside], atol=0.03)


def test_masks_come_along_and_mark_the_same_voxels(write, tmp_path):
    rows = ["id,source,target,mask,subject"]
    for k in range(2):
        affine = affine_of(1.0)
        array = field(affine, (40, 40, 40), k)
        for name, values in (("t", array), ("s", -array), ("m", np.where(array > 0.5, 1, -1).astype(np.int16))):
            write(f"{name}{k}.nii.gz", values, affine)
        rows.append(f"p{k},s{k}.nii.gz,t{k}.nii.gz,m{k}.nii.gz,who{k}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    store = Store(prepare(find_pairs([tmp_path / "pairs.csv"]), tmp_path / "s.h5", SETTINGS, progress=False).path)
    batch = PairSource(store, "train", 2, 0).batch(0)
    assert store.subjects == ["who0", "who1"] and set(batch.mask.unique().tolist()) == {0, 1}
    for k in range(2):
        target = denormalize(Pairs(store).pair(k).target, *store.intervals[k, 0])
        agreed = ((target > 0.5) == (Pairs(store).pair(k).mask > 0)).float().mean()
        assert agreed > 0.98


def test_domains_are_drawn_from_each_side_and_never_paired(folders, tmp_path):
    store = Store(prepare(find_domains(folders), tmp_path / "d.h5", SETTINGS, progress=False).path)
    assert sorted(set(store.domains)) == ["source", "target"] and len(store) == 8
    assert store.subjects == [f"p{k}" for k in range(4)] * 2  # one of each name
    source = PairSource(store, "train", 4, 0, paired=False)
    for step in range(3):
        batch = source.batch(step)
        for k in range(4):
            found = [
                next(i for i in range(8) if np.array_equal(store.volume(i), volume[k]))
                for volume in (batch.source, batch.target)
            ]
            assert [store.domains[i] for i in found] == ["source", "target"]
            assert store.subjects[found[0]] != store.subjects[found[1]]
    with pytest.raises(InputError, match="two unpaired domains; train"):
        BatchSource(store, "train", 8, 4, 0)
    with pytest.raises(InputError, match="two domains without pairs"):
        PairSource(store, "train", 4, 0)


def test_a_store_of_pairs_is_a_store(folders, tmp_path):
    """Its volumes are those of a store of the targets alone, bit for bit."""
    pairs = Store(prepare(find_pairs(folders), tmp_path / "p.h5", SETTINGS, progress=False).path)
    alone = Store(prepare(folders[1], tmp_path / "t.h5", SETTINGS, progress=False).path)
    assert pairs.ids == alone.ids and not alone.has_sources and not alone.has_masks
    assert all(np.array_equal(pairs.volume(i), alone.volume(i)) for i in range(4))
    assert "pairs" not in alone.settings and alone.description().source_channels == ()
    with pytest.raises(InputError, match="holds sources of its own"):
        Pairs(pairs, DegradeConfig(kind="noise"))


def refused(capsys, out: Path, *words: str) -> str:
    status = cli.run(door.main, [*words, "--output", str(out), "--size", "32", "32", "32", "--workers", "1"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and error.startswith("error: ") and not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return error


def test_a_missing_partner_is_named(folders, tmp_path, capsys):
    (folders[0] / "p2.nii.gz").unlink()
    error = refused(capsys, tmp_path / "s.h5", "--pairs", *map(str, folders))
    assert f"{folders[0]}: no file matches p2" in error


def test_files_of_two_folders_are_pairs_by_their_whole_paths_below_them(write, tmp_path, capsys):
    def fill(*names: str) -> list[Path]:
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write(name, field(affine_of(1.0), (34, 34, 34), number), affine_of(1.0))
        return [tmp_path / name.split("/")[0] for name in (names[0], names[-1])]

    equal = fill("S/p1/v1/x.nii", "S/p2/v2/x.nii", "T/p1/v1/x.nii.gz", "T/p2/v2/x.nii")
    assert [(file.path.parent, file.sources[0].parent) for file in find_pairs(equal).files] == [
        (tmp_path / "T" / visit, tmp_path / "S" / visit) for visit in ("p1/v1", "p2/v2")
    ]
    crossed = fill("A/p1/v1/x.nii", "A/p2/v2/x.nii", "B/p2/v1/x.nii", "B/p1/v2/x.nii")
    error = refused(capsys, tmp_path / "s.h5", "--pairs", *map(str, crossed))
    assert f"{crossed[1]}: no file matches p1/v1/x, p2/v2/x" in error
    others = fill("C/anna/t1.nii", "D/bert/t1.nii")
    assert "no file matches anna/t1" in refused(capsys, tmp_path / "s.h5", "--pairs", *map(str, others))
    for folder in others:  # a list says nothing on which folders tell patients apart
        (tmp_path / f"{folder.name}.txt").write_text(f"{next(folder.rglob('*.nii'))}\n")
    lists = [f"{folder}.txt" for folder in others]
    assert "must be one CSV file or two folders" in refused(capsys, tmp_path / "s.h5", "--pairs", *lists)


def test_volumes_of_one_path_in_two_domains_are_of_one_subject_however_ids_are_shortened(write, tmp_path):
    for number, name in enumerate(("S/p1/a", "S/p1/b", "T/p1/a", "T/p2/a")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(f"{name}.nii", field(affine_of(1.0), (34, 34, 34), number), affine_of(1.0))
    files = find_domains([tmp_path / "S", tmp_path / "T"]).files
    assert [file.id for file in files] == ["source_a", "source_b", "target_p1_a", "target_p2_a"]
    assert [file.subject for file in files] == ["a", "b", "a", "p2_a"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("id,source,target\na,s.nii.gz,", "a has no target"),
        ("id,source,target\na,nowhere.nii.gz,t.nii.gz", "the source of a, .*nowhere.nii.gz, does not exist"),
        ("id,source\na,s.nii.gz", "no column 'target'"),
        ("id,source,target,seg\na,s.nii.gz,t.nii.gz,t.nii.gz", "has the column seg, so name its labels"),
        ("id,source,target,subject\na,s.nii.gz,t.nii.gz,x\na,s.nii.gz,t.nii.gz,y", "other subjects .x, y."),
    ],
)
def test_a_table_that_pairs_nothing_says_why(lines, said, write, tmp_path, capsys):
    affine = affine_of(1.0)
    for name in "st":
        write(f"{name}.nii.gz", field(affine, (34, 34, 34)), affine)
    (tmp_path / "p.csv").write_text(lines)
    assert re.search(said, refused(capsys, tmp_path / "s.h5", "--pairs", str(tmp_path / "p.csv")))


def test_labels_without_a_label_map_are_refused(folders, tmp_path, capsys):
    words = ["--pairs", *map(str, folders), "--label_names", "[background, tumour]"]
    assert "label_names: name the labels of column seg" in refused(capsys, tmp_path / "s.h5", *words)


def test_grids_apart_and_masks_of_another_shape_are_refused(write, tmp_path, capsys):
    affine, far = affine_of(1.0), affine_of(1.0, (500, 0, 0))
    write("t.nii.gz", field(affine, (34, 34, 34)), affine)
    write("s.nii.gz", field(far, (34, 34, 34)), far)
    write("m.nii.gz", np.ones((34, 34, 20), np.uint8) * np.arange(20, dtype=np.uint8), affine)
    table = tmp_path / "p.csv"
    table.write_text("id,source,target\na,s.nii.gz,t.nii.gz")
    assert "s.nii.gz: its grid does not overlap with that of" in refused(
        capsys, tmp_path / "s.h5", "--pairs", str(table)
    )
    write("s.nii.gz", field(affine, (34, 34, 34), 1.0), affine)
    table.write_text("id,source,target,mask\na,s.nii.gz,t.nii.gz,m.nii.gz")
    assert "m.nii.gz: must have the shape and affine" in refused(capsys, tmp_path / "s.h5", "--pairs", str(table))


@pytest.mark.parametrize("spacing", [5e-4, 1.5])  # mm: of microscopy and of a scan
def test_grids_are_one_if_their_corners_are_within_a_twentieth_of_a_voxel(spacing):
    array, affine = np.zeros((100, 5, 6), np.float32), affine_of(spacing, (0, 30 * spacing, 0))

    def is_same(side: float = 1.0, shift: float = 0.0, first: int = 0) -> bool:
        grid = affine_of((side * spacing, spacing, spacing), (0, 30 * spacing, shift * spacing))
        return same_grid(Volume(array[first:], grid, "one"), Volume(array, affine, "other"))

    assert is_same() and is_same(shift=0.04) and is_same(side=1.0004)
    assert not is_same(shift=-0.06) and not is_same(side=1.001)  # a tenth of a voxel at the other end
    assert not is_same(first=1) and not is_same(side=float("nan"))


@pytest.mark.parametrize(("value", "problems"), [(1, []), (0, ["mask is empty"]), (np.nan, ["holds NaN"])])
def test_a_mask_may_be_1_everywhere_and_not_0_or_unknown(write, tmp_path, value, problems):
    affine = affine_of(1.0)
    for number, name in enumerate(("s", "t")):
        write(f"{name}.nii.gz", field(affine, (12, 12, 12), number), affine)
    write("m.nii.gz", np.full((12, 12, 12), value, np.float32), affine)
    (tmp_path / "p.csv").write_text("id,source,target,mask\na,s.nii.gz,t.nii.gz,m.nii.gz")
    found = inspect(find_pairs([tmp_path / "p.csv"]), PrepareConfig(size=(32, 32, 32)), progress=False)
    assert len(found.problems) == len(problems) and all(text in found.problems[0] for text in problems)


def test_values_that_are_not_finite_are_filled_in_sources_too(write, tmp_path):
    affine = affine_of(1.0)
    for name in "st":
        array = field(affine, (34, 34, 34), ord(name))
        array[3, 4, 5] = np.nan
        write(f"{name}.nii.gz", array, affine)
    (tmp_path / "p.csv").write_text("id,source,target\na,s.nii.gz,t.nii.gz")
    filled = dataclasses.replace(SETTINGS, fill=0.0)
    pair = Pairs(Store(prepare(find_pairs([tmp_path / "p.csv"]), tmp_path / "s.h5", filled, progress=False).path)).pair(
        0
    )
    assert pair.source.std() > 0.1 and pair.target.std() > 0.1


def test_a_domain_of_one_volume_is_refused(folders, tmp_path, capsys):
    for k in range(1, 4):
        (folders[0] / f"p{k}.nii.gz").unlink()
    error = refused(capsys, tmp_path / "s.h5", "--domains", *map(str, folders))
    assert "the source domain must have at least 2 volumes" in error
    both = ("--domains", *map(str, folders), "--input", str(folders[0]))
    assert "--input, --nnunet, --pairs, --domains: use exactly one of them" in refused(capsys, tmp_path / "s.h5", *both)


CASES = [
    ("id,source,target", "s,t"),
    ("id,source_a,source_b,target", "t,s,u"),
    ("id,source,target_a,target_b", "t,u,s"),
    ("id,source,target,seg", "t,u,s"),
    ("id,source,target,mask", "t,u,s"),
    ("id,t1,t2", "t,s"),
    ("id,t1,seg", "t,s"),
]


@pytest.fixture
def patients(series, write, tmp_path):
    """Series s of one patient, t and u of another, n of a patient that the file does not name."""
    for name, patient in (("s", "anna"), ("t", "bert"), ("u", "bert")):
        folder = series(name, smooth((16, 24, 20), seed=ord(name)) // 1000 + 1)
        for file in folder.iterdir():
            rewrite(file, PatientID=patient, RescaleIntercept=-1024)
    source = read_volume(tmp_path / "s")
    write("n.nii", source.array[::-1], source.affine)
    return tmp_path


@pytest.mark.parametrize(("header", "names"), CASES, ids=[case[0] for case in CASES])
def test_files_of_two_patients_are_no_case(header, names, patients, capsys):
    (patients / "p.csv").write_text(f"{header}\na,{names}")
    words = ["--pairs" if "source" in header else "--input", str(patients / "p.csv")]
    labels = ["--label_names", "background", "tumour", "more"] if "seg" in header else []
    error = refused(capsys, patients / "x.h5", *words, *labels)
    assert "PatientID is" in error and "'anna'" in error and "'bert'" in error and "under the id a" in error


def test_a_file_that_names_no_patient_may_be_of_any(patients):
    (patients / "p.csv").write_text("id,source,target\na,s,n.nii")
    assert inspect(find_pairs([patients / "p.csv"]), SETTINGS, progress=False).problems == ()


def test_pet_and_ct_of_a_patient_become_a_pair(test_data, tmp_path):
    folder = test_data / "petctmr_sarcoma"
    (tmp_path / "p.csv").write_text(
        f"id,source,target,mask\nsts,{folder}/STS_002_PET_dicom,{folder}/STS_002_CT_dicom,{folder}/STS_002_CT_mask.nii.gz"
    )
    settings = PrepareConfig(size=(32, 64, 64), intensity="window", window=(-1000.0, 1000.0), validation=0.0, workers=1)
    rule = DomainConfig(intensity="window", window=(0.0, 22.0), units="SUV")
    made = prepare(find_pairs([tmp_path / "p.csv"]), tmp_path / "s.h5", settings, progress=False, sources_as=rule)
    pair = Pairs(Store(made.path)).pair(0)
    tumour = pair.mask[0] > 0
    assert 0 < tumour.float().mean() < 0.5
    assert pair.source[0][tumour].mean() > pair.source[0][~tumour].mean() + 0.05  # tracer gathers in the tumour
    assert pair.target[0][tumour].std() < pair.target.std()


def test_the_padding_around_a_pair_is_outside_its_mask(write, tmp_path):
    array = field(np.eye(4), (20, 20, 20), 0)
    for name, values in (("t", array), ("s", -array), ("m", np.ones_like(array))):
        write(f"{name}.nii.gz", values, np.eye(4))
    (tmp_path / "pairs.csv").write_text("id,source,target,mask\np,s.nii.gz,t.nii.gz,m.nii.gz\n")
    settings = dataclasses.replace(SETTINGS, fit="crop-pad")
    store = Store(prepare(find_pairs([tmp_path / "pairs.csv"]), tmp_path / "s.h5", settings, progress=False).path)
    assert int(Pairs(store).pair(0).mask.sum()) == 20**3 < np.prod(store.size)


def test_a_small_volume_inside_a_large_one_overlaps_with_it():
    first = Volume(np.zeros((96, 96, 96), np.float32), np.eye(4), "first")
    small = np.eye(4)
    small[:3, 3] = 13
    check_overlap(Volume(np.zeros((4, 4, 4), np.float32), small, "small"), first)
    small[:3, 3] = 200
    with pytest.raises(InputError, match="small: its grid does not overlap with that of first"):
        check_overlap(Volume(np.zeros((4, 4, 4), np.float32), small, "small"), first)


def test_z_scores_inside_the_masks_of_pairs_are_known_as_such(write, tmp_path):
    affine = affine_of(1.0)
    for number, name in enumerate("st"):
        write(f"{name}.nii.gz", field(affine, (34, 34, 34), number), affine)
    write("m.nii.gz", (field(affine, (34, 34, 34), 5) > 0).astype(np.float32), affine)
    (tmp_path / "p.csv").write_text("id,source,target,mask\na,s.nii.gz,t.nii.gz,m.nii.gz")
    settings = dataclasses.replace(SETTINGS, intensity="z-score")
    made = prepare(find_pairs([tmp_path / "p.csv"]), tmp_path / "s.h5", settings, progress=False)
    own = Store(made.path).description()
    assert own.channels[0].masked and not own.source_channels[0].masked


def test_a_window_of_sources_is_for_those_that_use_it(write, tmp_path):
    affine = affine_of(1.0)
    for number, name in enumerate("sut"):
        write(f"{name}.nii.gz", field(affine, (34, 34, 34), number), affine)
    (tmp_path / "p.csv").write_text("id,source_a,source_b,target\na,s.nii.gz,u.nii.gz,t.nii.gz")
    cases, own = find_pairs([tmp_path / "p.csv"]), {"source_a": ChannelConfig(intensity="window")}
    sources = DomainConfig(window=(-3.0, 3.0))
    store = Store(
        prepare(cases, tmp_path / "s.h5", dataclasses.replace(SETTINGS, intensities=own), False, sources).path
    )
    assert [channel["window"] for channel in store.settings["pairs"]] == [[-3.0, 3.0], [-1024.0, 600.0]]
    with pytest.raises(InputError, match="source.window: has no effect with intensity percentiles"):
        prepare(cases, tmp_path / "t.h5", SETTINGS, False, sources)
