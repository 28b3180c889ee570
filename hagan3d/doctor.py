"""`hagan3d doctor`: whether this installation is right on this machine."""

import sys
from pathlib import Path
from typing import Literal

from hagan3d import cli

DESCRIPTION = """Check this installation on this machine: versions, compiled operators against their references,
training steps against the CPU, memory against the plan, speed against the bandwidth. Prints a page that can be pasted
into an issue, and writes it as JSON. The exit status is 1 if a check failed."""
EXAMPLES = ("hagan3d doctor", "hagan3d doctor --device cuda --full", "hagan3d doctor --out reports/doctor.json")


def main(argv: list[str]) -> None:
    """Parse, check, print; exit with status 1 if a check failed."""
    parser = cli.parser("doctor", DESCRIPTION, EXAMPLES)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="Device to check.")
    parser.add_argument("--full", action="store_true", help="Also check what takes minutes.")
    parser.add_argument("--out", type=str, default="doctor.json", help="File of the findings as JSON.")
    a = parser.parse_args(argv)
    from hagan3d.diagnosis.report import check_report, page, write_json
    from hagan3d.diagnosis.run_diagnosis import diagnose
    from hagan3d.ops.device import find_device

    check_report(Path(a.out))
    found = []
    for finding in diagnose(find_device("--device", a.device), a.full):
        print(f"checked {finding.check}", file=sys.stderr)
        found.append(finding)
    write_json(found, Path(a.out))
    print(page(found))
    if any(finding.status == "FAILED" for finding in found):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(cli.run(main))
