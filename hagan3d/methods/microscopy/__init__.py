"""Phase contrast to DIC microscopy: cell mask and noise as inputs, two discriminators (Han and Yin, MICCAI 2017)."""
