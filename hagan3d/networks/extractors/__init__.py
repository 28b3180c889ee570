"""Feature extractors: frozen networks whose feature maps losses and evaluation compare."""
