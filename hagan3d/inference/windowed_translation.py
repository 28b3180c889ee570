"""Translations of volumes of any size: window by window along D, with overlap, in memory that does not grow with D.

A window is translated with slices of its neighbours on both sides. The outermost of these are thrown away, the others
blended linearly. Where a network's norms look at single voxels (`translation.norm: rms`) and what is thrown away is as
thick as its field of view, the result equals the whole pass; else borders of windows may show: see `seam_ratio`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config.method import TranslationConfig
from hagan3d.errors import InputError
from hagan3d.networks.translation import Translation, TranslationNetworks, concat_low_resolution

UNIT = 32  # slices: windows begin and end at multiples, as networks halve volumes five times unless set otherwise
Read = Callable[[int, int], Tensor]
"""Slices from the first number to before the second, ``[Cs, depth, H, W]`` in [-1, 1]."""


def window_unit(method: TranslationConfig) -> int:
    """Return the slices of whose multiples windows consist, so that a network halves them as it halves its volumes."""
    return max(UNIT, 2 ** int(getattr(method, "levels", None) or 0))


@dataclass(frozen=True)
class Windows:
    """How a volume is cut along D."""

    length: int
    """Slices of the volume."""
    depth: int
    """Slices of a window, those of its neighbours among them; a multiple of the unit, or the whole volume."""
    overlap: int
    """Slices that two neighbouring windows share, a multiple of the unit. A quarter is discarded on either side."""
    unit: int = UNIT
    """Slices of whose multiples windows consist; see `window_unit`."""

    def __post_init__(self) -> None:
        """Raise InputError if depth or overlap is invalid for this length."""
        if self.depth >= self.length:
            return
        if any(n % self.unit for n in (self.depth, self.overlap, self.length)) or not 0 <= self.overlap < self.depth:
            raise InputError(
                f"--depth {self.depth}, --overlap {self.overlap}: want multiples of {self.unit}, the overlap the "
                f"smaller one, for {self.length} slices; --depth 0 translates all slices at once"
            )

    @property
    def starts(self) -> list[int]:
        """First slice of each window."""
        if self.depth >= self.length:
            return [0]
        starts = list(range(0, self.length - self.depth, self.depth - self.overlap))
        return [*starts, self.length - self.depth]

    @property
    def borders(self) -> list[int]:
        """Slices at which one window has handed over to the next, for a measure of seams."""
        pairs = zip(self.starts, self.starts[1:], strict=False)
        return [(first + self.depth + second) // 2 for first, second in pairs]

    def weights(self, number: int) -> np.ndarray:
        """Weight of each slice of a window, before those of all windows are scaled to a sum of one."""
        starts, depth = self.starts, min(self.depth, self.length)
        weight = np.ones(depth)
        for shared, turned in (
            (starts[number - 1] + depth - starts[number] if number else 0, False),
            (starts[number] + depth - starts[number + 1] if number + 1 < len(starts) else 0, True),
        ):
            waste = min(shared, self.overlap) // 4
            ramp = np.clip((np.arange(shared) + 0.5 - waste) / max(1, shared - 2 * waste), 0, 1)
            side = weight[::-1] if turned else weight
            side[:shared] *= ramp
        return weight


def blended(windows: Windows, compute: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
    """Compute windows one after the other and yield slices of the volume once no later window overlaps them.

    Args:
        windows: How the volume is cut.
        compute: ``(first, stop)`` to maps ``[C, stop - first, H, W]``.

    Yields:
        Slabs ``[C, depth, H, W]``, in order along D.
    """
    held, weight = torch.empty(0), torch.empty(0)  # slices from the start of the newest window on
    starts, depth = windows.starts, min(windows.depth, windows.length)
    for number, start in enumerate(starts):
        made = compute(start, start + depth)
        own = torch.from_numpy(windows.weights(number)).to(made)
        made = made * own[:, None, None]
        if weight.numel():
            made[:, : weight.numel()] += held
            own[: weight.numel()] += weight
        done = (starts[number + 1] if number + 1 < len(starts) else windows.length) - start
        yield made[:, :done] / own[:done, None, None]
        held, weight = made[:, done:].clone(), own[done:].clone()


class Translator:
    """Networks that translate whole volumes window by window."""

    def __init__(self, networks: TranslationNetworks, depth: int = 0, overlap: int = 64, unit: int = UNIT) -> None:
        """Translate by ``networks``, ``depth`` slices at a time (0: all) of which neighbours share ``overlap``."""
        self.networks, self.depth, self.overlap, self.unit = networks, depth, overlap, unit
        self.device = next(networks.parameters()).device

    @property
    def passes(self) -> str:
        """Describe the passes behind a translation."""
        return "one"

    @property
    def predicts_uncertainty(self) -> bool:
        """Whether a translation has alpha, beta and sigma."""
        return self.networks.predicts_uncertainty

    def windows(self, length: int) -> Windows:
        """How a volume of so many slices is cut."""
        depth = length if self.networks.needs_whole_volume else self.depth or length
        return Windows(length, depth, self.overlap, self.unit)

    @torch.no_grad()
    def slabs(self, read: Read, length: int) -> Iterator[Translation]:
        """Translate a volume.

        Args:
            read: Gives slices of the source.
            length: Slices of the volume.

        Yields:
            Slabs of the translation ``[1, Ct, depth, H, W]`` in order along D, on the networks' device, in float32.
        """
        read = self._with_low_resolution(read, length)
        windows, statistics = self.windows(length), self._statistics(read, length)
        channels: list[int] = []

        def compute(first: int, stop: int) -> Tensor:
            whole = None if len(windows.starts) == 1 else statistics
            made = self.networks.translate(self._source(read, first, stop), whole)
            maps = [x for x in (made.mean, made.alpha, made.beta, made.sigma) if x is not None]
            channels[:] = [x.shape[1] for x in maps]
            return torch.cat(maps, 1)[0].float()

        for slab in blended(windows, compute):
            yield self.networks.finalize(Translation(*slab[None].split(channels, dim=1)))

    def whole(self, source: Tensor) -> Translation:
        """Translate a volume ``[Cs, D, H, W]`` that is in memory; returns it whole, ``[1, Ct, D, H, W]`` on the CPU."""
        slabs = list(self.slabs(lambda first, stop: source[:, first:stop], source.shape[1]))
        names = [name for name in ("mean", "alpha", "beta", "sigma") if getattr(slabs[0], name) is not None]
        return Translation(**{name: torch.cat([getattr(slab, name).cpu() for slab in slabs], 2) for name in names})

    def _statistics(self, read: Read, length: int) -> Sequence[Tensor]:
        """Statistics of the whole volume that windows need, computed one after the other."""
        windows, found = self.windows(length), list[Tensor]()
        if len(windows.starts) == 1:
            return found
        for _ in range(self.networks.num_statistics):

            def compute(first: int, stop: int) -> Tensor:
                return self.networks.statistic_map(self._source(read, first, stop), found)[0].float()

            sums = [(slab.double().sum(), slab.numel()) for slab in blended(windows, compute)]
            total = torch.stack([one for one, _ in sums]).sum() / sum(count for _, count in sums)
            found.append(total.float()[None])
        return found

    def _with_low_resolution(self, read: Read, length: int) -> Read:
        """Return a reader of the source concatenated with the low-resolution prediction, if there is one."""
        low = self.networks.low_resolution
        if low is None:
            return read
        slabs = (self._source(read, first, min(first + UNIT, length)) for first in range(0, length, UNIT))
        prediction = low(torch.cat([F.avg_pool3d(slab, low.factor) for slab in slabs], dim=2))

        def both(first: int, stop: int) -> Tensor:
            start = torch.tensor([first], device=self.device)
            return concat_low_resolution(self._source(read, first, stop), prediction, start)[0]

        return both

    def _source(self, read: Read, first: int, stop: int) -> Tensor:
        return read(first, stop)[None].to(self.device)


def seam_ratio(volume: np.ndarray, borders: Sequence[int]) -> float | None:
    """Mean step across the borders of windows over that between all other slices; 1: no seam.

    None without borders, or without steps between other slices.

    Args:
        volume: ``[D, H, W]``.
        borders: First slice after each border.
    """
    steps = np.abs(np.diff(volume.astype(np.float64), axis=0)).mean(axis=(1, 2))
    at = np.array([border - 1 for border in borders], dtype=int)
    elsewhere = np.delete(steps, at)
    if not (at.size and elsewhere.any()):
        return None
    return float(steps[at].mean() / elsewhere.mean())
