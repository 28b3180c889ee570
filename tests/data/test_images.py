"""Images in grey levels and RGB: single axial slices, stores of them, and what is refused in one line."""

import io
import struct
import zlib

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d.config import AugmentConfig, DegradeConfig, WindowDataConfig
from hagan3d.data.batches.degrade import degrade
from hagan3d.data.batches.transforms import augment
from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import VolumeFile, num_frames, read_channels, read_raw, read_volume
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.metrics.ssim import ssim_map

SETTINGS = {"intensity": "window", "window": (0.0, 255.0), "validation": 0.0, "workers": 1}


def pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_grey_levels_are_one_slice_in_file_units(tmp_path, ending):
    array = np.repeat(np.repeat(pixels((4, 6)), 8, 0), 8, 1)
    Image.fromarray(array).save(tmp_path / f"a.{ending}", quality=100)
    volume = read_volume(tmp_path / f"a.{ending}")
    assert volume.array.shape == (1, 32, 48) and volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], array, atol=6 if ending == "jpg" else 0)
    assert nibabel.aff2axcodes(volume.affine) == ("S", "P", "L")


def test_sixteen_bits_are_kept(tmp_path):
    array = np.arange(64 * 32, dtype=np.uint16).reshape(64, 32) * 31
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], array)


def test_rgb_has_three_channels(tmp_path):
    array = pixels((40, 50, 3))
    Image.fromarray(array).save(tmp_path / "a.png")
    channels = [volume.array[0] for volume in read_channels(VolumeFile(tmp_path / "a.png", "a", frames=3))]
    np.testing.assert_array_equal(np.stack(channels, -1), array)
    with pytest.raises(InputError, match="use --channels 4d"):
        read_volume(tmp_path / "a.png")


