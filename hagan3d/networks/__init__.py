"""The networks of HA-GAN, one class each for every size."""
