"""Distances between sets of volumes, each with its standard error."""
