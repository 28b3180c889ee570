"""Stain-style transfer: networks see grey levels alone, images are their own sources, from RGB files to RGB volumes."""

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d import cli, evaluate, train, translate
from hagan3d import prepare as prepare_door
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.run_settings import load_config
from tests.helpers import make_config
from tests.methods.small import small_config

RGB = {"source_channels": 3, "target_channels": 3, "grey_source": True}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of discs, red in `a` and blue in `b`, and a store of those in `a`."""
    folder = tmp_path_factory.mktemp("stains")
    at = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1)
    for name, colour in (("a", (200, 40, 90)), ("b", (40, 60, 220))):
        (folder / name).mkdir()
        for number in range(4):
            pixels = np.full((32, 32, 3), 250, np.uint8)
            pixels[np.linalg.norm(at - 16, axis=-1) < 6 + number] = colour
            Image.fromarray(pixels).save(folder / name / f"p{number}.png")
    words = f"--input {folder}/a --output {folder}/s.h5 --channels 4d --size 1 32 32 --workers 1 --validation 0.25"
    assert cli.run(prepare_door.main, [*words.split(), *"--intensity window --window 0 255".split()]) == 0
    return folder


def test_networks_see_the_luma_of_three_channels_and_the_mean_of_others():
    nets, x = make_networks(small_config("medgan", **RGB)), torch.eye(3).view(3, 3, 1, 1, 1)
    torch.testing.assert_close(nets.seen(x).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    two = make_networks(small_config("medgan", grey_source=True, source_channels=2))
    torch.testing.assert_close(two.seen(torch.tensor([0.2, 0.6]).view(1, 2, 1, 1, 1)).item(), 0.4)
    plain = make_networks(small_config("medgan", source_channels=3))
    assert plain.seen(x) is x


def test_a_translation_does_not_depend_on_colours():
    torch.manual_seed(0)
    nets = make_networks(small_config("medgan", **RGB))
    x = torch.rand(1, 3, 16, 16, 16) - 0.5
    other = x + 0.2 * torch.tensor([1 / 0.299, -1 / 0.587, 0.0]).view(1, 3, 1, 1, 1)  # of the same luma
    with torch.no_grad():
        one, two = (nets.translate(y).mean for y in (x, other))
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
        assert (nets.translate(-x).mean - one).abs().max() > 0.01 and one.shape == (1, 3, 16, 16, 16)


def test_images_are_their_own_sources_with_all_channels(images):
    data = {"store": str(images / "s.h5"), "size": [1, 32, 32]}
    config = load_config(
        "stain_256_slices", data=data, train={"batch_size": 2}, medgan={"levels": 2, "critic_layers": 2}
    )
    method, store = make_method(config), Store(images / "s.h5")
    method.check_store(store)
    batch = method.batches(store, 2).batch(0)
    assert batch.source.shape == (2, 3, 1, 32, 32) and torch.equal(batch.source, batch.target)
    assert not torch.equal(batch.source[:, 0], batch.source[:, 2])


@pytest.mark.slow
def test_from_images_of_one_institute_to_those_of_another(images, tmp_path):
    run = ["--config", "stain_256_slices", "--data.store", str(images / "s.h5"), "--out", str(tmp_path / "run")]
    small = "--data.size 1 32 32 --medgan.width 8 --medgan.levels 3 --medgan.critic_width 4 --medgan.critic_layers 1"
    rest = "--train.steps 150 --train.batch_size 3 --train.lr_g 2e-3 --train.device cpu --train.ema 0"
    assert cli.run(train.main, [*run, *small.split(), *rest.split()]) == 0
    words = [str(tmp_path / "run"), "--input", str(images / "b"), "--out", str(tmp_path / "b"), "--device", "cpu"]
    assert cli.run(translate.main, words) == 0
    made = np.stack([nibabel.load(path).get_fdata() for path in sorted((tmp_path / "b").glob("p2_*.nii.gz"))])
    red, _, blue = made.reshape(3, 32, 32)[:, 16, 16]
    assert red > blue + 50, "a blue disc becomes red"
    words = [str(tmp_path / "run"), "--store", str(images / "s.h5"), "--out", str(tmp_path / "measured")]
    assert cli.run(evaluate.main, [*words, "--device", "cpu"]) == 0
    text = (tmp_path / "measured" / "metrics.json").read_text()
    assert "Infinity" not in text and "NaN" not in text, "a copy is not compared with its target"


@pytest.mark.parametrize(
    "settings", [{"residual": True}, {"window": "hierarchical", "subvolume_depth": 16, "critic_layers": 1}]
)
def test_a_grey_level_of_more_than_one_image_is_refused(settings):
    with pytest.raises(InputError, match="takes the grey level of one image"):
        make_config("medgan", grey_source=True, **settings)
