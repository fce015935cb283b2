"""The admission policies on a real API server: pods as the operator makes them are admitted, hostile variants are not.

Usage: admission.py CHART        Needs helm, kubectl, kube-apiserver and etcd on the PATH.

A variant changes one thing of a good pod. It counts as refused by the policy, or by the API server's own validation where that
comes first. At the end every rule of the policies has to have refused something, and nothing hostile was admitted.
"""

import copy
import subprocess
import sys
import time

from apiserver import ApiServer

NAMESPACE = "team-a"
OPERATOR = "system:serviceaccount:sealign-system:sealign-operator"
JOBS = "system:serviceaccount:kube-system:job-controller"
SETTINGS = [
    "store.url=s3://bucket", "store.credentials.existingSecret=store", f"namespaces={{{NAMESPACE}}}",
    "admission.modelSecrets={llm}", "sandboxes.allowedImages={task,swe/*}", "admission.images.trainer={team/trainer}",
    "admission.images.server={vllm}", "admission.jobCreators={queue-owner}",
]  # fmt: skip
LIMITS = {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}
SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "privileged": False}
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def container(name, image, **fields):
    return {"name": name, "image": image, "resources": {"limits": dict(LIMITS)}, "securityContext": copy.deepcopy(SAFE)} | fields


def pod(zone, spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{zone}-",
            "labels": {"sealign.dev/zone": zone, "sealign.dev/owner-uid": "u", "app.kubernetes.io/managed-by": "sealign"},
            "annotations": {"sealign.dev/round-map": "{}"},
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": zone == "runner",
            "enableServiceLinks": False,
            "serviceAccountName": f"sealign-{zone}",
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        }
        | spec,
    }


def sandbox():
    """A task that is part of its image: root of a user namespace."""
    uid = {"name": "SEALIGN_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return pod(
        "sandbox",
        {
            "hostUsers": False,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "initContainers": [container("server", "sealign:0.1.0")],
            "containers": [container("main", "swe/django:1", env=[uid], ports=[{"containerPort": 7070}])],
            "volumes": [{"name": "sealign", "emptyDir": {"sizeLimit": "64Mi"}}],
        },
    )


def trusted(zone):
    image = {"trainer": "sealign-trainer:0.1.0", "server": "vllm"}.get(zone, "sealign:0.1.0")
    secrets = [("AWS_ACCESS_KEY_ID", "store")] + ([("SEALIGN_MODEL_KEY_0", "llm")] if zone == "runner" else [])
    env = [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}}} for name, secret in secrets]
    probe = {"httpGet": {"path": "/readyz", "port": 8081}}
    return pod(
        zone,
        {
            "containers": [container("main", image, env=env, readinessProbe=probe)],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        },
    )


def put(path, value):
    """A change: the value at a path of keys and indexes, made on the way; None removes it."""

    def change(document):
        at = document
        for step, following in zip(path, path[1:]):
            if isinstance(at, dict):
                at = at.setdefault(step, [] if isinstance(following, int) else {})
            else:
                while len(at) <= step:
                    at.append({})
                at = at[step]
        if value is None:
            at.pop(path[-1], None)
        elif isinstance(at, list) and path[-1] == len(at):
            at.append(copy.deepcopy(value))
        else:
            # A copy: the next variant is made of the same value, and changes it.
            at[path[-1]] = copy.deepcopy(value)

    return change


