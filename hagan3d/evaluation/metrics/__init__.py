"""Metrics: every module of this folder is imported, and every function decorated with `registry.metric` is used."""
