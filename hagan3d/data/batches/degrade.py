"""Simulated acquisitions: a volume as an undersampled, moved, noisy, low-dose or thick-sliced scan would have it.

A pure function of volume, settings and seed. Magnitude images are taken as real and positive with background at -1, so
that their k-space is the Fourier transform of (x + 1) / 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import DegradeConfig
from hagan3d.ops.warp import affine_matrix, inverse_matrix, warp

WATER_PER_MM = 0.019  # linear attenuation at about 70 keV
MOST_ATTENUATION = 8.0  # of a ray: fewer photons than e^-8 are not counted apart
GAUSSIAN_WIDTH = 0.18  # of the sides of k-space: standard deviation of the density of sampled points


@dataclass(frozen=True)
class Physics:
    """What a simulation must know of a volume besides its voxels."""

    lo: float = -1024.0
    """Value of x = -1 in file units."""
    hi: float = 600.0
    """Value of x = 1 in file units."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Millimetres along D, H, W."""


PLAIN = Physics()


def degrade(volume: Tensor, config: DegradeConfig, seed: int, physics: Physics = PLAIN) -> Tensor:
    """Spoil a volume as an acquisition would; equal arguments give equal results.

    Args:
        volume: Volume ``[D, H, W]`` in [-1, 1], on the CPU.
        config: What is done, and how much.
        seed: From 0 up.
        physics: Units and spacing, for `low-dose` and `misalign`.

    Returns:
        The spoilt volume ``[D, H, W]``, float32 in [-1, 1].
    """
    random = np.random.default_rng(seed)
    x = volume.numpy().astype(np.float32)
    made = _KINDS[config.kind](x, config, random, physics)
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32)).clamp_(-1, 1)


def misalignment(config: DegradeConfig, seed: int) -> Tensor:
    """Return the 12 numbers (`hagan3d.ops.warp`) that bring a misaligned volume back; ``seed`` as for `degrade`."""
    return _misalignment(config, np.random.default_rng(seed))


def _misalignment(config: DegradeConfig, random: np.random.Generator) -> Tensor:
    largest = [config.misalign_deg, config.misalign_mm, config.misalign_percent, config.misalign_shear_deg]
    return torch.from_numpy(random.uniform(-1, 1, 12) * np.repeat(largest, 3)).float()