def png(path, array, depth, colours=0):
    """Write a PNG of any number of bits per value, which Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = (array.reshape(len(array), -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(array), -1).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colours, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b""))
    return path


def tiff(path, array, shown=1, kind=1, values=1):
    """Write a TIFF whose values are shown inverted (0) or not (1), unsigned (1), signed (2) or float (3)."""
    data, (rows, columns), bits = array.tobytes(), array.shape[:2], array.dtype.itemsize * 8
    tags = {256: columns, 257: rows, 258: bits, 259: 1, 262: shown, 273: 8, 277: values, 278: rows, 279: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in (tags | {339: kind}).items())
    start = struct.pack("<4sI", b"II*\0", 8 + len(data)) + data
    path.write_bytes(start + struct.pack("<H", len(tags) + 1) + fields + bytes(4))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_of_few_bits_are_kept(tmp_path, bits):
    array = pixels((40, 48)).astype(int) % 2**bits
    np.testing.assert_array_equal(read_volume(png(tmp_path / "a.png", array, bits)).array[0], array)


@pytest.mark.parametrize(
    ("name", "kind"), [("u1", 1), ("u2", 1), ("u4", 1), ("i1", 2), ("i2", 2), ("i4", 2), ("f4", 3)]
)
def test_values_of_a_tiff_are_those_stored_however_they_are_shown(tmp_path, name, kind):
    array = (pixels((40, 48)).astype(np.float64) - (128 if kind > 1 else 0)).astype(f"<{name}")
    array = array * np.array(2**24 if name == "u4" else 1, array.dtype)
    for shown in (0, 1) if name in ("u1", "u2", "f4") else (1,):
        volume = read_volume(tiff(tmp_path / f"{shown}.tif", array, shown, kind))
        np.testing.assert_array_equal(volume.array[0], array.astype(np.float32))
        assert len(volume.remarks) == 1 - shown and all("WhiteIsZero" in remark for remark in volume.remarks)


def test_bits_and_channels_that_would_be_dropped_are_refused(tmp_path):
    colours = pixels((40, 48, 3)).astype(np.uint16) * 200
    with pytest.raises(InputError, match="pixels of type RGB;16B, which are not read"):
        num_frames(png(tmp_path / "a.png", colours, 16, colours=2))
    with pytest.raises(InputError, match="a TIFF whose pixels are not read"):
        read_volume(tiff(tmp_path / "a.tif", pixels((40, 48)) / 7, kind=3))


def test_a_turned_photograph_is_turned_back_and_that_is_a_remark(tmp_path):
    image = Image.fromarray(np.repeat(np.arange(32, dtype=np.uint8)[:, None] * 8, 64, 1))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    volume = read_volume(tmp_path / "a.jpg")
    assert volume.array[0, 0, 0] > 200 and "EXIF" in volume.remarks[0]


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


GREY = Image.fromarray(pixels((64, 64)))
BAD = {
    "alpha.png": (encoded(Image.fromarray(pixels((32, 32, 4)), "RGBA"), format="PNG"), r"alpha channel \(RGBA\)"),
    "palette.png": (encoded(GREY.convert("P"), format="PNG"), "pixels of type P"),
    "print.tif": (encoded(GREY.convert("CMYK"), format="TIFF"), "pixels of type CMYK"),
    "pages.tif": (encoded(GREY, format="TIFF", save_all=True, append_images=[GREY]), "has 2 pages"),
    "cut.png": (encoded(GREY, format="PNG")[:2000], "truncated or damaged"),
    "cut.jpg": (encoded(GREY, format="JPEG")[:1500], "truncated or damaged"),
    "text.png": (b"hello", "not an image"),
    "blank.png": (encoded(Image.new("L", (32, 32), 7), format="PNG"), "every voxel is 7"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_one_line(tmp_path, name):
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_images_next_to_volumes_are_pictures_of_them(tmp_path):
    (tmp_path / "scans").mkdir()
    GREY.save(tmp_path / "scans" / "sheet.png")
    assert [file.id for file in find_volumes(tmp_path)] == ["sheet"]
    nibabel.save(nibabel.Nifti1Image(pixels((8, 8, 8)), np.eye(4)), tmp_path / "a.nii.gz")
    assert [file.id for file in find_volumes(tmp_path)] == ["a"]
    assert [file.id for file in find_volumes(tmp_path / "scans" / "sheet.png")] == ["sheet"]


def test_a_store_of_images_of_several_sizes(tmp_path):
    for k, shape in enumerate([(64, 32), (128, 64), (64, 32)]):
        Image.fromarray(pixels(shape, k)).save(tmp_path / f"i{k}.png")
    result = prepare([tmp_path], tmp_path / "s.h5", PrepareConfig(size=(1, 64, 32), **SETTINGS), progress=False)
    assert result.remarks == ("images of 2 sizes, from 64 x 32 to 128 x 64 pixels, are resized to 64 x 32",)
    store = Store(tmp_path / "s.h5")
    assert store.size == (1, 64, 32) and store.low(0).shape == (1, 1, 16, 8)
    stored = (store.volume(0)[0, 0].numpy() + 1) * 127.5
    # RAS: rows lead to the front, columns to the right
    np.testing.assert_allclose(stored, read_raw(tmp_path / "i0.png").array[0, ::-1, ::-1], atol=0.01)
    again = prepare([tmp_path], tmp_path / "s.h5", PrepareConfig(size=(1, 64, 32), **SETTINGS), progress=False)
    assert again.done_before


def test_a_store_of_rgb_images(tmp_path):
    for k in range(2):
        Image.fromarray(pixels((32, 64, 3), k)).save(tmp_path / f"i{k}.png")
    names = ("red", "green", "blue")
    settings = PrepareConfig(size=(1, 32, 64), channels="4d", channel_names=names, **SETTINGS)
    prepare([tmp_path], tmp_path / "s.h5", settings, progress=False)
    store = Store(tmp_path / "s.h5")
    assert store.channels == names and store.volume(0).shape == (3, 1, 32, 64)
    assert not torch.equal(store.channel(0, 0), store.channel(0, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (32, 32, 32)}, r"has 1 x 64 x 64 voxels.*images need --size 1 H W"),
        ({"size": (1, 64, 64), "axis": "coronal"}, r"taken as an axial slice, but the axis is coronal"),
    ],
)
def test_images_do_not_become_volumes(tmp_path, settings, message):
    GREY.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        prepare([tmp_path], tmp_path / "s.h5", PrepareConfig(**settings, **SETTINGS), progress=False)
    assert not (tmp_path / "s.h5").exists()


def test_volumes_are_not_squeezed_to_a_slice(tmp_path):
    nibabel.save(nibabel.Nifti1Image(pixels((8, 8, 8)), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"has 8 x 8 x 8 voxels.*train on slices with data.slices"):
        prepare([tmp_path], tmp_path / "s.h5", PrepareConfig(size=(1, 32, 32), **SETTINGS), progress=False)


def test_a_single_slice_is_augmented_within_its_plane():
    """A disc stays a disc of the same size: a rotation out of the plane would shorten it."""
    rows, columns = np.mgrid[:64, :64] - 31.5
    disc = torch.from_numpy(np.where(rows**2 + columns**2 < 400, 1.0, -1.0)[None].astype(np.float32))
    turned = augment(disc, AugmentConfig(rotate_deg=60), seed=3)
    assert turned.shape == disc.shape
    assert float((turned > 0).sum() / (disc > 0).sum()) == pytest.approx(1, abs=0.01)
    bar = torch.from_numpy(np.where(abs(rows) < 4, 1.0, -1.0)[None].astype(np.float32))
    assert float((augment(bar, AugmentConfig(rotate_deg=60), seed=3) - bar).abs().mean()) > 0.01


@pytest.mark.parametrize("kind", ["undersample", "motion", "noise", "gibbs", "low-dose"])
def test_acquisitions_of_a_single_slice_are_simulated(kind):
    rows, columns = np.mgrid[:32, :32] - 15.5
    disc = torch.from_numpy(np.where(rows**2 + columns**2 < 100, 0.5, -1.0)[None].astype(np.float32))
    degraded = degrade(disc, DegradeConfig(kind=kind), seed=1)
    assert degraded.shape == disc.shape and torch.isfinite(degraded).all()
    assert not torch.equal(degraded, disc)
    assert float((degraded - disc).abs().mean()) < 0.5


def test_thick_slices_of_a_single_slice_are_refused():
    with pytest.raises(InputError, match="averages slices, but the volumes have one"):
        WindowDataConfig(size=(1, 32, 32), degrade=DegradeConfig(kind="thick-slices"))
    assert WindowDataConfig(size=(1, 32, 32), slices="axial", degrade=DegradeConfig(kind="thick-slices")).depth == 1


def test_ssim_of_a_single_slice_is_that_of_a_volume_of_equal_slices():
    random = torch.Generator().manual_seed(0)
    x, y = (torch.rand(1, 1, 20, 24, generator=random) for _ in range(2))
    deep = ssim_map(x.expand(1, 11, 20, 24), y.expand(1, 11, 20, 24), 1.0)
    torch.testing.assert_close(ssim_map(x, y, 1.0), deep, rtol=1e-4, atol=1e-5)
