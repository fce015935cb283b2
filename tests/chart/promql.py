"""What the checks of expressions share: where expressions stand, and which metrics one names."""

import json
import re
from pathlib import Path

KEYWORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "inf", "nan"}
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}


def of_dashboards(folder: Path) -> list[tuple[str, str]]:
    """(where, expression) of every target of every panel, with variables filled in."""
    found = []
    for path in sorted(folder.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"]
                for name, value in VARIABLES.items():
                    expression = expression.replace(name, value)
                found.append((f"{path.name}: {panel['title']}", re.sub(r"\$\w+", ".*", expression)))
    return found


def of_rules(folder: Path) -> list[tuple[str, str]]:
    """(where, expression) of every rule. The files are ours: `expr` is one line or a literal block."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        for name, line, block in re.findall(r"alert: (\w+)\n\s+expr: (?:\|\n((?:\s{10,}.*\n)+)|(.*)\n)", path.read_text()):
            found.append((f"{path.name}: {name}", line or block))
    return found


def metrics(expression: str) -> set[str]:
    """Names of the metrics of an expression: identifiers that are neither labels, nor functions, nor keywords."""
    expression = re.sub(r'"(\\.|[^"\\])*"', '""', expression)
    expression = re.sub(r"\{[^}]*\}", "", expression)
    expression = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    expression = re.sub(r"\[[^\]]*\]", "", expression)
    names = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)(?!\w)(?!\s*\()", expression)
    return {name for name in names if name.lower() not in KEYWORDS}
