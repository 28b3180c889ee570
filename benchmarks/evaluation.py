"""Do the metrics separate real volumes from degraded ones? Half of a store against the other half, degraded or not.

Every degraded copy must be worse than the real halves by at least 5 standard errors on at least one metric, and the KID
of the real halves must include zero in its 95 % interval. Exit status 1 otherwise.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from metric_sanity import DETECTED, HALVES, MetricScore, check, detected_by

from hagan3d.checkpoint import load_model
from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.extractors import encoder_extractor, random_extractor
from hagan3d.evaluation.features.self_supervised import load_features


def main() -> int:
    """Evaluate, print the table and which metric detects which degradation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="Adds the features of the encoder of a run.")
    parser.add_argument("--limit", type=int, default=200, help="Maximum number of volumes.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the halves.")
    a = parser.parse_args()
    store = Store(a.store)
    extractors = [random_extractor()]
    if features_path(store).exists():
        extractors.insert(0, load_features(store))
    if a.run:
        extractors.append(encoder_extractor(load_model(a.run)))
    chosen = np.random.default_rng(a.seed).permutation(len(store))[: a.limit]
    x = np.stack([store.channel(int(i)).numpy() for i in chosen])
    print(f"{len(x)} volumes {list(x.shape[1:])} of {store.path.name}; seed {a.seed}; features:")
    for extractor in extractors:
        print(f"  {extractor.name}: {extractor.dim} per volume, SHA-256 {extractor.sha256}")
    print(
        f"{_cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}\n"
    )
    started = time.perf_counter()
    return report(check(x, extractors, seed=a.seed), started)


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(scores: dict[str, list[MetricScore]], started: float) -> int:
    """Print the table of standard errors and which metric detects which degradation; return the exit status."""
    copies = [name for name in scores if name != HALVES]
    print(f"{'metric':<24}{'real halves':>20}   standard errors worse than the real halves:")
    print(f"{'':<44}" + "".join(f"{name:>16}" for name in copies))
    for number, row in enumerate(scores[HALVES]):
        cells = "".join(f"{scores[name][number].worse:16.1f}" for name in copies)
        print(f"{row.metric:<24}{row.estimate!s:>20}{cells}")
    good = True
    print()
    for row in (row for row in scores[HALVES] if row.metric.startswith("kid")):
        inside = row.estimate.low <= 0 <= row.estimate.high
        good &= inside
        print(f"{HALVES}: the 95 % interval of {row.metric} {'includes' if inside else 'EXCLUDES'} zero")
    for name in copies:
        by = (
            ", ".join(f"{row.metric} {row.worse:.0f}" for row in detected_by(scores[name]))
            or f"NOTHING at {DETECTED:g}"
        )
        good &= bool(detected_by(scores[name]))
        print(f"{name}: detected by {by}")
    print(f"{time.perf_counter() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
