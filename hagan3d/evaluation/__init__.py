"""What a model is worth: features, distances between sets of volumes, and the report."""
