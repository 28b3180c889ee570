"""The networks of CycleGAN: a generator and a critic for each direction, and volumes generated before."""

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.resnet import ResNetGenerator
from hagan3d.networks.translation import Translation, TranslationNetworks, widened

SCALE = 32767  # of int16, for values in [-1, 1]


class Pool(nn.Module):
    """Volumes generated in earlier steps, so that a critic does not forget them; always in the machine's memory.

    Source: Shrivastava et al., Learning from Simulated and Unsupervised Images, CVPR 2017, section 2.3.
    """

    volumes: Tensor

    def __init__(self, places: int, channels: int, size: Size) -> None:
        """Have room for so many volumes ``[channels, D, H, W]``; with none, what comes goes."""
        super().__init__()
        self.register_buffer("volumes", torch.zeros(places, channels, *size, dtype=torch.int16))

    @torch.no_grad()
    def exchange(self, fake: Tensor, numbers: Sequence[int], uniform: Sequence[Sequence[float]]) -> Tensor:
        """Take in new volumes and give as many: every second time, one of before in place of the new one.

        Args:
            fake: ``[B, C, D, H, W]`` in [-1, 1].
            numbers: How many volumes came before each: the first ones fill the places.
            uniform: ``[B, 2]``, uniform in [0, 1): whether, and which.
        """
        given, places = fake.clone(), len(self.volumes)
        for i, (number, (whether, which)) in enumerate(zip(numbers, uniform, strict=True)):
            place = number if number < places else int(which * places)
            if not places or (number >= places and whether >= 0.5):
                continue
            if number >= places:
                given[i] = self.volumes[place].to(fake.device, fake.dtype) / SCALE
            self.volumes[place] = (fake[i].clamp(-1, 1) * SCALE).round().to("cpu", torch.int16)
        return given

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stay where it is when the networks move."""
        if self.volumes.device.type == "meta":
            return super()._apply(fn, recurse)
        return self


class CycleNetworks(TranslationNetworks):
    """``g_target`` turns sources into targets and ``g_source`` targets into sources; ``d_`` their critics.

    Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
    """

    averaged = ("g_target", "g_source")

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        channels = {"source": model.source_channels, "target": model.target_channels}
        for name, other in (("target", "source"), ("source", "target")):
            generator = ResNetGenerator(
                channels[other], channels[name], width=model.width, blocks=model.cycle.blocks, norm=model.norm
            )
            self.add_module(f"g_{name}", generator)
            critic = PatchDiscriminator(channels[name], width=model.critic_width, layers=model.critic_layers)
            self.add_module(f"d_{name}", critic)
            self.add_module(f"pool_{name}", Pool(model.cycle.pool, channels[name], size))

    def generate(self, name: str, x: Tensor) -> Tensor:
        """Turn ``x [B, C, D, H, W]`` of the one domain into the one that is named."""
        return widened(self[f"g_{name}"](x))

    def mixed(self, name: str, fake: Tensor, numbers: Sequence[int], uniform: Sequence[Sequence[float]]) -> Tensor:
        """Exchange generated volumes of a domain for earlier ones; see `Pool.exchange`."""
        return cast(Pool, self[f"pool_{name}"]).exchange(fake, numbers, uniform)

    def elsewhere(self) -> list[Tensor]:
        """Return the volumes generated before, which stay in the machine's memory."""
        return [module.volumes for module in self.modules() if isinstance(module, Pool)]

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``; see `TranslationNetworks`."""
        return Translation(self.generate("target", source))
