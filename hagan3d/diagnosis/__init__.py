"""Checks of an installation on a machine: versions, operators, training steps, memory, speed."""
