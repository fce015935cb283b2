"""An etcd and a kube-apiserver on loopback, for checks that only a real API server can make. Nothing else runs: no controller, no
scheduler, no kubelet."""

import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ApiServer:
    """Started on entry, ended by pid on exit; its folder goes with it."""

    def __enter__(self):
        # A child that outlives a killed parent would hold memory for ever.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.folder = Path(tempfile.mkdtemp(prefix="sealign-apiserver-"))
        self.children, self.token = [], secrets.token_hex(16)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.kill()
            child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self):
        clients, peers, self.port = free_port(), free_port(), free_port()
        etcd = f"http://127.0.0.1:{clients}"
        peer = f"http://127.0.0.1:{peers}"
        self._spawn(
            "etcd", "--name=e0", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=e0={peer}",
            "--unsafe-no-fsync", "--log-level=error",
        )  # fmt: skip
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        self._spawn(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            f"--cert-dir={self.folder}/certs", f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
        )  # fmt: skip
        self.url = f"https://127.0.0.1:{self.port}"
        self.tls = ssl.create_default_context()
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            dead = [child.args[0] for child in self.children if child.poll() is not None]
            if dead:
                raise RuntimeError(f"{dead[0]} ended: {(self.folder / (dead[0] + '.log')).read_text()[-2000:]}")
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise RuntimeError(f"the API server was not ready within {START_SECONDS} s")

    def _spawn(self, program, *arguments):
        log = open(self.folder / f"{program}.log", "wb")
        self.children.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log))
        self.children[-1].args = [program]

    def call(self, method, path, body=None, user=None, content="application/json"):
        """(status, document) of a request, as `user` where one is named."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
        if user:
            headers["Impersonate-User"] = user
            headers["Impersonate-Group"] = "system:masters"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text[:1] == b"{" else text
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text[:1] == b"{" else {"message": text.decode()}

    def apply(self, manifest: str) -> str:
        """What kubectl says of a server-side apply."""
        command = ["kubectl", "--server", self.url, "--insecure-skip-tls-verify", "--token", self.token]
        command += ["apply", "--server-side", "-f", "-"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": "/dev/null"}
        result = subprocess.run(command, input=manifest, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise RuntimeError(result.stderr)
        return result.stdout
