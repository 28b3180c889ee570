"""The published arrangement, in plain PyTorch, to count and time against: what `--as-published` runs.

Networks of Sun et al. 2022, IEEE JBHI 26(8), at 128^3 and 256^3: upsampling then convolution, GroupNorm then ReLU, no
halo, one window for the whole batch, every input kept, the whole real volume resident.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

LATENT = 1024


def block(c_in: int, c_out: int, up: bool = False) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Upsample(scale_factor=2)] if up else []
    return [*layers, nn.Conv3d(c_in, c_out, 3, padding=1), nn.GroupNorm(8, c_out), nn.ReLU()]


def down(c_in: int, c_out: int) -> list[nn.Module]:
    return [nn.Conv3d(c_in, c_out, 4, stride=2, padding=1), nn.GroupNorm(8, c_out), nn.ReLU()]


def judge(c_in: int, c_out: int, *window: tuple[int, int, int]) -> list[nn.Module]:
    kernel, stride, padding = window or ((4, 4, 4), (2, 2, 2), (1, 1, 1))
    return [spectral_norm(nn.Conv3d(c_in, c_out, kernel, stride, padding)), nn.LeakyReLU(0.2)]


class Published(nn.Module):
    """G, D^H, D^L, E^H and E^G at ``side``^3."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        is_large = side == 256
        ups = int(math.log2(side // 16))
        widths = (512, 512, 512, 256, 128, 64)
        self.fc = nn.Linear(LATENT, 512 * 64)
        common = [block(widths[i], widths[i + 1], up=1 <= i <= ups) for i in range(5)]
        self.common = nn.Sequential(*(layer for layers in common for layer in layers))
        self.low = nn.Sequential(*block(64, 32), *block(32, 16), nn.Conv3d(16, 1, 3, padding=1), nn.Tanh())
        self.high = nn.Sequential(
            *block(64, 32, up=True), nn.Upsample(scale_factor=2), nn.Conv3d(32, 1, 3, padding=1), nn.Tanh()
        )
        flat, last = ((2, 4, 4), (2, 2, 2), (0, 1, 1)), ((1, 4, 4), (1, 2, 2), (0, 1, 1))
        first = [*judge(1, 16), *judge(16, 32)] if is_large else judge(1, 32)
        self.d_h = nn.Sequential(
            *first, *judge(32, 64), *judge(64, 128, *flat), *judge(128, 256, *flat), *judge(256, 512, *last),
            *judge(512, 128, (1, 4, 4), (1, 1, 1), (0, 0, 0)), nn.Flatten(),
        )  # fmt: skip
        self.hidden, self.logit = spectral_norm(nn.Linear(129, 64)), spectral_norm(nn.Linear(64, 1))
        first = [*judge(1, 32), *judge(32, 64)] if is_large else judge(1, 64)
        self.d_l = nn.Sequential(
            *first, *judge(64, 128), *judge(128, 256), spectral_norm(nn.Conv3d(256, 1, 4)), nn.Flatten(0)
        )
        self.e_h = nn.Sequential(*down(1, 32), *block(32, 32), *down(32, 64))
        first = [*down(64, 32), *down(32, 64)] if is_large else down(64, 64)
        self.e_g = nn.Sequential(*first, *down(64, 128), *down(128, 256), nn.Conv3d(256, LATENT, 4), nn.Flatten())

    def parts(self) -> dict[str, list[nn.Module]]:
        """Give the modules that each phase moves."""
        return {
            "d": [self.d_h, self.hidden, self.logit, self.d_l],
            "g": [self.fc, self.common, self.low, self.high],
            "e_h": [self.e_h],
            "e_g": [self.e_g],
        }

    def generate(self, z: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Give a sub-volume and the low-resolution volume."""
        a = self.common(self.fc(z).view(-1, 512, 4, 4, 4))
        return self.high(a[:, :, start // 4 : start // 4 + self.side // 32]), self.low(a)

    def discriminate(self, window: Tensor, low: Tensor, start: int) -> Tensor:
        """Give the logits of pairs ``[B]``."""
        place = torch.full((len(window), 1), start / (7 * self.side / 8))
        hidden = F.leaky_relu(self.hidden(torch.cat([self.d_h(window), place], dim=1)), 0.2)
        return (self.logit(hidden)[:, 0] + self.d_l(low)) / 2

    def loss(self, phase: str, real: Tensor, start: int) -> Tensor:
        """Give the loss of a phase for whole real volumes ``[B, 1, S, S, S]``."""
        depth, count = self.side // 8, len(real)
        window, low = real[:, :, start : start + depth], real[:, :, ::4, ::4, ::4]
        z, ones, zeros = torch.randn(count, LATENT), torch.ones(count), torch.zeros(count)
        if phase == "d":
            with torch.no_grad():
                fake = self.generate(z, start)
            on_real, on_fake = self.discriminate(window, low, start), self.discriminate(*fake, start)
            return F.binary_cross_entropy_with_logits(on_real, ones) + F.binary_cross_entropy_with_logits(
                on_fake, zeros
            )
        if phase == "g":
            return F.binary_cross_entropy_with_logits(self.discriminate(*self.generate(z, start), start), ones)
        if phase == "e_h":
            return F.l1_loss(self.high(self.e_h(window)), window)
        with torch.no_grad():
            a = torch.cat([self.e_h(slab) for slab in real.split(depth, dim=2)], dim=2)
        made, made_low = self.generate(self.e_g(a), start)
        return (F.l1_loss(made, window) + F.l1_loss(made_low, low)) / 2


class PublishedStep:
    """The four updates of a step."""

    def __init__(self, side: int) -> None:
        self.networks = Published(side)
        rates = {"d": 4e-4, "g": 1e-4, "e_h": 1e-4, "e_g": 1e-4}
        self.optimizers = {
            phase: torch.optim.Adam([p for m in modules for p in m.parameters()], rates[phase], (0.0, 0.999))
            for phase, modules in self.networks.parts().items()
        }

    def run(self, phase: str, real: Tensor, start: int) -> None:
        """Run one phase."""
        moved = self.networks.parts()[phase]
        self.networks.requires_grad_(False)
        for module in moved:
            module.requires_grad_(True)
        self.networks.loss(phase, real, start).backward()
        self.optimizers[phase].step()
        self.optimizers[phase].zero_grad(set_to_none=True)
