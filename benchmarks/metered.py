"""Commands of hagan3d as processes of their own, with their processor time counted and, where it is short, limited."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
STOPPED = 1  # status of a training that a signal ended after it had saved


def commit() -> str:
    """Return the commit of this checkout; unknown in a copy without one."""
    if shutil.which("git") is None:
        return "unknown"
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def start(command: Sequence[object], threads: int) -> "subprocess.Popen[bytes]":
    """Start ``hagan3d COMMAND ...`` with so many threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([sys.executable, "-m", f"hagan3d.{command[0]}", *map(str, command[1:])], env=environment)


def run(command: Sequence[object], threads: int, before: float, limit: float, spent: Callable[[float], None]) -> int:
    """Run a training to its end, or until it has used ``limit`` seconds of processor time; it then saves and leaves.

    Args:
        command: Name of the command and its words.
        threads: Of the command.
        before: Seconds that earlier runs of it have used.
        limit: Seconds, those ``before`` included.
        spent: Told once a second how many have been used.

    Returns:
        The status it ended with; 0 if it was stopped at the limit, even as it was leaving by itself.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what follows is reached
    process, seconds, told = start(command, threads), before, False
    try:
        while process.poll() is None:
            time.sleep(1)
            seconds = max(seconds, before + _processor_seconds(process.pid))
            spent(seconds)
            if seconds >= limit and not told:  # a second signal would end it before it has saved
                process.send_signal(signal.SIGTERM)
                told = True
    finally:  # whoever stops a benchmark stops its training
        if process.poll() is None and not told:
            process.send_signal(signal.SIGTERM)
        process.wait()
    return 0 if told and process.returncode in (STOPPED, -signal.SIGTERM) else process.returncode


def _processor_seconds(process: int) -> float:
    """User and system time of a running process, all threads; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
