"""A small valid file of every kind that is read, how it is read, and how its inner parts are mutated."""

import bz2
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
import torch
import yaml
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from hagan3d import checkpoint
from hagan3d.checkpoint.files import Checkpoint, path_of
from hagan3d.config.serialization import to_dict
from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import VolumeFile, read_channels, read_volume
from hagan3d.data.preprocess.cases import find_nnunet, find_table
from hagan3d.data.preprocess.metadata import read_labels
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.data.store.store import Store
from hagan3d.inference.translate_files import calibrated_scales
from hagan3d.methods.registry import make_networks
from hagan3d.networks.extractors.feature_net import FORMAT, FeatureNet, read_features
from hagan3d.networks.extractors.weight_files import load_exactly, read_weights
from hagan3d.networks.state_hash import state_hash
from hagan3d.run_settings import load_config
from tests.data.conftest import smooth, write_series
from tests.data.mutations import Random, mutate_bytes, mutate_text, replace_value
from tests.helpers import make_config

SHAPE = (12, 10, 8)
AFFINE = np.array([[2.0, 0, 0, -5], [0, 2.2, 0, -8], [0, 0, 2.5, -9], [0, 0, 0, 1]])
"""Of the volumes."""
SAMPLE_SEED = 3


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


def _volume(path: Path) -> np.ndarray:
    return read_volume(path).array


def _frames(path: Path) -> np.ndarray:
    return np.stack([channel.array for channel in read_channels(VolumeFile(path, "a", frames=3))])


def _listed(path: Path) -> str:
    lines = path.read_bytes().decode("latin-1").splitlines()
    if any(line.strip().strip("./") == "" and "/" in line for line in lines):
        return ""  # names the folder of all folders, which is listed for minutes
    return str(find_volumes(path))


def _folder(path: Path) -> np.ndarray:
    return read_volume(path.parent).array


def _nifti(name: str, version: type = nib.Nifti1Image, order: str = "<") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = version(smooth(SHAPE, SAMPLE_SEED), AFFINE, version.header_class(endianness=order))
        image.set_qform(AFFINE, 1)
        data = image.to_bytes()
        (folder / name).write_bytes(gzip.compress(data, 6, mtime=0) if name.endswith(".gz") else data)
        return folder / name

    return make


def _in_gzip(header: int) -> Callable[[bytes, Random], bytes]:
    return lambda data, random: gzip.compress(mutate_bytes(gzip.decompress(data), random, header), 1)


def _itk(name: str, packed: bool, voxels: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(smooth(SHAPE, SAMPLE_SEED).transpose(2, 1, 0))
        image.SetSpacing((2.0, 2.2, 2.5))
        image.SetOrigin((5.0, 8.0, -9.0))
        sitk.WriteImage(image, folder / name, useCompression=packed)
        return folder / (voxels or name)

    return make


def _in_nrrd(data: bytes, random: Random) -> bytes:
    """Mutate the words of the header, or what was packed."""
    head, _, body = data.partition(b"\n\n")
    if random.random() < 0.7:
        return mutate_text(head, random) + b"\n\n" + body
    if b"encoding: gzip" in head:
        return head + b"\n\n" + gzip.compress(mutate_bytes(gzip.decompress(body), random, 64), 1)
    if b"encoding: bzip2" in head:
        return head + b"\n\n" + bz2.compress(mutate_bytes(bz2.decompress(body), random, 64))
    return head + b"\n\n" + mutate_bytes(body, random, 64)


def _in_meta(data: bytes, random: Random) -> bytes:
    """Mutate the words of the header, or what was packed."""
    head, mark, body = data.partition(b"ElementDataFile = LOCAL\n")
    if not mark or random.random() < 0.7:
        return mutate_text(head + mark, random) + body
    packed = b"CompressedData = True" in head
    inner = mutate_bytes(zlib.decompress(body) if packed else body, random, 64)
    return head + mark + (zlib.compress(inner, 1) if packed else inner)


def _bzip2_nrrd(folder: Path) -> Path:
    text = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 10 8\n"
    text += "space directions: (2,0,0) (0,2.2,0) (0,0,2.5)\nspace origin: (5,8,-9)\nendian: little\nencoding: bzip2\n\n"
    path = folder / "a.nrrd"
    path.write_bytes(text.encode() + bz2.compress(smooth(SHAPE, SAMPLE_SEED).tobytes("F")))
    return path


def _mgh(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = nib.MGHImage(smooth(SHAPE, SAMPLE_SEED), AFFINE)
        image.to_filename(folder / name)
        return folder / name

    return make


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", smooth(SHAPE, SAMPLE_SEED))
    return folder / "a.npy"


def _series(packed: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_series(folder, smooth((4, 10, 12), SAMPLE_SEED), uid="1.2.3.4", packed=packed)
        return folder / "im002.dcm"

    return make


def _multiframe(folder: Path) -> Path:
    voxels = smooth((4, 10, 12), SAMPLE_SEED)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EnhancedMRImageStorage, "1.2.3.5"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = EnhancedMRImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality, data.NumberOfFrames = "1.2.3.4", "MR", len(voxels)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = voxels.shape[1:]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.SharedFunctionalGroupsSequence = [
        _group(PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]})
    ]
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [_item({"PixelSpacing": [2.0, 2.2]})]
    data.PerFrameFunctionalGroupsSequence = [
        _group(
            PlanePositionSequence={"ImagePositionPatient": [-5.0, -8.0, 2.5 * number]},
            PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -5},
            FrameContentSequence={"StackID": "1"},
        )
        for number in range(len(voxels))
    ]
    data.PixelData = voxels.tobytes()
    data.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


