"""CycleGAN: unpaired translation with cycle consistency (Zhu et al., ICCV 2017)."""
