"""Functions of tensors that give scalar loss terms; they never see a network."""

from hagan3d.losses.generalized_normal import GeneralizedNormal

__all__ = ["GeneralizedNormal"]
