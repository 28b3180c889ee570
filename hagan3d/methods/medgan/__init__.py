"""MedGAN: cascaded U-Nets with perceptual, style and content losses (Armanious et al., 2020)."""