# Changes of one container; each is tried on main, init and sidecar containers.
OF_CONTAINER = {
    "privilege escalation": (["securityContext", "allowPrivilegeEscalation"], True),
    "privilege escalation by default": (["securityContext", "allowPrivilegeEscalation"], None),
    "privileged": (["securityContext"], {"privileged": True, "capabilities": {"drop": ["ALL"]}}),
    "no security context": (["securityContext"], None),
    "another procMount": (["securityContext", "procMount"], "Unmasked"),
    "no dropped capability": (["securityContext", "capabilities"], None),
    "one dropped capability": (["securityContext", "capabilities", "drop"], ["NET_RAW"]),
    "SYS_ADMIN": (["securityContext", "capabilities", "add"], ["SYS_ADMIN"]),
    "NET_BIND_SERVICE": (["securityContext", "capabilities", "add"], ["NET_BIND_SERVICE"]),
    "unconfined seccomp": (["securityContext", "seccompProfile"], {"type": "Unconfined"}),
    "a seccomp profile of the node": (["securityContext", "seccompProfile"], {"type": "Localhost", "localhostProfile": "x"}),
    "unconfined AppArmor": (["securityContext", "appArmorProfile"], {"type": "Unconfined"}),
    "an SELinux type": (["securityContext", "seLinuxOptions"], {"type": "spc_t"}),
    "an SELinux user": (["securityContext", "seLinuxOptions"], {"user": "system_u"}),
    "an SELinux role": (["securityContext", "seLinuxOptions"], {"role": "system_r"}),
    "a Windows host process": (["securityContext", "windowsOptions"], {"hostProcess": True}),
    "a host port": (["ports"], [{"containerPort": 7070, "hostPort": 7070}]),
    "no limits": (["resources"], {}),
    "no memory limit": (["resources", "limits"], {"cpu": "1", "ephemeral-storage": "1Gi"}),
    "no disk limit": (["resources", "limits"], {"cpu": "1", "memory": "1Gi"}),
    "all keys of a Secret": (["envFrom"], [{"secretRef": {"name": "store"}}]),
    "all keys of a ConfigMap": (["envFrom"], [{"configMapRef": {"name": "x"}}]),
    "a key of a ConfigMap": (["env"], [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}]),
    "a key of a foreign Secret": (["env"], [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "y"}}}]),
    "a key of a foreign Secret behind a good one": (
        ["env"],
        [{"name": "B", "value": "b"}, {"name": "A", "valueFrom": {"secretKeyRef": {"name": "other", "key": "y"}}}],
    ),
    "a block device": (["volumeDevices"], [{"name": "tmp", "devicePath": "/dev/x"}]),
}
# Of containers of a sandbox beside those.
OF_SANDBOX_CONTAINER = {
    "the storage Secret": (["env"], [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "store", "key": "y"}}}]),
    "a model key": (["env"], [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "y"}}}]),
    "an image of somebody": (["image"], "evil:1"),
    "an image whose name begins like a good one": (["image"], "sealign-evil:1"),
    "an image whose name ends like a good one": (["image"], "evil/task"),
    "an image that a pattern's dot would match": (["image"], "python:3x12-slim"),
}
OF_SANDBOX_MAIN = {
    "a hook": (["lifecycle"], {"postStart": {"exec": {"command": ["x"]}}}),
    "a request of the kubelet": (["livenessProbe"], {"httpGet": {"host": "169.254.169.254", "path": "/", "port": 80}}),
    "a readiness probe": (["readinessProbe"], {"exec": {"command": ["x"]}}),
    "a startup probe": (["startupProbe"], {"exec": {"command": ["x"]}}),
}
# Of a pod.
OF_POD = {
    "the host's network": (["spec", "hostNetwork"], True),
    "the host's processes": (["spec", "hostPID"], True),
    "the host's IPC": (["spec", "hostIPC"], True),
    "a shared process namespace": (["spec", "shareProcessNamespace"], True),
    "a node of one's choice": (["spec", "nodeName"], "n1"),
    "a restart": (["spec", "restartPolicy"], "OnFailure"),
    "service links": (["spec", "enableServiceLinks"], True),
    "service links by default": (["spec", "enableServiceLinks"], None),
    "no seccomp": (["spec", "securityContext", "seccompProfile"], None),
    "unconfined seccomp": (["spec", "securityContext", "seccompProfile"], {"type": "Unconfined"}),
    "unconfined AppArmor": (["spec", "securityContext", "appArmorProfile"], {"type": "Unconfined"}),
    "an SELinux type": (["spec", "securityContext", "seLinuxOptions"], {"type": "spc_t"}),
    "a Windows host process": (["spec", "securityContext", "windowsOptions"], {"hostProcess": True}),
    "a safe sysctl": (["spec", "securityContext", "sysctls"], [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]),
    "a kernel sysctl": (["spec", "securityContext", "sysctls"], [{"name": "kernel.msgmax", "value": "0"}]),
    "another zone's account": (["spec", "serviceAccountName"], "sealign-report"),
    "the default account": (["spec", "serviceAccountName"], "default"),
    "a folder of the node": (["spec", "volumes", 0], {"name": "x", "hostPath": {"path": "/"}}),
    "a Secret's volume": (["spec", "volumes", 0], {"name": "x", "secret": {"secretName": "store"}}),
    "a ConfigMap's volume": (["spec", "volumes", 0], {"name": "x", "configMap": {"name": "x"}}),
    "a claim": (["spec", "volumes", 0], {"name": "x", "persistentVolumeClaim": {"claimName": "x"}}),
    "a CSI volume": (["spec", "volumes", 0], {"name": "x", "csi": {"driver": "x"}}),
    "an NFS volume": (["spec", "volumes", 0], {"name": "x", "nfs": {"server": "x", "path": "/"}}),
    "an image volume": (["spec", "volumes", 0], {"name": "x", "image": {"reference": "x"}}),
    "an ephemeral claim": (
        ["spec", "volumes", 0],
        {"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}},
    ),
    "a downward volume": (["spec", "volumes", 0], {"name": "x", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
    "a projected Secret": (["spec", "volumes", 0], {"name": "x", "projected": {"sources": [{"secret": {"name": "store"}}]}}),
    "a zone that does not exist": (["metadata", "labels", "sealign.dev/zone"], "kernel"),
    "no zone": (["metadata", "labels", "sealign.dev/zone"], None),
}
OF_SANDBOX = {
    "root of the node": (["spec", "hostUsers"], None),
    "a projected token": (["spec", "volumes", 0], {"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}),
    "a token": (["spec", "automountServiceAccountToken"], True),
    "a token by default": (["spec", "automountServiceAccountToken"], None),
    "a device": (["spec", "resourceClaims"], [{"name": "x", "resourceClaimName": "y"}]),
    "a second container": (["spec", "containers", 1], container("second", "swe/x")),
}
OF_TRUSTED = {
    "root": (["spec", "securityContext", "runAsUser"], 0),
    "whoever the image says": (["spec", "securityContext", "runAsNonRoot"], None),
    "root in a user namespace": (["spec"], {"hostUsers": False, "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}),
    "a container as root": (["spec", "containers", 0, "securityContext", "runAsUser"], 0),
    "a container that may be root": (["spec", "containers", 0, "securityContext", "runAsNonRoot"], False),
}


def merged(path, value):
    """`put`, but a map is merged into a whole spec."""
    if path == ["spec"]:
        return lambda document: document["spec"].update(copy.deepcopy(value))
    return put(path, value)


def variants(zone, good):
    """(what, document) of every hostile variant of a pod."""

    def of(what, *changes):
        document = copy.deepcopy(good)
        for change in changes:
            change(document)
        return f"{zone}: {what}", document

    for what, (path, value) in (OF_POD | (OF_SANDBOX if zone == "sandbox" else OF_TRUSTED)).items():
        if not (zone == "report" and what == "another zone's account"):
            yield of(what, merged(path, value))
    if zone not in ("sandbox", "runner"):
        yield of("a token", put(["spec", "automountServiceAccountToken"], True))
        yield of("a model key", put(["spec", "containers", 0, "env"], [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "k"}}}]))
    image = good["spec"]["initContainers"][0]["image"] if zone == "sandbox" else good["spec"]["containers"][0]["image"]
    extra = container("extra", image)
    places = {"main": (["spec", "containers", 0], []), "init": (["spec", "initContainers", 0], [])}
    if zone != "sandbox":
        places["init"] = (["spec", "initContainers", 0], [put(["spec", "initContainers"], [extra])])
    places["sidecar"] = (["spec", "initContainers", 0], [put(["spec", "initContainers"], [extra | {"restartPolicy": "Always"}])])
    for place, (at, before) in places.items():
        of_container = OF_CONTAINER | (OF_SANDBOX_CONTAINER if zone == "sandbox" else {})
        if place == "main" and zone == "sandbox":
            of_container = of_container | OF_SANDBOX_MAIN
        for what, (path, value) in of_container.items():
            yield of(f"{place}: {what}", *before, put(at + path, value))
    if zone == "sandbox":
        yield of("a sidecar", put(["spec", "initContainers", 0, "restartPolicy"], "Always"))
    else:
        yield of("an image of somebody", put(["spec", "containers", 0, "image"], "evil:1"))


class Checks:
    def __init__(self, server):
        self.server, self.problems, self.messages = server, [], set()
        self.admitted = self.refused = self.invalid = 0

    def good(self, what, method, path, body, user=None, **more):
        status, answer = self.server.call(method, path, body, user, **more)
        if status >= 300:
            self.problems.append(f"refused, but good: {what}: {answer['message']}")
        self.admitted += 1
        return answer

    def hostile(self, what, method, path, body, user=None, **more):
        status, answer = self.server.call(method, path, body, user, **more)
        if status < 300:
            self.problems.append(f"admitted: {what}")
        elif "ValidatingAdmissionPolicy 'sealign-" in answer["message"]:
            self.refused += 1
            self.messages.add(answer["message"].split("denied request: ")[-1])
        elif status == 422:
            self.invalid += 1
        else:
            self.problems.append(f"refused for another reason: {what}: {status} {answer['message']}")


def created(checks):
    dry = PODS + "?dryRun=All"
    goods = {"sandbox": sandbox()} | {zone: trusted(zone) for zone in ("resolve", "runner", "forest", "trainer", "server", "report")}
    for zone, good in goods.items():
        checks.good(f"{zone} pod", "POST", dry, good, JOBS)
        for who in ("somebody", OPERATOR, "system:serviceaccount:kube-system:replicaset-controller"):
            checks.hostile(f"{zone} pod of {who}", "POST", dry, good, who)
        for what, document in variants(zone, good):
            checks.hostile(what, "POST", dry, document, JOBS)
    nobody = copy.deepcopy(goods["sandbox"])
    nobody["spec"] |= {"securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}}
    del nobody["spec"]["hostUsers"]
    nobody["spec"]["containers"][0]["image"] = "python:3.12-slim"
    checks.good("a sandbox that is nobody", "POST", dry, nobody, JOBS)
    digest = copy.deepcopy(goods["sandbox"])
    digest["spec"]["initContainers"][0]["image"] = "sealign@sha256:" + "0" * 64
    checks.good("the installation's image by digest", "POST", dry, digest, JOBS)
    free = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "free"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    checks.good("somebody else's pod", "POST", dry, free, "somebody")
    thief = copy.deepcopy(free)
    thief["spec"]["serviceAccountName"] = "sealign-runner"
    checks.hostile("somebody's pod with a runner's account", "POST", dry, thief, "somebody")
    return goods


def updated(checks, goods):
    merge = {"content": "application/merge-patch+json"}
    for zone in ("sandbox", "runner"):
        made = checks.good(f"{zone} pod", "POST", PODS, goods[zone], JOBS)
        path = f"{PODS}/{made['metadata']['name']}"
        checks.good("an annotation of somebody's own", "PATCH", path, {"metadata": {"annotations": {"a": "b"}}}, "somebody", **merge)
        checks.good("a finalizer", "PATCH", path, {"metadata": {"finalizers": ["batch.kubernetes.io/job-tracking"]}}, JOBS, **merge)
        for who in ("somebody", JOBS, OPERATOR):
            for what, patch in {
                "another zone": {"metadata": {"labels": {"sealign.dev/zone": "trainer"}}},
                "no zone": {"metadata": {"labels": {"sealign.dev/zone": None}}},
                "another owner": {"metadata": {"labels": {"sealign.dev/owner-uid": "v"}}},
                "a further label of ours": {"metadata": {"labels": {"sealign.dev/group": "g"}}},
                "another round map": {"metadata": {"annotations": {"sealign.dev/round-map": "[]"}}},
                "no round map": {"metadata": {"annotations": {"sealign.dev/round-map": None}}},
            }.items():
                checks.hostile(f"{zone} pod gets {what} from {who}", "PATCH", path, patch, who, **merge)
            image = [{"op": "replace", "path": "/spec/containers/0/image", "value": "swe/evil"}]
            checks.hostile(f"{zone} pod gets another image", "PATCH", path, image, who, content="application/json-patch+json")
            debugger = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "x"}]}}
            strategic = "application/strategic-merge-patch+json"
            checks.hostile(f"{zone} pod gets a debugger", "PATCH", path + "/ephemeralcontainers", debugger, who, content=strategic)
        init = [{"op": "replace", "path": "/spec/initContainers/0/image", "value": "swe/evil"}]
        if zone == "sandbox":
            checks.hostile("a sandbox gets another server", "PATCH", path, init, JOBS, content="application/json-patch+json")
    free = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "free"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    checks.good("somebody else's pod", "POST", PODS, free, "somebody")
    disguise = {"metadata": {"labels": {"sealign.dev/zone": "runner"}}}
    checks.hostile("somebody's pod becomes a runner", "PATCH", f"{PODS}/free", disguise, "somebody", **merge)
    checks.good("somebody else's pod is relabelled", "PATCH", f"{PODS}/free", {"metadata": {"labels": {"a": "b"}}}, "somebody", **merge)


def jobs(checks, goods):
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    template = {"metadata": {key: goods["sandbox"]["metadata"][key] for key in ("labels", "annotations")}, "spec": goods["sandbox"]["spec"]}
    labels = goods["sandbox"]["metadata"]["labels"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "labels": labels},
        "spec": {"template": template, "suspend": True, "completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 0},
    }
    dry = path + "?dryRun=All"
    checks.good("a Job of the operator", "POST", dry, job, OPERATOR)
    checks.good("a Job of a named creator", "POST", dry, job, "queue-owner")
    for who in ("somebody", JOBS, "system:serviceaccount:kube-system:cronjob-controller"):
        checks.hostile(f"a Job of {who}", "POST", dry, job, who)
        hidden = copy.deepcopy(job)
        hidden["metadata"]["labels"] = {}
        checks.hostile(f"a Job of {who} whose pods alone have a zone", "POST", dry, hidden, who)
        account = copy.deepcopy(hidden)
        account["spec"]["template"]["metadata"] = {}
        checks.hostile(f"a Job of {who} with the account of a zone", "POST", dry, account, who)
    other = copy.deepcopy(job)
    other["metadata"]["labels"] = labels | {"sealign.dev/zone": "runner"}
    checks.hostile("a Job whose zone is not its pods'", "POST", dry, other, OPERATOR)
    plain = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "plain"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}
    checks.good("somebody else's Job", "POST", dry, plain, "somebody")
    checks.good("a Job of the operator", "POST", path, job, OPERATOR)
    merge = {"content": "application/merge-patch+json"}
    admitted = {"spec": {"suspend": False, "template": {"metadata": {"labels": {"kueue.x-k8s.io/podset": "main"}}, "spec": {"nodeSelector": {"a": "b"}}}}}
    checks.good("a queue admits a Job", "PATCH", f"{path}/j?dryRun=All", admitted, "queue", **merge)
    for what, metadata in {
        "another zone": {"labels": {"sealign.dev/zone": "runner"}},
        "another round map": {"annotations": {"sealign.dev/round-map": "[]"}},
        "a label less": {"labels": {"sealign.dev/owner-uid": None}},
    }.items():
        checks.hostile(f"a Job's pods get {what}", "PATCH", f"{path}/j", {"spec": {"template": {"metadata": metadata}}}, "queue", **merge)


