"""The trainer: phases, optimizers, precision, averages, logs. Independent of the method."""
