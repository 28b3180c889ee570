"""Evaluation of translations: errors, calibration, label maps, registration."""
