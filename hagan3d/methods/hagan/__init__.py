"""HA-GAN: hierarchical generation of a low-resolution volume and a high-resolution sub-volume (Sun et al., 2022)."""
