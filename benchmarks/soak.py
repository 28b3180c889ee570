"""Does training leak? Trains for hours and records memory, file handles, threads and disk each minute.

The rows go to a CSV as they are measured; at the end a line is fitted to each column, without the first fifth of the
time, in which caches fill. A slope whose 95 % interval includes 0, or which is small against the value, is flat.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

COLUMNS = ("rss_mb", "file_handles", "threads", "disk_mb")
ENDLESS = "100000000"  # steps
WARM_UP = 0.2  # of the time, which is not fitted
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(pid: int, folder: Path) -> dict[str, float]:
    """Return the columns for a process and the folder it writes."""
    process = Path("/proc") / str(pid)
    sizes = [size_of(path) for path in folder.rglob("*")]
    return {
        "rss_mb": int((process / "statm").read_text().split()[1]) * PAGE_MB,
        "file_handles": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "disk_mb": sum(sizes) / 1e6,
    }


def size_of(path: Path) -> int:
    """Return the bytes of a file, which training may have removed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def slopes(path: Path) -> list[str]:
    """Return a line for each column of a CSV: slope per hour with its 95 % interval, and the mean."""
    with path.open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    rows = rows[int(WARM_UP * len(rows)) :]
    if len(rows) < 3:
        return ["too few rows for a slope"]
    hours = np.array([row["seconds"] for row in rows]) / 3600
    lines = []
    for name in COLUMNS:
        values = np.array([row[name] for row in rows])
        if np.ptp(values) == 0:  # a slope of 0, without an error to take an interval from
            lines.append(f"{name}: always {values[0]:.1f}")
            continue
        fit = linregress(hours, values)
        reach = student.ppf(0.975, len(rows) - 2) * fit.stderr
        lines.append(
            f"{name}: {fit.slope:+.3f} per hour [{fit.slope - reach:+.3f}, {fit.slope + reach:+.3f}], "
            f"mean {values.mean():.1f}, largest {values.max():.1f}"
        )
    return lines


def main() -> None:
    """Train, measure, and print the slopes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=8.0, help="How long.")
    parser.add_argument("--every", type=float, default=60.0, help="Seconds between two rows.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the run and of soak.csv.")
    parser.add_argument(
        "train", nargs="*", help="Arguments of `hagan3d train`, without --out. With --train.steps it may end earlier."
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that training ends too
    options.out.mkdir(parents=True, exist_ok=True)
    table, run = options.out / "soak.csv", options.out / "run"
    if table.exists():
        raise SystemExit(f"{table}: holds a soak, which is not gone on with; use another --out")
    arguments = ["--train.steps", ENDLESS, *options.train, "--out", str(run)]
    started = time.monotonic()
    with table.open("w", newline="") as file, (options.out / "train.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "hagan3d.train", *arguments], stdout=log, stderr=log)
        writer = csv.DictWriter(file, ["seconds", *COLUMNS])
        writer.writeheader()
        try:
            while (seconds := time.monotonic() - started) < 3600 * options.hours:
                if process.poll() == 0:
                    break
                if process.poll() is not None:
                    raise SystemExit(f"training ended after {seconds:.0f} s: see {options.out / 'train.log'}")
                writer.writerow({"seconds": round(seconds, 1), **measure(process.pid, run)})
                file.flush()
                time.sleep(options.every)
        finally:
            process.terminate()
            process.wait()
    print("\n".join(slopes(table)))


if __name__ == "__main__":
    main()
