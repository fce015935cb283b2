"""Every metric that a dashboard or an alert names is one that the code registers.

Usage: metrics.py REPOSITORY
"""

import re
import sys
from pathlib import Path

import promql

SOURCES = ["operator/src", "crates/worker/src", "crates/reconcile/src", "trainer/src"]
# What the process collector of the prometheus crate registers on Linux.
PROCESS = {
    f"process_{name}"
    for name in ("cpu_seconds_total", "open_fds", "max_fds", "virtual_memory_bytes", "resident_memory_bytes", "start_time_seconds", "threads")
}
# Served by the trainer's own programs, which docs/trainer.md describes.
LISTED_ELSEWHERE = ("sealign_trainer_", "sealign_serve_")
NAME = r'"((?:sealign|controller_runtime|leader_election|rest_client|workqueue)_[a-z0-9_]+)"'


def registered(root: Path) -> set[str]:
    """Names in the code, tests left out."""
    names = set()
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.rs")):
            names |= set(re.findall(NAME, path.read_text().split("#[cfg(test)]")[0]))
    return names | PROCESS


def main() -> int:
    root = Path(sys.argv[1])
    chart = root / "charts" / "sealign"
    known, used, problems = registered(root), set(), []
    expressions = promql.of_dashboards(chart / "dashboards") + promql.of_rules(chart / "rules")
    for where, expression in expressions:
        for name in sorted(promql.metrics(expression)):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            used.add(name if name in known else base)
            if name not in known and base not in known:
                problems.append(f"{where}: no code registers {name}")
    document = (root / "docs" / "observability.md").read_text()
    for name in sorted(known - PROCESS):
        if f"`{name}`" not in document and not name.startswith(LISTED_ELSEWHERE):
            problems.append(f"docs/observability.md does not list {name}")
    for name in sorted(set(re.findall(r"^\| `([a-z_0-9]+)`", document, re.M)) - known):
        problems.append(f"docs/observability.md lists {name}, which no code registers")
    for problem in problems:
        print(problem)
    ours = {name for name in known - PROCESS - used if name.startswith("sealign_")}
    unused = sorted(name for name in ours if not name.startswith(LISTED_ELSEWHERE))
    print(f"{len(expressions)} expressions over {len(used)} metrics; on no dashboard and in no alert: {', '.join(unused) or 'none'}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
