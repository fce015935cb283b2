"""Every alert has a test in which it fires and one in which it does not, and a heading in the documentation.

Usage: alerts.py RULES_FOLDER TESTS_FOLDER DOCUMENT
"""

import re
import sys
from pathlib import Path


def main() -> int:
    rules, tests, document = map(Path, sys.argv[1:])
    alerts = [name for path in sorted(rules.glob("*.yaml")) for name in re.findall(r"alert: (\w+)", path.read_text())]
    fires, silent = set(), set()
    for path in tests.glob("*.test.yaml"):
        for name, rest in re.findall(r"alertname: (\w+)(.*?)(?=alertname:|\Z)", path.read_text(), re.S):
            (silent if re.search(r"exp_alerts: \[\]", rest.split("- name:")[0]) else fires).add(name)
    headings = set(re.findall(r"^### (\w+)$", document.read_text(), re.M))
    problems = [f"{name} is defined twice" for name in sorted({name for name in alerts if alerts.count(name) > 1})]
    problems += [f"{name} has no test in which it fires" for name in alerts if name not in fires]
    problems += [f"{name} has no test in which it stays silent" for name in alerts if name not in silent]
    problems += [f"{name} has no heading in {document.name}" for name in alerts if name not in headings]
    problems += [f"{name} is documented or tested but not defined" for name in sorted((headings & {n for n in headings if n.startswith("Sealign")} | fires | silent) - set(alerts))]
    for problem in problems:
        print(problem)
    print(f"{len(alerts)} alerts, each fires in a test, stays silent in one, and is documented" if not problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
