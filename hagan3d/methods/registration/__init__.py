"""Adversarial registration: rigid and affine transforms (Yan et al., MLMI 2018)."""
