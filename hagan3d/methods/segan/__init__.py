"""SegAN: segmentation with a multi-scale L1 critic (Xue et al., 2018)."""
