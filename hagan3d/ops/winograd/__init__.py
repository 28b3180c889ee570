"""Winograd (minimal filtering) convolutions on CPUs."""
