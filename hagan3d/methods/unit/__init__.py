"""UNIT: unpaired translation through a shared latent space (Liu et al., NeurIPS 2017)."""
