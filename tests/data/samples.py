"""A small valid file of every kind that is read, how it is read, and how its inner parts are mutated."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import yaml

from hagan3d.data.io.listing import find_volumes
from hagan3d.data.preprocess.cases import find_nnunet, find_table
from hagan3d.data.preprocess.metadata import read_labels
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.inference.translate_files import calibrated_scales
from hagan3d.run_settings import load_config
from tests.data.mutations import Random, mutate_bytes, mutate_text, replace_value
from tests.data.sample_runs import (
    DESCRIPTION,
    SCALES,
    in_store,
    in_tensors,
    make_checkpoint,
    make_config_file,
    make_features,
    make_store,
    make_weights,
    read_checkpoint,
    read_feature_net,
    read_layer,
    read_store,
)
from tests.data.sample_scans import (
    VOLUMES,
    in_dicom,
    in_gzip,
    in_meta,
    in_nrrd,
    make_bzip2_nrrd,
    make_image,
    make_itk,
    make_mgh,
    make_multiframe,
    make_nifti,
    make_npy,
    make_series,
    read_array,
    read_folder,
    read_frames,
)


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    make: Callable[[Path], Path]
    """Writes a valid file, and those it needs, into a folder; returns the file that is mutated."""
    read: Callable[[Path], Any]
    """Reads the file as commands do: arrays or plain values."""
    header: int = 512
    """Bytes at the beginning that are mutated more often."""
    mutate: Callable[[bytes, Random], bytes] | None = None
    """Mutates what is inside, with a checksum that fits; None: the format has none."""
    checked: bool = False
    """Whether a checksum or the syntax protects every voxel, so that a file that is read holds the original voxels."""
    is_text: bool = False

    def mutated(self, data: bytes, random: Random) -> tuple[bytes, bool]:
        """Return a mutated file, and whether the voxels that it may give are those of the original."""
        if self.mutate is not None and random.random() < 0.5:
            return self.mutate(data, random), False
        if self.is_text and random.random() < 0.7:
            return mutate_text(data, random), False
        return mutate_bytes(data, random, self.header), self.checked


def _listed(path: Path) -> str:
    lines = path.read_bytes().decode("latin-1").splitlines()
    if any(line.strip().strip("./") == "" and "/" in line for line in lines):
        return ""  # names the folder of all folders, which is listed for minutes
    return str(find_volumes(path))


def _text(name: str, text: str, volumes: tuple[str, ...] = ()) -> Callable[[Path], Path]:
    """Make a text file that names volumes in its folder."""

    def make(folder: Path) -> Path:
        for volume in volumes:
            (folder / volume).parent.mkdir(parents=True, exist_ok=True)
            make_nifti(volume)(folder)
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def _in_json(data: bytes, random: Random) -> bytes:
    return json.dumps(replace_value(json.loads(data), random)).encode()


def _in_yaml(data: bytes, random: Random) -> bytes:
    return yaml.safe_dump(replace_value(yaml.safe_load(data), random)).encode()


CASES = "id,subject,t1,t2,seg\na,p,v/a.nii,v/b.nii,v/c.nii\nb,q,v/b.nii,v/c.nii,v/a.nii\n"
PAIRS = "id,source,target,mask,subject\na,v/a.nii,v/b.nii,v/c.nii,p\nb,v/b.nii,v/c.nii,v/a.nii,q\n"
LABELS = "id,class,subject,age,sex\na,1,p,61,f\nb,2.0,q,n/a,m\nc,1.0,,70.5,f\n"
DATASET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 1,
    "file_ending": ".nii",
}
CASE = ("imagesTr/x_0000.nii", "imagesTr/x_0001.nii", "labelsTr/x.nii")
KINDS: dict[str, Kind] = {
    "nifti": Kind(make_nifti("a.nii"), read_array, 352),
    "nifti-big-endian": Kind(make_nifti("a.nii", order=">"), read_array, 352),
    "nifti2": Kind(make_nifti("a.nii", nib.Nifti2Image), read_array, 544),
    "nifti-gz": Kind(make_nifti("a.nii.gz"), read_array, 64, in_gzip(352), checked=True),
    "nifti2-gz": Kind(make_nifti("a.nii.gz", nib.Nifti2Image), read_array, 64, in_gzip(544), checked=True),
    "nrrd": Kind(make_itk("a.nrrd", False), read_array, 300, in_nrrd),
    "nrrd-gzip": Kind(make_itk("a.nrrd", True), read_array, 300, in_nrrd),
    "nrrd-bzip2": Kind(make_bzip2_nrrd, read_array, 300, in_nrrd),
    "nhdr": Kind(make_itk("a.nhdr", False), read_array, 400, in_nrrd, is_text=True),
    "mha": Kind(make_itk("a.mha", False), read_array, 300, in_meta),
    "mha-zlib": Kind(make_itk("a.mha", True), read_array, 300, in_meta),
    "mhd": Kind(make_itk("a.mhd", True), read_array, 400, is_text=True),
    "mhd-voxels": Kind(
        make_itk("a.mhd", True, "a.zraw"), lambda path: read_array(path.with_suffix(".mhd")), checked=True
    ),
    "mgh": Kind(make_mgh("a.mgh"), read_array, 284),
    "mgz": Kind(make_mgh("a.mgz"), read_array, 64, in_gzip(284), checked=True),
    "npy": Kind(make_npy, read_array, 128),
    "dicom-series": Kind(make_series(False), read_folder, 1200, in_dicom),
    "dicom-series-rle": Kind(make_series(True), read_folder, 1200, in_dicom),
    "dicom-multiframe": Kind(make_multiframe, read_array, 2000, in_dicom),
    "png": Kind(make_image("a.png"), read_array, 64, checked=True),
    "png-rgb": Kind(make_image("a.png", True), read_frames, 64, checked=True),
    "tiff": Kind(make_image("a.tif"), read_array, 300),
    "jpeg": Kind(make_image("a.jpg"), read_array, 600),
    "labels": Kind(_text("a.csv", LABELS), lambda path: str(read_labels(path, "class")), is_text=True),
    "cases": Kind(_text("a.csv", CASES, VOLUMES), lambda path: str(find_table(path, ("no", "yes"))), is_text=True),
    "pairs": Kind(_text("a.csv", PAIRS, VOLUMES), lambda path: str(find_pairs([path])), is_text=True),
    "list": Kind(_text("a.txt", "v/a.nii\nv/b.nii\n# v/c.nii\n", VOLUMES), _listed, is_text=True),
    "dataset.json": Kind(
        _text("dataset.json", json.dumps(DATASET), CASE), lambda path: str(find_nnunet(path.parent)), 300, _in_json
    ),
    "metrics.json": Kind(
        _text("metrics.json", json.dumps(SCALES)),
        lambda path: calibrated_scales(path, DESCRIPTION),
        300,
        _in_json,
        is_text=True,
    ),
    "config": Kind(make_config_file, lambda path: str(load_config(path)), 3000, _in_yaml, is_text=True),
    "store": Kind(make_store, read_store, 4096, in_store, checked=True),
    "checkpoint": Kind(make_checkpoint, read_checkpoint, 4096, in_tensors, checked=True),
    "features": Kind(make_features, read_feature_net, 4096, in_tensors, checked=True),
    "weights": Kind(make_weights, read_layer, 1000, in_tensors, checked=True),
}
