"""Generative methods: one folder each, with its settings, networks and losses."""
