"""Evaluation of translations: voxel errors, calibration, label maps, registration."""
