"""Evaluation of generated label maps."""
