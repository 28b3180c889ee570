"""Base class of translation methods with losses that compare feature maps of an extractor."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.translation import TranslationMethod
from hagan3d.networks.extractors.feature_net import FeatureNet, read_features
from hagan3d.networks.extractors.medicalnet import MedicalNet, load_medicalnet, standardized
from hagan3d.networks.extractors.vgg19 import VGG19, load_vgg19
from hagan3d.networks.state_hash import state_hash

EXTRACTOR = "extractor"


class FeatureLossMethod(TranslationMethod):
    """A translation method with losses that compare feature maps of the extractor of its settings."""

    extractor: nn.ModuleList | None = None
    """A frozen network of one channel for each target channel; None: the average of the discriminator."""
    extractor_hash = 0.0
    """First 48 bits of the hash of its weights."""

    def add_extractor(self, store: Store | None, device: torch.device) -> None:
        """Load the extractor; without a store with random weights, to count its memory."""
        if self.settings.extractor == "discriminator":
            return
        channels = range(self.settings.target_channels)
        if store is None:
            self.extractor = nn.ModuleList(self._untrained() for _ in channels)
            return
        self.extractor = nn.ModuleList(self._load(store, channel) for channel in channels)
        self.extractor_hash = float(int(state_hash(self.extractor.state_dict())[:12], 16))
        self.extractor.to(device)

    def initial_state(self) -> dict[str, float]:
        """Return a number that identifies the weights of the extractor, so that a resumed run has the same."""
        return {} if self.extractor is None else {EXTRACTOR: self.extractor_hash}

    def check_state(self, state: Mapping[str, float], path: Path) -> None:
        """Raise InputError if the run of a checkpoint had other weights of the extractor."""
        expected = self.initial_state().get(EXTRACTOR)
        if state.get(EXTRACTOR) != expected:
            raise InputError(
                f"{path}: this run was started with other weights of the extractor {self.settings.extractor}; bring "
                "that file back, or use another --out for a new run"
            )

    def feature_maps(self, nets: Any, batch: PairBatch, x: Tensor) -> list[Tensor]:
        """Return the feature maps of target volumes ``x [B, Ct, D, H, W]``; of several channels, one after another."""
        if self.extractor is None:
            return self.discriminator_maps(nets, batch, x)
        maps = [self._maps_of(network, x[:, [channel]]) for channel, network in enumerate(self.extractor)]
        return [torch.cat(layer) for layer in zip(*maps, strict=True)]

    @property
    @abstractmethod
    def compares_features(self) -> bool:
        """Whether a term compares feature maps of the extractor."""

    def uses_extractor(self, name: str) -> bool:
        """Return whether terms compare feature maps of the extractor ``name``."""
        return self.compares_features and self.settings.extractor == name

    @abstractmethod
    def discriminator_maps(self, nets: Any, batch: PairBatch, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``x`` by the average of the discriminator."""

    def _maps_of(self, network: Any, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``x [B, 1, D, H, W]`` in [-1, 1]."""
        return network.maps(standardized(x) if self.settings.extractor == "medicalnet" else x)

    def _load(self, store: Store, channel: int) -> nn.Module:
        """Load the extractor of a target channel."""
        if self.settings.extractor == "self":
            return read_features(features_path(store, channel), store.store_fingerprint, store.channels[channel])
        load: Callable[[Path], nn.Module] = load_vgg19 if self.settings.extractor == "vgg19" else load_medicalnet
        return load(Path(self.settings.extractor_weights))

    def _untrained(self) -> nn.Module:
        """Build the extractor without its weights; of MedicalNet the larger one, whose file may not be here."""
        kinds = {"self": FeatureNet, "vgg19": VGG19, "medicalnet": lambda: MedicalNet(50)}
        return kinds[self.settings.extractor]().eval().requires_grad_(False)
