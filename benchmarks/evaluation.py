"""Does the evaluation separate real volumes from spoilt ones? Half of a store against the other half, spoilt or not.

Every copy must be worse than the real halves by at least 5 standard errors on at least one measure, and the real halves
must lie within the 95 % interval of zero in KID. Ends with status 1 otherwise.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import load_model
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.extractors import encoder_extractor, random_extractor
from hagan3d.evaluation.features.self_supervised import features_path, load_features
from hagan3d.evaluation.metrics.distances import NORMAL_95
from hagan3d.evaluation.metrics.sanity import CAUGHT, HALVES, Row, caught_by, check


def main() -> int:
    """Measure, print the table, say what caught what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="Adds the features of the run's encoder.")
    parser.add_argument("--limit", type=int, default=200, help="Volumes used, at most.")
    parser.add_argument("--seed", type=int, default=0, help="Of the halves.")
    a = parser.parse_args()
    store = Store(a.store)
    extractors = [random_extractor()]
    if features_path(store.path).exists():
        extractors.insert(0, load_features(store))
    if a.run:
        extractors.append(encoder_extractor(load_model(a.run)))
    chosen = np.random.default_rng(a.seed).permutation(len(store))[: a.limit]
    x = np.stack([store.volume(int(i)).numpy() for i in chosen])
    print(f"{len(x)} volumes {list(x.shape[1:])} of {store.path.name}; seed {a.seed}; features:")
    for extractor in extractors:
        print(f"  {extractor.name}: {extractor.dim} numbers, SHA-256 {extractor.sha256}")
    print(
        f"{_cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    started = time.perf_counter()
    return report(check(x, extractors, seed=a.seed), started)


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(found: dict[str, list[Row]], started: float) -> int:
    """Print the table of standard errors and what caught what; give the exit status."""
    copies = [name for name in found if name != HALVES]
    print(f"{'measure':<24}{'real halves':>20}   standard errors worse than the real halves:")
    print(f"{'':<44}" + "".join(f"{name:>16}" for name in copies))
    for number, row in enumerate(found[HALVES]):
        cells = "".join(f"{found[name][number].worse:16.1f}" for name in copies)
        print(f"{row.measure:<24}{f'{row.value:.4g} +- {row.error:.2g}':>20}{cells}")
    good = True
    print()
    for row in (row for row in found[HALVES] if row.measure.startswith("kid")):
        inside = abs(row.value) <= NORMAL_95 * row.error
        good &= inside
        print(f"{HALVES}: {row.measure} {'within' if inside else 'OUTSIDE'} its interval of zero")
    for name in copies:
        by = ", ".join(f"{row.measure} {row.worse:.0f}" for row in caught_by(found[name])) or f"NOTHING at {CAUGHT:g}"
        good &= bool(caught_by(found[name]))
        print(f"{name}: caught by {by}")
    print(f"{time.perf_counter() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
