"""Files to volumes, volumes to a store, a store to batches."""
