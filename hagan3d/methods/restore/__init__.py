"""Restoration: DAGAN, RED-WGAN, WGAN-VGG, low-dose CT, thin slices."""
