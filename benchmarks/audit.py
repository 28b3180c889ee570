"""Does the memorisation audit detect copies? Real volumes simulate generated ones: copies of training volumes, or none.

A store is split by subject into training (half), held-out and other volumes (a quarter each). Copies of training
volumes (shifted by up to 2 voxels, half of them mirrored, with noise; some blurred) must be flagged; other real
volumes, blurred or averaged ones, one volume repeated and copies of held-out volumes must not. Exit status 1 otherwise.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from audit_sanity import CASES, check

from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store
from hagan3d.evaluation.features.extractors import random_extractor
from hagan3d.evaluation.features.self_supervised import load_features
from hagan3d.evaluation.memorisation.results import THRESHOLDS, SpaceAudit


def main() -> int:
    """Audit every case for every seed, print a table, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5, help="Number of splits, each with its copies.")
    parser.add_argument("--first", type=int, default=10, help="First seed; the thresholds were set on 0 to 7.")
    parser.add_argument("--limit", type=int, default=200, help="Maximum number of volumes.")
    a = parser.parse_args()
    store = Store(a.store)
    extractor = load_features(store) if features_path(store).exists() else random_extractor()
    count = min(len(store), a.limit)
    x = np.stack([store.channel(i).numpy() for i in range(count)])
    subjects = np.unique(store.subjects[:count], return_inverse=True)[1]
    print(f"{count} volumes {list(store.size)} of {subjects.max() + 1} subjects of {store.path.name}")
    print(f"features {extractor.name}: {extractor.dim} per volume, SHA-256 {extractor.sha256}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    print(f"thresholds: {', '.join(f'{name} {value:g}' for name, value in vars(THRESHOLDS).items())}\n")
    started, wrong = time.perf_counter(), 0
    for seed in range(a.first, a.first + a.seeds):
        wrong += report(check(x, subjects, extractor, seed=seed), seed)
    runs = a.seeds * len(CASES)
    print(f"\n{runs - wrong} of {runs} correct; {time.perf_counter() - started:.0f} s")
    return 1 if wrong else 0


def report(results: dict[str, dict[str, SpaceAudit]], seed: int) -> int:
    """Print the cases of one seed; return the number of wrong flags."""
    wrong = 0
    print(f"seed {seed:<20}{'space':<10}{'twins':>7}{'lowest':>8}{'nearer':>8}{'z':>6}", end="")
    print(f"{'AuthPct':>9}{'floor':>6}{'z':>6}{'excess':>8}{'C_T':>7}{'z':>6}{'excess':>8}  flagged")
    for name, spaces in results.items():
        flagged = any(one.flagged for one in spaces.values())
        good = flagged == CASES[name][1]
        wrong += not good
        for number, (space, one) in enumerate(spaces.items()):
            twins, near, auth, copying = one.twins, one.nearer, one.authenticity, one.data_copying
            print(f"{'' if number else name:<25}{space:<10}{twins.share:>7.0%}{twins.lowest:>8.2f}", end="")
            print(f"{near.share:>8.2f}{near.z:>6.1f}{auth.generated.value:>9.0f}", end="")
            print(f"{auth.floor.value:>6.0f}{auth.z:>6.1f}{auth.excess_z:>8.1f}", end="")
            print(f"{copying.value:>7.1f}{copying.z:>6.1f}{copying.excess_z:>8.1f}", end="")
            print(f"  {', '.join(one.flagged) or '-'}{'' if good or number else '  WRONG'}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
