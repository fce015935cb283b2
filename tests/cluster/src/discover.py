"""Finds the targets of the chart's monitors as the Prometheus operator would: Services or pods by labels and namespaces, and of
those a port by its name. Writes a file of targets a monitor, which Prometheus follows (Debian's build of it cannot ask Kubernetes
itself). Runs until it is killed.

Usage: discover.py SERVER KEYS MONITORS TARGETS
  KEYS has ca.crt, admin.crt, admin.key; MONITORS is a JSON list of {name, kind, namespaces, labels, port, jobLabel}.
"""

import json
import os
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

# A watch ends by itself after these seconds and begins with a new list.
WATCH_SECONDS = 300
RETRY_SECONDS = 0.5


class Cluster:
    def __init__(self, server: str, keys: Path):
        self.server = server
        self.tls = ssl.create_default_context(cafile=keys / "ca.crt")
        self.tls.load_cert_chain(keys / "admin.crt", keys / "admin.key")

    def get(self, path: str, labels: dict, **parameters):
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        query = urllib.parse.urlencode({"labelSelector": selector, **parameters})
        return urllib.request.urlopen(f"{self.server}{path}?{query}", context=self.tls, timeout=WATCH_SECONDS + 30)

    def list(self, path: str, labels: dict) -> dict:
        with self.get(path, labels) as answer:
            return json.load(answer)

    def follow(self, path: str, labels: dict, see, forget) -> None:
        """Calls `see(object)` for each object that there is or will be, and `forget(name)` for each that goes."""
        known = set()
        while True:
            try:
                listed = self.list(path, labels)
                names = {item["metadata"]["name"] for item in listed["items"]}
                for name in known - names:
                    forget(name)
                known = names
                for item in listed["items"]:
                    see(item)
                version = listed["metadata"]["resourceVersion"]
                with self.get(path, labels, watch="true", resourceVersion=version, timeoutSeconds=WATCH_SECONDS) as events:
                    for line in events:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        name = event["object"]["metadata"]["name"]
                        if event["type"] == "DELETED":
                            known.discard(name)
                            forget(name)
                        else:
                            known.add(name)
                            see(event["object"])
            except (OSError, ValueError) as error:
                print(f"{path}: {error}", flush=True)
            time.sleep(RETRY_SECONDS)


class Targets:
    """The targets of a monitor, by the namespace and name of what they are found by."""

    def __init__(self, path: Path):
        self.path, self.groups, self.lock = path, {}, threading.Lock()
        self.set(None, [])

    def set(self, key, groups: list) -> None:
        with self.lock:
            if self.groups.get(key) == groups:
                return
            self.groups[key] = groups
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps([group for found in self.groups.values() for group in found]))
            os.replace(temporary, self.path)


def pod_targets(pod: dict, monitor: dict) -> list:
    address = pod["status"].get("podIP")
    if not address or pod["status"].get("phase") not in ("Pending", "Running"):
        return []
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
    labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
    return [
        {"targets": [f"{address}:{port['containerPort']}"], "labels": labels}
        for port in ports
        if port.get("name") == monitor["port"]
    ]


def slice_targets(endpoints: dict, service: dict, monitor: dict) -> list:
    labels = {"namespace": service["metadata"]["namespace"], "service": service["metadata"]["name"]}
    job = service["metadata"].get("labels", {}).get(monitor.get("jobLabel"))
    if job:
        labels["job"] = job
    return [
        {"targets": [f"{address}:{port['port']}"], "labels": {**labels, "pod": endpoint.get("targetRef", {}).get("name", "")}}
        for endpoint in endpoints.get("endpoints") or []
        for address in endpoint["addresses"]
        for port in endpoints.get("ports") or []
        if port.get("name") == monitor["port"]
    ]


def follow_pods(cluster: Cluster, monitor: dict, namespace: str, targets: Targets) -> None:
    cluster.follow(
        f"/api/v1/namespaces/{namespace}/pods",
        monitor["labels"],
        lambda pod: targets.set((namespace, pod["metadata"]["name"]), pod_targets(pod, monitor)),
        lambda name: targets.set((namespace, name), []),
    )


def follow_service(cluster: Cluster, monitor: dict, service: dict, targets: Targets) -> None:
    namespace = service["metadata"]["namespace"]
    cluster.follow(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        {"kubernetes.io/service-name": service["metadata"]["name"]},
        lambda found: targets.set((namespace, found["metadata"]["name"]), slice_targets(found, service, monitor)),
        lambda name: targets.set((namespace, name), []),
    )


def main() -> None:
    server, keys, monitors, folder = sys.argv[1], *map(Path, sys.argv[2:])
    cluster, threads = Cluster(server, keys), []
    for monitor in json.loads(monitors.read_text()):
        targets = Targets(folder / f"{monitor['name']}.json")
        for namespace in monitor["namespaces"]:
            if monitor["kind"] == "PodMonitor":
                threads.append(threading.Thread(target=follow_pods, args=(cluster, monitor, namespace, targets)))
                continue
            # Services are those of the chart, which is installed before this starts.
            for service in cluster.list(f"/api/v1/namespaces/{namespace}/services", monitor["labels"])["items"]:
                threads.append(threading.Thread(target=follow_service, args=(cluster, monitor, service, targets)))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
