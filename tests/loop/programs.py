"""Running the release programs as a user would, and looking at a run from beside it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A run takes seconds and the quickstart minutes; an hour means that something hangs.
RUN_SECONDS_MAX = 3600
# Children die with their parent; the kernel needs a moment to take them down.
ORPHAN_SECONDS_MAX = 10
# Bytes of what a failed run printed that are shown.
SHOWN_CHARS = 3000

passed = 0


def expect(holds, claim):
    """Prints the claim; ends everything when it does not hold."""
    global passed
    if not holds:
        print(f"FAILED: {claim}", flush=True)
        sys.exit(1)
    passed += 1
    print(f"ok: {claim}", flush=True)


def command(programs, manifest, state):
    return [str(programs / "sealign"), "run", str(ROOT / manifest), "--state", str(state), "--output", "json"]


def run(programs, manifest, state, folder=None):
    """Runs a manifest to its end, in a working folder, and returns what was printed and the wall seconds."""
    began = time.monotonic()
    done = subprocess.run(
        command(programs, manifest, state),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        timeout=RUN_SECONDS_MAX,
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        print(done.stderr[-SHOWN_CHARS:], flush=True)
    expect(done.returncode == 0, f"{manifest}: exit code 0 after {seconds:.1f} s")
    return json.loads(done.stdout), seconds


def ask(programs, *arguments):
    """Runs a command that only looks, and returns its JSON."""
    line = [str(programs / "sealign"), *map(str, arguments), "--output", "json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=RUN_SECONDS_MAX)
    expect(done.returncode == 0, f"sealign {arguments[0]}: exit code 0 {done.stderr[-SHOWN_CHARS:]}".rstrip())
    return json.loads(done.stdout)


def digests(summary):
    """Every digest of a summary, by kind, name and step."""
    return {(o["kind"], o["name"], step): digest for o in summary["objects"] for step, digest in o["digests"].items()}


def record_names(state):
    """Names of all records and verdicts, without the prefixes that hold UIDs, each with the name of its object."""
    names = []
    for path in (state / "store").rglob("*.json"):
        parts = path.relative_to(state / "store").parts
        if "groups" in parts and parts[-2] in ("rollout", "grade"):
            at = parts.index("groups")
            names.append("/".join([parts[at - 1].rsplit("-", 1)[0], *parts[at:]]))
        elif parts[0] == "verdicts":
            names.append("/".join(parts))
    return sorted(names)


class Running:
    """A `sealign run` that goes on. Its phase is told from the pods that its state folder calls running."""

    def __init__(self, programs, manifest, state):
        self.pods = state / "pods"
        self.ended = set()
        # What a killed run left running is history until the new one says otherwise.
        self.stale = {pod["uid"] for pod in self.running()}
        self.process = subprocess.Popen(
            command(programs, manifest, state),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def running(self):
        found = []
        try:
            names = os.listdir(self.pods)
        except FileNotFoundError:
            return found
        for name in names:
            if name in self.ended:
                continue
            try:
                pod = json.loads((self.pods / name / "pod.json").read_bytes())
            except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
                continue
            if pod["phase"] in ("Succeeded", "Failed"):
                self.ended.add(name)
            elif pod["phase"] == "Running":
                found.append(pod)
        return found

    def phases(self):
        """What is going on: of rollout, grade, train, report and others."""
        return {phase(pod) for pod in self.running() if pod["uid"] not in self.stale}

    def has_ended(self):
        return self.process.poll() is not None

    def kill(self):
        """Kills the program itself and nothing else, and returns the phases that were met; None when it had ended."""
        children = descendants(self.process.pid)
        if self.has_ended():
            return None
        os.kill(self.process.pid, signal.SIGKILL)
        if self.process.wait() != -signal.SIGKILL:
            return None
        met = self.phases()
        deadline = time.monotonic() + ORPHAN_SECONDS_MAX
        while time.monotonic() < deadline and any(is_alive(child) for child in children):
            time.sleep(0.02)
        orphans = [child for child in children if is_alive(child)]
        if orphans:
            expect(False, f"children die with the killed program; {orphans} live on")
        return met


def phase(pod):
    """A pod's part in the loop."""
    labels = pod["labels"]
    zone = labels.get("sealign.dev/zone", "")
    if zone == "sandbox":
        return labels.get("sealign.dev/stage", zone)
    return {"trainer": "train"}.get(zone, zone)


def descendants(parent):
    """Identities of all processes below one: process id and start time, which together are never used again."""
    parents = {}
    for entry in os.listdir("/proc"):
        fields = stat(entry) if entry.isdigit() else None
        if fields:
            parents.setdefault(int(fields[1]), []).append((int(entry), fields[19]))
    found, open_ = [], [parent]
    while open_:
        for child in parents.get(open_.pop(), []):
            found.append(child)
            open_.append(child[0])
    return found


def is_alive(child):
    fields = stat(child[0])
    return fields is not None and fields[19] == child[1] and fields[0] not in "ZX"


def stat(pid):
    """Fields of /proc/PID/stat after the name, state first; None when the process is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2:].split()
