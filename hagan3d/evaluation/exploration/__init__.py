"""Directions in latent space: fitted, walked along, measured."""
