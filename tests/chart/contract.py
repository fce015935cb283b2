"""What the chart says and what the code reads are the same: settings, variables, ports, zones, accounts, commands.

Usage: contract.py REPOSITORY        Needs helm on the PATH.
"""

import json
import re
import subprocess
import sys
from pathlib import Path


class Contract:
    def __init__(self, root: Path):
        self.root, self.problems, self.claims = root, [], 0

    def source(self, path: str) -> str:
        return (self.root / path).read_text().split("#[cfg(test)]")[0]

    def same(self, what: str, chart, code) -> None:
        self.claims += 1
        if chart != code:
            self.problems.append(f"{what}: the chart says {chart}, the code {code}")

    def rendered(self, template: str, *settings: str) -> str:
        command = ["helm", "template", "sealign", str(self.root / "charts/sealign"), "--namespace", "sealign-system"]
        command += ["--set", "store.url=s3://bucket", "--show-only", f"templates/{template}", *settings]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def constant(self, path: str, name: str) -> str:
        return re.search(rf"const {name}: [^=]+= \"?([^\";]+)\"?;", self.source(path))[1].replace("_", "")


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


def settings(contract: Contract) -> None:
    """Every field of `Installation` is set, but for the URL, which has a variable of its own."""
    text = contract.source("crates/plan/src/installation.rs")
    body = re.search(r"pub struct Installation \{(.*?)\n\}", text, re.S)[1]
    fields = {camel(name) for name in re.findall(r"pub (\w+):", body)} - {"storeUrl"}
    everything = ["--set", "sandboxes.runtimeClassName=gvisor", "--set", "store.credentials.existingSecret=keys"]
    deployment = contract.rendered("operator/deployment.yaml", *everything)
    literal = re.search(r'name: SEALIGN_INSTALLATION\n\s+value: ("(?:\\.|[^"\\])*")', deployment)[1]
    contract.same("settings of the installation", set(json.loads(json.loads(literal))), fields)


def variables(contract: Contract) -> None:
    """Every variable that the chart sets is one that the operator reads, and the other way round."""
    source = contract.source("operator/src/config.rs")
    code = set(re.findall(r'get\("([A-Z_]+)"\)', source)) | set(re.findall(r'"(SEALIGN_[A-Z_]+)"', re.search(r"const SUITES.*", source)[0]))
    everything = ["--set", "sandboxes.allowedImages={a}", "--set", "sandboxes.interpreter=x"]
    set_by_chart = set(re.findall(r"- name: ([A-Z_]+)\n", contract.rendered("operator/deployment.yaml", *everything)))
    contract.same("variables of the operator", set_by_chart - {"RUST_LOG"}, code | {"SEALIGN_LEASE"})


def ports(contract: Contract) -> None:
    policies = contract.rendered("namespace/network-policies.yaml")
    resources = "crates/plan/src/resources"
    for name, policy, path, constant in [
        ("sandbox", "sandbox", "sandbox.rs", "PORT"),
        ("model server", "server", "model_server.rs", "PORT"),
        ("runner's metrics", "runner", "worker.rs", "HEALTH_PORT"),
    ]:
        document = next(text for text in policies.split("\n---") if f"name: sealign-{policy}\n" in text)
        ingress = document.split("ingress:")[1].split("egress:")[0]
        contract.same(f"port of the {name}", re.findall(r"port: (\d+)", ingress), [contract.constant(f"{resources}/{path}", constant)])
    service = contract.rendered("namespace/rank-service.yaml")
    contract.same("port of ranks", re.search(r"port: (\d+)", service)[1], contract.constant(f"{resources}/trainer.rs", "MASTER_PORT"))


def zones(contract: Contract) -> None:
    code = set(re.findall(r'Self::\w+ => "(\w+)"', contract.source("crates/plan/src/labels.rs")))
    accounts = set(re.findall(r"name: sealign-(\w+)\n", contract.rendered("namespace/accounts.yaml")))
    contract.same("zones", accounts, code)
    label = contract.constant("crates/plan/src/labels.rs", "ZONE")
    for template in ("namespace/network-policies.yaml", "admission/pods.yaml", "admission/jobs.yaml"):
        contract.same(f"zone label in {template}", set(re.findall(r"[a-z.]+/zone\b", contract.rendered(template))), {label})
    tokens = re.findall(r"name: sealign-(\w+)\n|automountServiceAccountToken: (\w+)", contract.rendered("namespace/accounts.yaml"))
    with_token = {zone for (zone, _), (_, token) in zip(tokens, tokens[1:]) if token == "true"}
    contract.same("zones with a token", with_token, {"runner"})


def grants(contract: Contract) -> None:
    """The roles grant what `sealign-operator access` lists, no more and no less."""
    source = contract.source("operator/src/access.rs")
    kinds = {path.stem for path in (contract.root / "crds/yaml").glob("*.yaml")}
    owned = {f"{name}s".lower() for name in re.findall(r"Kind::(\w+)", re.search(r"const CHILDREN[^=]*= \[(.*?)\];", source, re.S)[1])}
    code = set()
    for group, resource, verbs, scope in re.findall(r'grant\((GROUP|"[^"]*"), (.+?), &\[([^\]]*)\], Scope::(\w+)\)', source):
        verbs = ",".join(sorted(re.findall(r"\w+", verbs)))
        if group == "GROUP":
            suffix = re.search(r"\{\}(/\w+)", resource)
            of = owned if verbs == "create" else kinds
            code |= {(scope, "sealign.dev", kind + (suffix[1] if suffix else ""), verbs) for kind in of}
        else:
            code.add((scope, group.strip('"'), resource.strip('"'), verbs))
    granted = {}
    for document in contract.rendered("operator/roles.yaml", "--set", "rbac.ownerReferencesEnforced=true").split("\n---"):
        head, _, rules = document.partition("\nrules:\n")
        scope = "Cluster" if "kind: ClusterRole\n" in head else "Own" if "-lease" in head else "Enabled"
        for group, resources, verbs in re.findall(r"apiGroups: \[(.*?)\]\n\s+resources: \[(.*?)\]\n(?:\s+resourceNames: .*\n)?\s+verbs: \[(.*?)\]", rules):
            for resource in resources.split(", "):
                granted.setdefault((scope, group.strip('"'), resource), set()).update(verbs.split(", "))
    chart = {(*key, ",".join(sorted(verbs))) for key, verbs in granted.items()}
    # Creation of children and reading of our kinds are grants of different scopes, so that they stay apart.
    contract.claims += 1
    for grant in sorted(chart ^ code):
        contract.problems.append(f"{'the chart alone grants' if grant in chart else 'the code alone needs'} {grant}")


def workspace(contract: Contract) -> None:
    version = re.search(r'^version = "([^"]+)"', (contract.root / "Cargo.toml").read_text(), re.M)[1]
    chart = (contract.root / "charts/sealign/Chart.yaml").read_text()
    contract.same("version of the application", re.search(r"^appVersion: (\S+)", chart, re.M)[1].strip('"'), version)
    binary = re.search(r'\[\[bin\]\]\nname = "([^"]+)"', (contract.root / "operator/Cargo.toml").read_text())[1]
    contract.same("program of the operator", re.search(r"command: \[(\S+)\]", contract.rendered("operator/deployment.yaml"))[1], binary)


def main() -> int:
    contract = Contract(Path(sys.argv[1]))
    for part in (settings, variables, ports, zones, grants, workspace):
        part(contract)
    for problem in contract.problems:
        print(problem)
    print(f"{contract.claims} claims")
    return bool(contract.problems)


if __name__ == "__main__":
    sys.exit(main())
