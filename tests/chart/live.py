"""What a Prometheus saw of a run, looked at as the chart does: every query of a dashboard returned data (but for HURRIED), every
series that an alert looks at was there, and no alert fired.

Usage: live.py CHART URL START        START: seconds since 1970 at which the run began.
"""

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import promql

# Seconds between looks; a runner of a small campaign lives for ten.
STEP = 1
# Selectors of series that a run without trouble need not make, and why.
SILENT = {
    'sealign_resource_condition{type="Succeeded",status="False"}': "no object fails",
    'sealign_resource_condition{type="BudgetExhausted",status="True"}': "no campaign has a budget to spend",
    'sealign_resource_condition{type="ImagePullFailing",status="True"}': "every image is there",
    'sealign_resource_condition{type="Unschedulable",status="True"}': "the nodes have room",
    'sealign_resource_condition{kind="RolloutCampaign",type="Suspended",status="True"}': "nobody suspends one",
    'rest_client_requests_total{code="403"}': "the roles suffice",
    'rest_client_requests_total{code=~"5..|<error>"}': "the API server answers",
    'sealign_runner_attempts{outcome="Tampered"}': "no attempt tampers",
    'sealign_runner_attempts{outcome="Infra"}': "no attempt is lost",
    'sealign_runner_model_requests_total{result=~"unavailable|refused"}': "every model answers",
}


# A training step's figures reach a status every 30 seconds; a step of a test may be over before. Queries of these metrics may
# return nothing, which is told and no fault.
HURRIED = {"sealign_training_loss", "sealign_training_reward_margin", "sealign_training_tokens_per_second"}


class Prometheus:
    def __init__(self, url: str, start: float):
        self.url, self.start, self.end = url, start, time.time()

    def ask(self, path: str, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list:
        """Series that the expression had at any time of the run."""
        return self.ask("query_range", query=expression, start=self.start, end=self.end, step=STEP)["result"]


def selectors(expression: str) -> list[str]:
    """The metrics of an expression with the labels that it asks for."""
    names = "|".join(sorted(promql.metrics(expression), key=len, reverse=True))
    return re.findall(rf"(?<![\w.])(?:{names})(?!\w)(?:\{{[^}}]*\}})?", expression)


def main() -> int:
    chart, url, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    prometheus, problems = Prometheus(url, start), []
    queries, missed = promql.of_dashboards(chart / "dashboards"), []
    for where, expression in queries:
        if prometheus.series(expression):
            continue
        if promql.metrics(expression) <= HURRIED:
            missed.append(expression)
        else:
            problems.append(f"{where}: no data: {expression}")
    looked_at = {}
    for where, expression in promql.of_rules(chart / "rules"):
        for selector in selectors(expression):
            looked_at.setdefault(selector, where)
    for selector, where in looked_at.items():
        if selector not in SILENT and not prometheus.series(selector):
            problems.append(f"{where}: no series {selector}")
    problems += [f"no alert looks at {selector}: take it off the list" for selector in SILENT if selector not in looked_at]
    fired = {series["metric"]["alertname"] for series in prometheus.series('ALERTS{alertstate="firing"}')}
    problems += [f"{alert} fired" for alert in sorted(fired)]
    for problem in problems:
        print(problem)
    if problems:
        targets = prometheus.ask("targets")["activeTargets"]
        for target in targets:
            print(f"target {target['scrapePool']}: {target['health']} {target['lastError']}")
    present = [selector for selector in SILENT if prometheus.series(selector)]
    print(f"{len(queries) - len(missed)} of {len(queries)} queries of dashboards returned data; {len(looked_at)} series that alerts look at, {len(SILENT) - len(present)} of them absent because nothing went wrong")
    for expression in missed:
        print(f"over before its figures were due: {expression}")
    for selector in present:
        print(f"present in this run: {selector}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
