"""Files to the volumes of a store: intensities, grid, labels, pairs."""
