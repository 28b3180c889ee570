"""Networks of CycleGAN: a generator and a discriminator for each direction, and the image pools."""

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn

from hagan3d.config import Config, Size
from hagan3d.methods.cyclegan.config import CycleGANConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.resnet import ResNetGenerator
from hagan3d.networks.translation import ROUTES, Translation, TranslationNetworks, to_float32

SCALE = 32767  # of int16, for values in [-1, 1]


class ImagePool(nn.Module):
    """Generated volumes of earlier steps, which stabilize the discriminator; kept in host memory as int16.

    Source: Shrivastava et al., Learning from Simulated and Unsupervised Images, CVPR 2017, section 2.3.
    """

    volumes: Tensor

    def __init__(self, places: int, channels: int, size: Size) -> None:
        """Make a pool of ``places`` volumes ``[channels, D, H, W]``; without places, volumes pass through."""
        super().__init__()
        self.register_buffer("volumes", torch.zeros(places, channels, *size, dtype=torch.int16))

    @torch.no_grad()
    def exchange(self, fake: Tensor, numbers: Sequence[int], uniform: Sequence[Sequence[float]]) -> Tensor:
        """Return each new volume or, with probability 1/2, an earlier one that it replaces in the pool.

        Args:
            fake: ``[B, C, D, H, W]`` in [-1, 1].
            numbers: Number of volumes generated before each: the first ones fill the pool.
            uniform: ``[B, 2]``, uniform in [0, 1): whether to exchange, and which place.
        """
        returned, places = fake.clone(), len(self.volumes)
        for i, (number, (whether, which)) in enumerate(zip(numbers, uniform, strict=True)):
            place = number if number < places else int(which * places)
            if not places or (number >= places and whether >= 0.5):
                continue
            if number >= places:
                returned[i] = self.volumes[place].to(fake.device, fake.dtype) / SCALE
            self.volumes[place] = (fake[i].clamp(-1, 1) * SCALE).round().to("cpu", torch.int16)
        return returned

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stay in host memory when the networks move to a device."""
        if self.volumes.device.type == "meta":
            return super()._apply(fn, recurse)
        return self


class CycleGANNetworks(TranslationNetworks):
    """Generators ``g_target`` (source to target) and ``g_source``, and the discriminators ``d_`` of both domains.

    Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
    """

    averaged = ("g_target", "g_source")
    directions = ("a2b", "b2a", "cycle")

    def __init__(self, size: Size, settings: CycleGANConfig, source_size: Size | None = None) -> None:
        """Build the networks for target volumes of ``size`` voxels and sources of ``source_size`` (None: the same)."""
        super().__init__(size, settings)
        channels = {"source": settings.source_channels, "target": settings.target_channels}
        sizes = {"source": source_size or size, "target": size}
        for name, other in (("target", "source"), ("source", "target")):
            generator = ResNetGenerator(
                channels[other], channels[name], width=settings.width, blocks=settings.blocks, norm=settings.norm
            )
            self.add_module(f"g_{name}", generator)
            critic = PatchDiscriminator(channels[name], width=settings.critic_width, layers=settings.critic_layers)
            self.add_module(f"d_{name}", critic)
            self.add_module(f"pool_{name}", ImagePool(settings.pool, channels[name], sizes[other]))

    @classmethod
    def from_config(cls, config: Config, num_classes: int = 0) -> Self:
        """Build the networks of a run; translated volumes have the size of the other domain."""
        return cls(config.data.train_size, config.method, config.data.source_train_size)

    def generate(self, name: str, x: Tensor) -> Tensor:
        """Translate ``x [B, C, D, H, W]`` of the other domain to the domain ``name``."""
        return to_float32(self[f"g_{name}"](x))

    def from_pool(self, name: str, fake: Tensor, numbers: Sequence[int], uniform: Sequence[Sequence[float]]) -> Tensor:
        """Pass generated volumes of a domain through its image pool; see `ImagePool.exchange`."""
        return cast(ImagePool, self[f"pool_{name}"]).exchange(fake, numbers, uniform)

    def offloaded_state(self) -> list[Tensor]:
        """Return the image pools, which stay in host memory."""
        return [module.volumes for module in self.modules() if isinstance(module, ImagePool)]

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source`` in the direction that is set; see `TranslationNetworks`."""
        x = source
        for aim in ROUTES[self.direction][1:]:
            x = self.generate(aim, x)
        return Translation(x)
