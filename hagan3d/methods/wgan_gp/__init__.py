"""WGAN-GP: a plain 3D generator and critic with gradient penalty (Gulrajani et al., NeurIPS 2017)."""
