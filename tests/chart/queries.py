"""Every query of every dashboard is PromQL: promtool reads them as the expressions of recording rules.

Usage: queries.py DASHBOARD_FOLDER
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import promql


def main() -> int:
    folder = Path(sys.argv[1])
    expressions = promql.of_dashboards(folder)
    rules = [{"record": f"query:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        # JSON is YAML.
        json.dump({"groups": [{"name": "queries", "rules": rules}]}, file)
        file.flush()
        result = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True)
    if result.returncode:
        print(result.stdout, result.stderr)
        for number, (where, expression) in enumerate(expressions):
            print(f"query:{number} is {where}: {expression}")
        return 1
    problems = [problem for path in sorted(folder.glob("*.json")) for problem in faults(path)]
    if not expressions:
        problems.append(f"{folder} has no dashboards")
    for problem in problems:
        print(problem)
    print(f"{len(expressions)} queries of {len(list(folder.glob('*.json')))} dashboards")
    return bool(problems)


def faults(path: Path) -> list[str]:
    """What Grafana would take but people would not."""
    document = json.loads(path.read_text())
    found = []
    if document["uid"] != f"sealign-{path.stem}":
        found.append(f"{path.name}: the uid must be sealign-{path.stem}: links rest on it")
    if path.stat().st_size > 1_000_000:
        found.append(f"{path.name}: a ConfigMap holds 1 MiB")
    places = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        if place["x"] + place["w"] > 24 or cells & places:
            found.append(f"{path.name}: {panel['title']} overlaps another panel or leaves the grid")
        places |= cells
        if panel["type"] != "row" and panel["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            found.append(f"{path.name}: {panel['title']} does not use the data source variable")
    return found


if __name__ == "__main__":
    sys.exit(main())
