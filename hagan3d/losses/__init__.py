"""Loss terms: functions of tensors to scalars; they never see a network."""
