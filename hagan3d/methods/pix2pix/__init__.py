"""pix2pix: conditional GAN with a U-Net and a patch discriminator (Isola et al., CVPR 2017)."""
