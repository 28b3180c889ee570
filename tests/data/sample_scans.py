"""Small valid files of scans, how they are read, and how their inner parts are mutated."""

import bz2
import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from hagan3d.data.io.volumes import VolumeFile, read_channels, read_volume
from tests.data.conftest import smooth, write_series
from tests.data.mutations import Random, mutate_bytes, mutate_text

SHAPE = (12, 10, 8)
AFFINE = np.array([[2.0, 0, 0, -5], [0, 2.2, 0, -8], [0, 0, 2.5, -9], [0, 0, 0, 1]])
"""Of the volumes."""
SAMPLE_SEED = 3
VOLUMES = ("v/a.nii", "v/b.nii", "v/c.nii")


def read_array(path: Path) -> np.ndarray:
    return read_volume(path).array


def read_frames(path: Path) -> np.ndarray:
    return np.stack([channel.array for channel in read_channels(VolumeFile(path, "a", frames=3))])


def read_folder(path: Path) -> np.ndarray:
    return read_volume(path.parent).array


def make_nifti(name: str, version: type = nib.Nifti1Image, order: str = "<") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = version(smooth(SHAPE, SAMPLE_SEED), AFFINE, version.header_class(endianness=order))
        image.set_qform(AFFINE, 1)
        data = image.to_bytes()
        (folder / name).write_bytes(gzip.compress(data, 6, mtime=0) if name.endswith(".gz") else data)
        return folder / name

    return make


def in_gzip(header: int) -> Callable[[bytes, Random], bytes]:
    return lambda data, random: gzip.compress(mutate_bytes(gzip.decompress(data), random, header), 1)


def make_itk(name: str, packed: bool, voxels: str = "") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = sitk.GetImageFromArray(smooth(SHAPE, SAMPLE_SEED).transpose(2, 1, 0))
        image.SetSpacing((2.0, 2.2, 2.5))
        image.SetOrigin((5.0, 8.0, -9.0))
        sitk.WriteImage(image, folder / name, useCompression=packed)
        return folder / (voxels or name)

    return make


def in_nrrd(data: bytes, random: Random) -> bytes:
    """Mutate the words of the header, or what was packed."""
    head, _, body = data.partition(b"\n\n")
    if random.random() < 0.7:
        return mutate_text(head, random) + b"\n\n" + body
    if b"encoding: gzip" in head:
        return head + b"\n\n" + gzip.compress(mutate_bytes(gzip.decompress(body), random, 64), 1)
    if b"encoding: bzip2" in head:
        return head + b"\n\n" + bz2.compress(mutate_bytes(bz2.decompress(body), random, 64))
    return head + b"\n\n" + mutate_bytes(body, random, 64)


def in_meta(data: bytes, random: Random) -> bytes:
    """Mutate the words of the header, or what was packed."""
    head, mark, body = data.partition(b"ElementDataFile = LOCAL\n")
    if not mark or random.random() < 0.7:
        return mutate_text(head + mark, random) + body
    packed = b"CompressedData = True" in head
    inner = mutate_bytes(zlib.decompress(body) if packed else body, random, 64)
    return head + mark + (zlib.compress(inner, 1) if packed else inner)


def make_bzip2_nrrd(folder: Path) -> Path:
    text = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 10 8\n"
    text += "space directions: (2,0,0) (0,2.2,0) (0,0,2.5)\nspace origin: (5,8,-9)\nendian: little\nencoding: bzip2\n\n"
    path = folder / "a.nrrd"
    path.write_bytes(text.encode() + bz2.compress(smooth(SHAPE, SAMPLE_SEED).tobytes("F")))
    return path


def make_mgh(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = nib.MGHImage(smooth(SHAPE, SAMPLE_SEED), AFFINE)
        image.to_filename(folder / name)
        return folder / name

    return make


def make_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", smooth(SHAPE, SAMPLE_SEED))
    return folder / "a.npy"


def make_series(packed: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_series(folder, smooth((4, 10, 12), SAMPLE_SEED), uid="1.2.3.4", packed=packed)
        return folder / "im002.dcm"

    return make


def make_multiframe(folder: Path) -> Path:
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


def in_dicom(data: bytes, random: Random) -> bytes:
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


def make_image(name: str, colour: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        values = (smooth((20, 24), SAMPLE_SEED) // 8 + 128).astype(np.uint8)
        Image.fromarray(np.stack([values] * 3, -1) if colour else values).save(folder / name)
        return folder / name

    return make
