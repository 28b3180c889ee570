"""Synthetic chest CTs with known attributes."""
