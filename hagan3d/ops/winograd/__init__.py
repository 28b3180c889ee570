"""Winograd (minimal filtering) up-convolution on CPU; `dispatch` decides where it is used."""
