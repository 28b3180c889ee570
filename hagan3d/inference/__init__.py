"""A checkpoint to volumes or latents."""
