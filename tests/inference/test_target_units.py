"""The units of a translation: those of targets, or of each source whose volume is its own target."""

import numpy as np

from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.inference.translate_files import target_intervals


def test_a_translation_has_the_units_of_targets_where_these_have_their_own():
    affine = tuple(map(tuple, np.eye(4).tolist()))
    mr, ct = (Channel(name, kind, lo, hi) for name, kind, lo, hi in (("mr", "z-score", 0, 9), ("ct", "window", -5, 5)))
    own = [(100.0, 300.0)]  # of the source

    def intervals(target, *sources):
        description = DataDescription((32, 32, 32), "RAS", "axial", affine, (target,), source_channels=sources)
        return target_intervals(description, own)

    assert intervals(mr) == own  # a simulated source is a target, whose interval is that of each volume
    two = DataDescription((32, 32, 32), "RAS", "axial", affine, (ct, mr))
    assert target_intervals(two, [(-5.0, 5.0), (1.0, 2.0)]) == [(-5, 5), (1.0, 2.0)]  # of each channel its own kind
    assert intervals(mr, ct) == [(0, 9)] and intervals(ct) == intervals(ct, mr) == [(-5, 5)]
