"""Simulated acquisitions: undersampled k-space, motion, noise, Gibbs ringing, low dose, thick slices, misalignment.

A pure function of volume, settings and seed. Magnitude images are treated as real and non-negative with background at
-1, so that k-space is the Fourier transform of (x + 1) / 2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import DegradeConfig, is_slice
from hagan3d.ops.warp import affine_matrix, inverse_matrix, warp

WATER_PER_MM = 0.019  # linear attenuation coefficient of water at about 70 keV
MAX_ATTENUATION = 8.0  # of a ray: a photon fraction below e^-8 is treated as e^-8
GAUSSIAN_WIDTH = 0.18  # standard deviation of the sampling density, as a fraction of the sides of k-space
DENSITY_SLOPE = 1.6  # of the linear sampling density 1 - 1.6 r, r up to 0.5 along an axis


@dataclass(frozen=True)
class Physics:
    """Units and spacing of a volume, for simulations that depend on them."""

    lo: float = -1024.0
    """Value of x = -1 in file units."""
    hi: float = 600.0
    """Value of x = 1 in file units."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Millimetres along D, H, W."""
    axis: int = 0
    """Axis from the feet to the head, which the rays of a CT are perpendicular to."""


DEFAULT_PHYSICS = Physics()


def degrade(volume: Tensor, config: DegradeConfig, seed: int, physics: Physics = DEFAULT_PHYSICS) -> Tensor:
    """Simulate an acquisition of a volume; equal arguments give equal results.

    Args:
        volume: Volume ``[D, H, W]`` in [-1, 1], on the CPU.
        config: Kind and strength of the degradation.
        seed: Random seed, at least 0.
        physics: Units and spacing, for `low-dose` and `misalign`.

    Returns:
        The degraded volume ``[D, H, W]``, float32 in [-1, 1].
    """
    random = np.random.default_rng(seed)
    x = volume.numpy().astype(np.float32)
    degraded = _KINDS[config.kind](x, config, random, physics)
    return torch.from_numpy(np.ascontiguousarray(degraded, dtype=np.float32)).clamp_(-1, 1)


def misalignment(config: DegradeConfig, seed: int) -> Tensor:
    """Return the 12 affine parameters (`hagan3d.ops.warp`) that register the result of `degrade` with this seed."""
    return _misalignment(config, np.random.default_rng(seed))


def _misalignment(config: DegradeConfig, random: np.random.Generator) -> Tensor:
    largest = [config.misalign_deg, config.misalign_mm, config.misalign_percent, config.misalign_shear_deg]
    return torch.from_numpy(random.uniform(-1, 1, 12) * np.repeat(largest, 3)).float()


