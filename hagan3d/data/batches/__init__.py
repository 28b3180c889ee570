"""Batches of a training step: which volumes, windows and random numbers it sees."""