def _misalign(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    back = affine_matrix(_misalignment(config, random)[None])
    return warp(torch.from_numpy(x)[None, None], inverse_matrix(back), physics.spacing)[0, 0].numpy()


def sampled(shape: tuple[int, ...], config: DegradeConfig, random: np.random.Generator) -> np.ndarray:
    """Choose the k-space points that an undersampled acquisition keeps, bool ``[D, H, 1]`` or ``[1, H, 1]``.

    Frequency 0 stands in the middle. Just as many points are kept as the acceleration says: those at the centre, and
    others drawn without replacement, the more likely the nearer (cartesian: as 1 - r, gaussian: as a Gaussian of r).
    """
    sides = (1, shape[1]) if config.mask == "cartesian" else shape[:2]
    at = [np.arange(side) - side // 2 for side in sides]
    radius = np.hypot(*np.meshgrid(*(a / max(1, side) for a, side in zip(at, sides, strict=True)), indexing="ij"))
    density = np.exp(-((radius / GAUSSIAN_WIDTH) ** 2) / 2) if config.mask == "gaussian" else 1 - 1.6 * radius
    count = max(1, round(radius.size / config.acceleration))
    nearest = np.argsort(radius, axis=None, kind="stable")
    always, others = np.split(nearest, [min(count, max(1, round(config.centre * radius.size)))])
    weights = density.ravel()[others]
    kept = np.zeros(radius.size, bool)
    kept[always] = True
    if count > always.size:
        kept[random.choice(others, count - always.size, replace=False, p=weights / weights.sum())] = True
    return kept.reshape(*sides, 1)


def _k_space(x: np.ndarray) -> np.ndarray:
    """Fourier transform of a magnitude image, frequency 0 in the middle."""
    return scipy.fft.fftshift(scipy.fft.fftn((x + 1) / 2))


def _magnitude(k: np.ndarray) -> np.ndarray:
    return 2 * np.abs(scipy.fft.ifftn(scipy.fft.ifftshift(k))) - 1


def _none(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    return x


def _undersample(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    return _magnitude(_k_space(x) * sampled(x.shape, config, random))


def _motion(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Gather k-space plane by plane along H; the head moves between planes, and rests while the central ones come."""
    lines = x.shape[1]
    rest = max(2, round(config.centre * lines))
    middle = np.abs(np.arange(lines) - lines // 2) < rest
    changes = np.sort(random.choice(np.arange(1, lines), config.moves, replace=False))
    pose = np.searchsorted(changes, np.arange(lines), side="right")
    k = _k_space(x)
    for number in np.unique(pose[~middle]):
        here = (pose == number) & ~middle
        angles = random.uniform(-config.rotate_deg, config.rotate_deg, 3)
        shift = random.uniform(-config.shift, config.shift, 3) * x.shape
        k[:, here] = _k_space(_moved(x, angles, shift))[:, here]
    return _magnitude(k)


def _moved(x: np.ndarray, angles: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Turn a volume about its centre (degrees) and shift it (voxels); its faces are repeated outwards."""
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    centre = (np.array(x.shape) - 1) / 2
    return affine_transform(x, matrix, centre - matrix @ (centre + shift), order=1, mode="nearest")


def _noise(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Rician: magnitude of a signal with Gaussian noise in both its channels."""
    from monai.transforms import RandRicianNoise

    rician = RandRicianNoise(prob=1.0, mean=0.0, std=config.noise, sample_std=False)
    rician.set_random_state(seed=int(random.integers(2**32)))
    return np.asarray(rician(x + 1)) - 1


def _gibbs(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    from monai.transforms import GibbsNoise

    return np.abs(np.asarray(GibbsNoise(config.gibbs)((x + 1)[None])[0])) - 1


def _low_dose(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Noise of fewer photons: its variance grows as exp(attenuation) along a voxel's rays, its spectrum as |f|.

    Photons are Poisson, so a ray of attenuation p has log counts of variance exp(p) / dose; filtered backprojection
    averages over the rays (here those along H and W) and weighs frequencies by the ramp, here with a Hann window.
    """
    half = (physics.hi - physics.lo) / 2
    per_voxel = np.clip(((x + 1) * half + physics.lo + 1000) / 1000, 0, None) * WATER_PER_MM
    rays = [np.clip(per_voxel.sum(a, keepdims=True) * physics.spacing[a], 0, MOST_ATTENUATION) for a in (1, 2)]
    variance = np.broadcast_to((np.exp(rays[0]) + np.exp(rays[1])) / 2, x.shape)
    local = np.sqrt(variance / variance.mean())
    added = config.noise_hu * math.sqrt(1 / config.dose - 1) * local * _ramp_noise(x.shape, random)
    return x + (added / half).astype(np.float32)


def _ramp_noise(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Noise of variance 1, independent between slices, whose amplitude in a slice is |f| up to a Hann window."""
    rows, columns = scipy.fft.fftfreq(shape[1])[:, None], scipy.fft.fftfreq(shape[2])[None]
    f = np.hypot(rows, columns)
    shape_of_spectrum = np.sqrt(f) * np.cos(np.pi * np.clip(f, 0, 0.5)) ** 2
    white = scipy.fft.fft2(random.standard_normal(shape))
    noise = scipy.fft.ifft2(white * shape_of_spectrum).real
    return noise / math.sqrt((shape_of_spectrum**2).mean())


def _thick_slices(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Means of neighbouring slices along D, interpolated back to the thin ones."""
    depth, thick = x.shape[0], config.thickness
    filled = np.pad(x, ((0, -depth % thick), (0, 0), (0, 0)), mode="edge")
    means = torch.from_numpy(filled.reshape(-1, thick, *x.shape[1:]).mean(1))
    back = F.interpolate(means[None, None], scale_factor=(thick, 1, 1), mode="trilinear", align_corners=False)
    return back[0, 0, :depth].numpy()


_KINDS: dict[str, Callable[[np.ndarray, DegradeConfig, np.random.Generator, Physics], np.ndarray]] = {
    "none": _none,
    "undersample": _undersample,
    "motion": _motion,
    "noise": _noise,
    "gibbs": _gibbs,
    "low-dose": _low_dose,
    "thick-slices": _thick_slices,
    "misalign": _misalign,
}
