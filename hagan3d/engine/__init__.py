"""The trainer: phases, optimizers, precision, averages, logs. It knows no method."""
