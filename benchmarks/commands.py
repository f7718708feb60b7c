"""What the command line takes before it does anything: completion, help, a refusal.

    python benchmarks/commands.py [--runs 5] [--warehouse W]

Processor time of a process of its own, as a shell would start it. Beside it the same with the file
of every command imported first, which is what a command line that knows all its options costs.
`--warehouse` adds the completion of a night's date.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # files here are named like packages

import argparse
import json
import os
import resource
import statistics
import subprocess

RUN = "import sys\nfrom pipelines.entry import main\nmain()"
EVERY = """\
import importlib
from pipelines.commands import COMMANDS
for place in COMMANDS.values():
    for one in [place] if isinstance(place, str) else place.values():
        importlib.import_module(one.split(":")[0])
import pipelines.night_command
"""


def seconds(code: str, line: str, *, tab: bool) -> float:
    """Processor time of one command line, or of its completion."""
    words = line.split(" ")
    about = {"_QUERYLOOP_COMPLETE": "complete_bash", "COMP_WORDS": line}
    env = os.environ | (about | {"COMP_CWORD": str(len(words) - 1)} if tab else {})
    command = [sys.executable, "-c", code, *([] if tab else words[1:])]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, cwd=ROOT, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warehouse")
    args = parser.parse_args()
    lines = {
        "complete a command": ("queryloop ni", True),
        "complete an option": ("queryloop night --st", True),
        "complete a policy": ("queryloop lab gate --policy th", True),
        "help": ("queryloop --help", False),
        "help of the night": ("queryloop night --help", False),
        "a misspelt command": ("queryloop nigth", False),
    }
    if args.warehouse:
        lines["complete a date"] = (f"queryloop night -w {args.warehouse} --date 2", True)
        lines["status"] = (f"queryloop status -w {args.warehouse}", False)
    rows = []
    print(f"{'what':<20} {'seconds':>8} {'all files':>10}")
    for what, (line, tab) in lines.items():
        taken: dict[str, list[float]] = {"ours": [], "every": []}
        for _ in range(args.runs):
            taken["ours"].append(seconds(RUN, line, tab=tab))
            taken["every"].append(seconds(EVERY + RUN, line, tab=tab))
        row = {name: round(statistics.median(times), 2) for name, times in taken.items()}
        rows.append({"what": what, **row})
        print(f"{what:<20} {row['ours']:>8.2f} {row['every']:>10.2f}")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