def wait_for_policies(server):
    """Policies hold some time after they were created."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status, answer = server.call("POST", PODS + "?dryRun=All", sandbox(), "somebody")
        if status >= 400 and "sealign-pods" in answer.get("message", ""):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the policies do not hold after a minute: {status} {answer}")


def main() -> int:
    command = ["helm", "template", "sealign", sys.argv[1], "--namespace", "sealign-system", "--no-hooks"]
    for setting in SETTINGS:
        command += ["--set", setting]
    manifest = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with ApiServer() as server:
        for name in (NAMESPACE, "sealign-system"):
            server.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        server.call("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
        objects = server.apply(manifest).count("\n")
        wait_for_policies(server)
        checks = Checks(server)
        goods = created(checks)
        updated(checks, goods)
        jobs(checks, goods)
        for name in ("sealign-pods", "sealign-jobs"):
            _, policy = server.call("GET", f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}")
            for rule in policy["spec"]["validations"]:
                if rule["message"] not in checks.messages:
                    checks.problems.append(f"{name}: nothing was refused with: {rule['message']}")
    for problem in checks.problems:
        print(problem)
    hostile = checks.refused + checks.invalid
    print(f"{objects} objects applied; {checks.admitted} good requests admitted; {hostile} hostile ones refused, {checks.refused} of them by {len(checks.messages)} rules, 0 admitted" if not checks.problems else f"{len(checks.problems)} problems")
    return bool(checks.problems)


if __name__ == "__main__":
    sys.exit(main())