def _misalign(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    back = affine_matrix(_misalignment(config, random)[None])
    return warp(torch.from_numpy(x)[None, None], inverse_matrix(back), physics.spacing)[0, 0].numpy()


def sampling_mask(shape: tuple[int, ...], config: DegradeConfig, random: np.random.Generator) -> np.ndarray:
    """Return the k-space sampling mask of an undersampled acquisition, bool ``[D, H, 1]`` or ``[1, H, 1]``.

    Frequency 0 is in the middle. A fraction 1 / R of the points is sampled (R: acceleration factor): the fully sampled
    centre, and others without replacement at a density that falls with the radius r (cartesian: linearly; gaussian: as
    a Gaussian of r).
    """
    sides = (1, shape[1]) if config.mask == "cartesian" else shape[:2]
    frequencies = [np.arange(side) - side // 2 for side in sides]
    scaled = (f / max(1, side) for f, side in zip(frequencies, sides, strict=True))
    radius = np.hypot(*np.meshgrid(*scaled, indexing="ij"))
    density = np.exp(-((radius / GAUSSIAN_WIDTH) ** 2) / 2) if config.mask == "gaussian" else 1 - DENSITY_SLOPE * radius
    count = max(1, round(radius.size / config.acceleration))
    nearest = np.argsort(radius, axis=None, kind="stable")
    centre, others = np.split(nearest, [min(count, max(1, round(config.centre * radius.size)))])
    weights = density.ravel()[others]
    mask = np.zeros(radius.size, bool)
    mask[centre] = True
    if count > centre.size:
        mask[random.choice(others, count - centre.size, replace=False, p=weights / weights.sum())] = True
    return mask.reshape(*sides, 1)


def _k_space(x: np.ndarray) -> np.ndarray:
    """Return the Fourier transform of a magnitude image, frequency 0 in the middle."""
    return scipy.fft.fftshift(scipy.fft.fftn((x + 1) / 2))


def _magnitude(k: np.ndarray) -> np.ndarray:
    return 2 * np.abs(scipy.fft.ifftn(scipy.fft.ifftshift(k))) - 1


def _none(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    return x


def _undersample(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    return _magnitude(_k_space(x) * sampling_mask(x.shape, config, random))


def _motion(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Rigid motion during k-space acquisition, plane by plane along H; no motion during the central planes."""
    lines = x.shape[1]
    still = max(2, round(config.centre * lines))
    middle = np.abs(np.arange(lines) - lines // 2) < still
    changes = np.sort(random.choice(np.arange(1, lines), config.moves, replace=False))
    pose = np.searchsorted(changes, np.arange(lines), side="right")
    k = _k_space(x)
    for number in np.unique(pose[~middle]):
        planes = (pose == number) & ~middle
        angles = random.uniform(-config.rotate_deg, config.rotate_deg, 3)
        if is_slice(x.shape):
            angles[1:] = 0  # a single slice moves within its plane
        shift = random.uniform(-config.shift, config.shift, 3) * x.shape
        k[:, planes] = _k_space(_moved(x, angles, shift, physics.spacing))[:, planes]
    return _magnitude(k)


def _moved(x: np.ndarray, angles: np.ndarray, shift: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Rotate a volume about its centre (degrees, in mm) and translate it (voxels); border padding."""
    step = np.array(spacing)
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * (step / step[:, None])
    centre = (np.array(x.shape) - 1) / 2
    return affine_transform(x, matrix, centre - matrix @ (centre + shift), order=1, mode="nearest")


def _noise(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Rician noise: magnitude of a signal with Gaussian noise in the real and the imaginary channel."""
    from monai.transforms import RandRicianNoise

    rician = RandRicianNoise(prob=1.0, mean=0.0, std=config.noise, sample_std=False)
    rician.set_random_state(seed=int(random.integers(2**32)))
    return np.asarray(rician(x + 1)) - 1


def _gibbs(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    from monai.transforms import GibbsNoise

    return np.abs(np.asarray(GibbsNoise(config.gibbs)((x + 1)[None])[0])) - 1


def _low_dose(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Low-dose CT noise: variance proportional to exp(attenuation) of the rays, power spectrum proportional to |f|.

    Photon counts are Poisson, so that the log counts of a ray of attenuation p have the variance exp(p) / dose.
    Filtered backprojection averages over the rays (here those along the axes of an axial slice) and applies the ramp
    filter, here with a Hann window.
    """
    axis = 0 if is_slice(x.shape) else physics.axis
    half = (physics.hi - physics.lo) / 2
    per_voxel = np.clip(((x + 1) * half + physics.lo + 1000) / 1000, 0, None) * WATER_PER_MM
    rays = [
        np.clip(per_voxel.sum(a, keepdims=True) * physics.spacing[a], 0, MAX_ATTENUATION) for a in {0, 1, 2} - {axis}
    ]
    variance = np.broadcast_to((np.exp(rays[0]) + np.exp(rays[1])) / 2, x.shape)
    local = np.sqrt(variance / variance.mean())
    noise = config.noise_hu * math.sqrt(1 / config.dose - 1) * local * _ramp_noise(x.shape, axis, random)
    return x + (noise / half).astype(np.float32)


def _ramp_noise(shape: tuple[int, ...], axis: int, random: np.random.Generator) -> np.ndarray:
    """Sample noise of variance 1 per slice across an axis, with the power spectrum |f| times a Hann window."""
    shape = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    rows, columns = scipy.fft.fftfreq(shape[1])[:, None], scipy.fft.fftfreq(shape[2])[None]
    f = np.hypot(rows, columns)
    amplitude = np.sqrt(f) * np.cos(np.pi * np.clip(f, 0, 0.5)) ** 2
    white = scipy.fft.fft2(random.standard_normal(shape))
    noise = scipy.fft.ifft2(white * amplitude).real
    return np.moveaxis(noise / math.sqrt((amplitude**2).mean()), 0, axis)


def _thick_slices(x: np.ndarray, config: DegradeConfig, random: np.random.Generator, physics: Physics) -> np.ndarray:
    """Average neighbouring slices along D and interpolate back to thin slices."""
    depth, thick = x.shape[0], config.thickness
    filled = np.pad(x, ((0, -depth % thick), (0, 0), (0, 0)), mode="edge")
    means = torch.from_numpy(filled.reshape(-1, thick, *x.shape[1:]).mean(1))
    back = F.interpolate(means[None, None], scale_factor=(thick, 1, 1), mode="trilinear", align_corners=False)
    return back[0, 0, :depth].numpy()


_KINDS: dict[str, Callable[[np.ndarray, DegradeConfig, np.random.Generator, Physics], np.ndarray]] = {
    "none": _none,
    "copy": _none,
    "undersample": _undersample,
    "motion": _motion,
    "noise": _noise,
    "gibbs": _gibbs,
    "low-dose": _low_dose,
    "thick-slices": _thick_slices,
    "misalign": _misalign,
}
