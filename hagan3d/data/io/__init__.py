"""Volume files: readers, writers, geometry, atomic writing."""
