"""Winograd (minimal filtering) convolutions on CPU; `dispatch` decides where they are used."""
