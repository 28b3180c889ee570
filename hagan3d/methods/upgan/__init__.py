"""UP-GAN: cascade guided by predicted uncertainty (Upadhyay et al., MICCAI 2021)."""
