"""Translation of whole volumes by networks of slices: slice by slice, some at a time, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import fields

import torch
from torch import Tensor

from hagan3d.data.batches.slices import neighbours
from hagan3d.inference.windowed_translation import Read, Translator, Windows
from hagan3d.networks.translation import Translation, TranslationNetworks

SLICES_AT_ONCE = 32  # unless told otherwise


class SliceTranslator(Translator):
    """Networks of slices that translate whole volumes; every slice as if it were alone."""

    def __init__(self, networks: TranslationNetworks, axis: int, context: int = 1, depth: int = 0) -> None:
        """Translate ``depth`` slices at a time (0: 32).

        Args:
            networks: Networks of slices.
            axis: Axis that the slices are perpendicular to: 0, 1 or 2 for D, H or W.
            context: Slices that a source shows, the slice itself and its neighbours.
            depth: Slices at a time; the result does not depend on it.
        """
        super().__init__(networks, depth or SLICES_AT_ONCE, overlap=0)
        self.axis, self.context = axis, context

    def windows(self, length: int) -> Windows:
        """Return one window: slices are not blended, and have no borders at which seams could show."""
        return Windows(length, length, self.overlap)

    @torch.no_grad()
    def slabs(self, read: Read, length: int) -> Iterator[Translation]:
        """Translate a volume.

        Args:
            read: Reads slices of the source along the axis, ``[Cs, slices, rows, columns]``.
            length: Slices of the volume.

        Yields:
            Slabs of the translation ``[1, Ct, slices, rows, columns]`` in order, on the networks' device, in float32.
        """
        for first in range(0, length, self.depth):
            shown = [
                neighbours(number, length, self.context) for number in range(first, min(first + self.depth, length))
            ]
            lowest, highest = min(map(min, shown)), max(map(max, shown))
            slab = read(lowest, highest + 1)
            sources = [torch.cat([slab[:, at - lowest : at - lowest + 1] for at in slices]) for slices in shown]
            made = self.networks.translate(torch.stack(sources).to(self.device))
            yield self.networks.finalize(_mapped(made, lambda x: x.transpose(0, 2).float()))

    def whole(self, source: Tensor) -> Translation:
        """Translate a volume ``[Cs, D, H, W]`` that is in memory; returns it whole, ``[1, Ct, D, H, W]`` on the CPU."""
        return _mapped(super().whole(source.movedim(1 + self.axis, 1)), lambda x: x.movedim(2, 2 + self.axis))


def _mapped(made: Translation, function: Callable[[Tensor], Tensor]) -> Translation:
    """Apply a function to every map of a translation."""
    maps: dict[str, Tensor] = {field.name: getattr(made, field.name) for field in fields(made)}
    return Translation(**{name: function(x) for name, x in maps.items() if x is not None})
