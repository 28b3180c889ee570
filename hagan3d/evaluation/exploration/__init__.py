"""Directions in latent space: found, walked along, measured."""
