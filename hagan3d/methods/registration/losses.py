"""Adversarial registration: regression of transform parameters, supervised by simulated misalignments.

Source: Yan et al., Adversarial Image Registration with Application for MR and TRUS Image Fusion, MLMI 2018. The
discriminator compares the moving image warped by the true and by the estimated transform: both are interpolated alike.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.losses.gan import d_loss, g_loss, interpolated_penalty
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.registration.config import RegistrationConfig
from hagan3d.methods.registration.networks import RegistrationNetworks
from hagan3d.methods.translation import TranslationMethod
from hagan3d.ops.device import to_device
from hagan3d.ops.warp import AFFINE

SPACING_TOLERANCE = 0.01  # relative


class Registration(TranslationMethod):
    """Adversarial registration: the regressor, then the discriminator on the same warped images."""

    settings: RegistrationConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        penalised = ("d",) if self.settings.objective == "wgan-gp" else ()
        weights = {"parameters": self.settings.parameter_weight, "gan": self.settings.adversarial_weight}
        g = Phase("g", ("g",), self.g_loss, self.train.lr_g, weights)
        d = Phase("d", ("d",), self.d_loss, self.train.lr_d, {"gp": self.settings.gp_weight}, penalised=penalised)
        return [g, d] if self.is_adversarial else [g]

    def check_channels(self, store: Store) -> None:
        """Raise InputError unless all volumes have the spacing in which the parameters count millimetres."""
        spacing = self.settings.spacing
        for found in (spacing_of(affine) for affine in store.affines):
            if not np.allclose(found, spacing, rtol=SPACING_TOLERANCE):
                sides = ", ".join(f"{side:g}" for side in found)
                raise InputError(
                    f"{store.path}: has a volume of {sides} mm per voxel, but registration.spacing is {list(spacing)}; "
                    "prepare the store with --spacing, and set that"
                )

    def g_loss(self, nets: RegistrationNetworks, batch: PairBatch) -> Terms:
        """Regressor loss: mean squared error of the parameters plus the adversarial term."""
        estimate = nets.estimate(batch.source)
        fake = self.cache.put("fake", batch, nets.warped(batch.source, estimate))
        error = (estimate - true_parameters(batch)[:, : estimate.shape[1]]) / self._units(estimate)
        terms = {"parameters": error.square().mean()}
        if self.is_adversarial:
            terms["gan"] = g_loss(self.settings.objective, _logits(nets, batch, [fake]))
        return terms

    def _units(self, parameters: Tensor) -> Tensor:
        """Return the unit of each of ``parameters [B, n]``: the largest that is simulated, 1 if none is."""
        degrade = self.config.data.degrade
        largest = (degrade.misalign_deg, degrade.misalign_mm, degrade.misalign_percent, degrade.misalign_shear_deg)
        units = [unit or 1.0 for unit in largest for _ in range(3)]
        return to_device(torch.tensor(units[: parameters.shape[1]], dtype=parameters.dtype), parameters.device)

    def d_loss(self, nets: RegistrationNetworks, batch: PairBatch) -> Terms:
        """Discriminator loss on images warped by the true and by the estimated transform."""
        objective = self.settings.objective
        estimated = torch.no_grad()(lambda: nets.warped(batch.source, nets.estimate(batch.source)))
        fake = self.cache.pop("fake", batch, estimated)
        real = nets.warped(batch.source, true_parameters(batch))
        terms = {"gan": d_loss(objective, _logits(nets, batch, [real]), _logits(nets, batch, [fake]))}
        if objective == "wgan-gp":
            logits_of = partial(_logits, nets, batch)
            terms["gp"] = interpolated_penalty(logits_of, [real], [fake], batch.uniform("mix", 1))
        return terms


def true_parameters(batch: PairBatch) -> Tensor:
    """Parameters that undo the simulated misalignments ``[B, 12]``; zero for pairs that are aligned."""
    if batch.misalignment is None:
        return torch.zeros(len(batch), AFFINE, device=batch.device, dtype=batch.source.dtype)
    return batch.misalignment.to(batch.source.dtype)


def _logits(nets: RegistrationNetworks, batch: PairBatch, warped: list[Tensor]) -> Tensor:
    """Logits of warped moving images concatenated with the fixed ones: the mean over patches ``[B]``."""
    fixed = batch.source[:, nets.moving :]
    return nets.d(torch.cat([warped[0], fixed.to(warped[0].dtype)], dim=1)).flatten(1).mean(1)
