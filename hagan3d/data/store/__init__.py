"""The HDF5 store: written once, read slab by slab."""