def _item(values: dict[str, Any]) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _group(**sequences: dict[str, Any]) -> Dataset:
    return _item({name: [_item(values)] for name, values in sequences.items()})


def _in_dicom(data: bytes, random: Random) -> bytes:
    """Replace or remove an element, in any sequence."""
    dataset: Any = pydicom.dcmread(io.BytesIO(data))
    inner = dataset
    while True:
        element = list(inner)[int(random.integers(len(inner)))]
        if element.VR != "SQ" or not element.value or random.random() < 0.2:
            break
        inner = element.value[int(random.integers(len(element.value)))]
    values: tuple[Any, ...] = (None, "", "x", "-1", "0", "1e300", "9" * 16, ["1", "2"], ["0"] * 6, 0, 65535, b"\0\1")
    chosen = values[int(random.integers(len(values)))]
    if chosen is None:
        del inner[element.tag]
    else:
        element._value = chosen if element.VR != "SQ" else pydicom.Sequence()
    buffer = io.BytesIO()
    try:
        dataset.save_as(buffer)
    except Exception:  # pydicom cannot write every value
        return mutate_bytes(data, random, 600)
    return buffer.getvalue()


def _image(name: str, colour: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = (smooth((20, 24), SAMPLE_SEED) // 8 + 128).astype(np.uint8)
        Image.fromarray(np.stack([values] * 3, -1) if colour else values).save(folder / name)
        return folder / name

    return make


def _text(name: str, text: str, volumes: tuple[str, ...] = ()) -> Callable[[Path], Path]:
    """Make a text file that names volumes in its folder."""

    def make(folder: Path) -> Path:
        for volume in volumes:
            (folder / volume).parent.mkdir(parents=True, exist_ok=True)
            _nifti(volume)(folder)
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
VOLUMES = ("v/a.nii", "v/b.nii", "v/c.nii")
CASE = ("imagesTr/x_0000.nii", "imagesTr/x_0001.nii", "labelsTr/x.nii")
CHANNEL = Channel("image", "window", -1000.0, 1000.0, "HU")
DESCRIPTION = DataDescription(
    (32, 32, 32), "RAS", "axial", tuple(map(tuple, AFFINE.tolist())), (CHANNEL,), source_channels=(CHANNEL,)
)
SCALES = {"calibration": {"scale": 1.5}, "steps": 10}


def _small_config() -> Any:
    return make_config("pix2pix", size=(32, 32, 32), width=4, levels=2, critic_width=4, critic_layers=2)


def _config(folder: Path) -> Path:
    (folder / "a.yaml").write_text(yaml.safe_dump(to_dict(_small_config()), sort_keys=False), encoding="utf-8")
    return folder / "a.yaml"


def _store(folder: Path) -> Path:
    source = folder / "in"
    (source / "v").mkdir(parents=True)
    for number, name in enumerate(VOLUMES):
        nib.save(nib.Nifti1Image(smooth((12, 12, 12), number), AFFINE), source / name)
    nib.save(nib.Nifti1Image((smooth((12, 12, 12)) > 0).astype(np.uint8), AFFINE), source / "v/s.nii")
    (source / "cases.csv").write_text("id,t1,seg\na,v/a.nii,v/s.nii\nb,v/b.nii,v/s.nii\n")
    settings = PrepareConfig(size=(32, 32, 32), label_names=("no", "yes"), validation=0, workers=1)
    prepare(source / "cases.csv", folder / "a.h5", settings, progress=False)
    return folder / "a.h5"


def _read_store(path: Path) -> np.ndarray:
    store = Store(path)
    try:
        store.description()
        parts = [store.volume(i).numpy() for i in range(min(len(store), 2))]
        parts += [store.low(i).numpy() for i in range(min(len(store), 2))]
        return np.concatenate([part.ravel() for part in parts])
    finally:
        store.close()


def _in_store(data: bytes, random: Random) -> bytes:
    """Replace a setting, or a data set by one of another shape, type or content."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        if random.random() < 0.5:
            settings = replace_value(json.loads(bytes(file.attrs["settings"])), random)
            file.attrs["settings"] = np.bytes_(json.dumps(settings).encode())
            return _closed(file, buffer)
        name = list(file)[int(random.integers(len(file)))]
        values = file[name][:]
        del file[name]
        change = int(random.integers(5))
        if change == 1:
            file[name] = values[:-1]
        elif change == 2:
            file.create_dataset(name, (2**20,) * 3, "f8", chunks=(1, 64, 64))  # declared, not allocated
        elif change == 3:
            file[name] = np.array([1.5, np.nan])
        elif change == 4 and values.dtype.kind in "iuf":
            file[name] = np.full_like(values, np.iinfo(values.dtype).min if values.dtype.kind in "iu" else np.inf)
        return _closed(file, buffer)


def _closed(file: h5py.File, buffer: io.BytesIO) -> bytes:
    file.flush()
    file.close()
    return buffer.getvalue()


def _checkpoint(folder: Path) -> Path:
    config = _small_config()
    networks = make_networks(config, 0)
    states = {name: networks[name].state_dict() for name in networks.names()}
    path = path_of(folder, 3)
    path.parent.mkdir(parents=True)
    checkpoint.save(Checkpoint(config, DESCRIPTION, 3, states, ema={"g": states["g"]}), path)
    return path


def _read_checkpoint(path: Path) -> np.ndarray:
    loaded = checkpoint.load_translation(path)
    state = loaded.networks["g"].state_dict()
    return np.concatenate([np.zeros(0), *(x.flatten().float().numpy() for x in state.values())])


def _in_tensors(data: bytes, random: Random) -> bytes:
    """Replace a value of a nested file of tensors, or mutate its pickle, with checksums that fit."""
    if random.random() < 0.5:
        buffer = io.BytesIO()
        torch.save(replace_value(torch.load(io.BytesIO(data), weights_only=True), random), buffer)
        return buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            inner = source.read(name)
            target.writestr(name, mutate_bytes(inner, random, 4096) if name.endswith("data.pkl") else inner)
    return buffer.getvalue()


def _features(folder: Path) -> Path:
    torch.manual_seed(0)
    state = FeatureNet().state_dict()
    values = {"format": FORMAT, "store": "s", "channel": "image", "state": state, "sha256": state_hash(state)}
    torch.save(values, folder / "a.features.pt")
    return folder / "a.features.pt"


def _read_features(path: Path) -> np.ndarray:
    state = read_features(path, "s", "image").state_dict()
    return torch.cat([x.flatten().float() for x in state.values()]).numpy()


def _weights(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(8, 8).state_dict(), folder / "a.pth")
    return folder / "a.pth"


def _read_weights(path: Path) -> np.ndarray:
    network = torch.nn.Linear(8, 8)
    load_exactly(network, read_weights(path, "a layer"), path, "a layer")
    return network.weight.detach().numpy()


KINDS: dict[str, Kind] = {
    "nifti": Kind(_nifti("a.nii"), _volume, 352),
    "nifti-big-endian": Kind(_nifti("a.nii", order=">"), _volume, 352),
    "nifti2": Kind(_nifti("a.nii", nib.Nifti2Image), _volume, 544),
    "nifti-gz": Kind(_nifti("a.nii.gz"), _volume, 64, _in_gzip(352), checked=True),
    "nifti2-gz": Kind(_nifti("a.nii.gz", nib.Nifti2Image), _volume, 64, _in_gzip(544), checked=True),
    "nrrd": Kind(_itk("a.nrrd", False), _volume, 300, _in_nrrd),
    "nrrd-gzip": Kind(_itk("a.nrrd", True), _volume, 300, _in_nrrd),
    "nrrd-bzip2": Kind(_bzip2_nrrd, _volume, 300, _in_nrrd),
    "nhdr": Kind(_itk("a.nhdr", False), _volume, 400, _in_nrrd, is_text=True),
    "mha": Kind(_itk("a.mha", False), _volume, 300, _in_meta),
    "mha-zlib": Kind(_itk("a.mha", True), _volume, 300, _in_meta),
    "mhd": Kind(_itk("a.mhd", True), _volume, 400, is_text=True),
    "mhd-voxels": Kind(_itk("a.mhd", True, "a.zraw"), lambda path: _volume(path.with_suffix(".mhd")), checked=True),
    "mgh": Kind(_mgh("a.mgh"), _volume, 284),
    "mgz": Kind(_mgh("a.mgz"), _volume, 64, _in_gzip(284), checked=True),
    "npy": Kind(_npy, _volume, 128),
    "dicom-series": Kind(_series(False), _folder, 1200, _in_dicom),
    "dicom-series-rle": Kind(_series(True), _folder, 1200, _in_dicom),
    "dicom-multiframe": Kind(_multiframe, _volume, 2000, _in_dicom),
    "png": Kind(_image("a.png"), _volume, 64, checked=True),
    "png-rgb": Kind(_image("a.png", True), _frames, 64, checked=True),
    "tiff": Kind(_image("a.tif"), _volume, 300),
    "jpeg": Kind(_image("a.jpg"), _volume, 600),
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
    "config": Kind(_config, lambda path: str(load_config(path)), 3000, _in_yaml, is_text=True),
    "store": Kind(_store, _read_store, 4096, _in_store, checked=True),
    "checkpoint": Kind(_checkpoint, _read_checkpoint, 4096, _in_tensors, checked=True),
    "features": Kind(_features, _read_features, 4096, _in_tensors, checked=True),
    "weights": Kind(_weights, _read_weights, 1000, _in_tensors, checked=True),
}
