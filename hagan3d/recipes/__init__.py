"""Training methods: one file each, a list of phases and the loss terms of each."""
