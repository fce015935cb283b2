"""Values that cannot be meant are refused, and the message names the value.

Usage: refusals.py CHART        Needs helm on the PATH.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# What is set (as --set-json) and what the error has to name.
CASES = [
    ('operator.replica=3', "replica"),
    ('operator={"replicas": -1}', "/operator/replicas"),
    ('operator={"replicas": "two"}', "/operator/replicas"),
    ('operator={"concurrency": 0}', "/operator/concurrency"),
    ('operator={"pollSeconds": 0}', "/operator/pollSeconds"),
    ('operator={"port": 80}', "/operator/port"),
    ('operator={"leaseName": "Not A Name"}', "/operator/leaseName"),
    ('operator={"resources": {"limit": {}}}', "limit"),
    ('operator={"extraEnv": [{"value": "x"}]}', "/operator/extraEnv/0"),
    ('operator={"extraEnv": [{"name": "SEALIGN_STORE", "value": "s3://x"}]}', "/operator/extraEnv/0/name"),
    ('operator={"podLabels": {"a": 1}}', "/operator/podLabels/a"),
    ('namespaces=[]', "/namespaces"),
    ('namespaces=["a","a"]', "/namespaces"),
    ('namespaces=["Team A"]', "/namespaces/0"),
    ('namespaces=[{"name": "a"}]', "/namespaces/0"),
    ('store={"url": "http://bucket"}', "/store/url"),
    ('store={"url": "s3://"}', "/store/url"),
    ('store={"credentials": {"create": {"password": "x"}}}', "password"),
    ('store={"credentials": {"secret": "x"}}', "secret"),
    ('image={"repository": ""}', "/image/repository"),
    ('image={"repository": "a b"}', "/image/repository"),
    ('image={"digest": "sha256:1"}', "/image/digest"),
    ('image={"pullPolicy": "Sometimes"}', "/image/pullPolicy"),
    ('trainerImage={"pullPolicy": "Always"}', "pullPolicy"),
    ('imagePullSecrets=[{"name": "x"}]', "/imagePullSecrets/0"),
    ('crds={"install": true}', "install"),
    ('serviceAccounts={"prefix": "9a"}', "/serviceAccounts/prefix"),
    ('serviceAccounts={"annotations": {"a": true}}', "/serviceAccounts/annotations/a"),
    ('rbac={"aggregate": "yes"}', "/rbac/aggregate"),
    ('sandboxes={"hostUsers": true}', "hostUsers"),
    ('rounds={"workerRoundSeconds": 1}', "/rounds/workerRoundSeconds"),
    ('networkPolicy={"store": {"to": [{"cidr": "10.0.0.0/8"}]}}', "/networkPolicy/store/to/0"),
    ('networkPolicy={"store": {"ports": []}}', "/networkPolicy/store/ports"),
    ('networkPolicy={"store": {"ports": [70000]}}', "/networkPolicy/store/ports/0"),
    ('networkPolicy={"extraEgress": {"sandbox": [{}]}}', "sandbox"),
    ('admission={"actions": []}', "/admission/actions"),
    ('admission={"actions": ["Allow"]}', "/admission/actions/0"),
    ('admission={"podCreators": []}', "/admission/podCreators"),
    ('sandboxes={"allowedImages": ["it\'s"]}', "/sandboxes/allowedImages/0"),
    ('admission={"images": {"runner": ["x"]}}', "runner"),
    ('admission={"modelSecrets": ["x\' || true"]}', "/admission/modelSecrets/0"),
    ('metrics={"serviceMonitor": {"interval": "often"}}', "/metrics/serviceMonitor/interval"),
    ('metrics={"prometheusRule": {"disabled": ["Other"]}}', "/metrics/prometheusRule/disabled/0"),
    ('metrics={"dashboards": {"folder": "x"}}', "folder"),
    ('tests={"command": []}', "command"),
    ('affinity={}', "affinity"),
    ('fullnameOverride="Bad_Name"', "/fullnameOverride"),
]
# What a schema alone would not show: a good value beside the bad ones is taken.
TAKEN = [
    'operator={"replicas": 0}',
    'namespaces=["a","b"]',
    'store={"url": "az://container/prefix", "credentials": {"create": {"AZURE_STORAGE_ACCOUNT_NAME": "x"}}}',
    'networkPolicy={"store": {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [9000]}}',
    'sandboxes={"allowedImages": ["swe/*"]}',
]


def render(chart: str, value: str) -> subprocess.CompletedProcess:
    command = ["helm", "template", "x", chart, "--show-only", "templates/operator/deployment.yaml"]
    if not value.startswith("store="):
        command += ["--set", "store.url=s3://bucket"]
    return subprocess.run(command + ["--set-json", value], capture_output=True, text=True)


def main() -> int:
    chart = sys.argv[1]
    problems = []
    with ThreadPoolExecutor(2) as pool:
        for (value, named), result in zip(CASES, pool.map(lambda case: render(chart, case[0]), CASES)):
            message = result.stderr.replace(".", "/") if "/" in named else result.stderr
            if result.returncode == 0:
                problems.append(f"{value} was taken")
            elif named not in message or "schema" not in result.stderr:
                problems.append(f"{value} was refused without naming {named}: {result.stderr}")
        for value, result in zip(TAKEN, pool.map(lambda value: render(chart, value), TAKEN)):
            if result.returncode:
                problems.append(f"{value} was refused: {result.stderr}")
    documented = json.loads((Path(chart) / "values.schema.json").read_text())
    problems += [f"values.schema.json: {where} takes unknown values" for where in open_objects(documented, "")]
    for problem in problems:
        print(problem)
    print(f"{len(CASES)} refused, {len(TAKEN)} taken")
    return bool(problems)


def open_objects(schema: dict, where: str) -> list[str]:
    """Objects with named properties that take others too."""
    found = []
    if "properties" in schema and schema.get("additionalProperties") is not False and "required" not in schema:
        found.append(where or "the top")
    for name, inner in schema.get("properties", {}).items():
        found += open_objects(inner, f"{where}/{name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
