"""Embedded runs of the release programs. Exits 1 at the first expectation that does not hold.

Instants of kills follow from a seed that is printed, spread over the time that an undisturbed run takes.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A campaign takes seconds and the quickstart minutes; an hour means that something hangs.
RUN_SECONDS_MAX = 3600
PASSED = 0


def expect(holds, claim):
    global PASSED
    if not holds:
        print(f"FAILED: {claim}", flush=True)
        sys.exit(1)
    PASSED += 1
    print(f"ok: {claim}", flush=True)


def command(programs, manifest, state):
    return [str(programs / "sealign"), "run", str(ROOT / manifest), "--state", str(state), "--output", "json"]


def run(programs, manifest, state):
    """Runs a manifest to its end and returns what was printed and the wall seconds."""
    began = time.monotonic()
    done = subprocess.run(
        command(programs, manifest, state), stdout=subprocess.PIPE, text=True, timeout=RUN_SECONDS_MAX
    )
    seconds = time.monotonic() - began
    expect(done.returncode == 0, f"{manifest}: exit code 0 after {seconds:.0f} s")
    return json.loads(done.stdout), seconds


def kill_after(programs, manifest, state, seconds):
    """Starts a run, kills it after some seconds, and tells whether it was still running."""
    child = subprocess.Popen(
        command(programs, manifest, state), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        child.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        return True


def digests(summary):
    return {(o["kind"], o["name"]): o["digests"] for o in summary["objects"]}


def record_names(state):
    """Names of all records, without the UIDs in their folders."""
    names = []
    for path in (state / "store").rglob("*.json"):
        parts = path.relative_to(state / "store").parts
        if "groups" in parts and parts[-2] in ("rollout", "grade"):
            names.append("/".join(parts[parts.index("groups"):]))
    return sorted(names)


def campaign_survives_kills(programs, folder, kills):
    manifest = "manifests/campaign.yaml"
    whole, seconds = run(programs, manifest, folder / "whole")
    expect(whole["succeeded"], f"{manifest}: every object succeeded")
    again, _ = run(programs, manifest, folder / "whole")
    expect(again["alreadyComplete"], "the same manifest and state again: already complete")
    expect(digests(again) == digests(whole), "and the digests are the same")

    seed = random.SystemRandom().randrange(2**32)
    print(f"kills: seed {seed}", flush=True)
    instants = random.Random(seed)
    hit = 0
    for _ in range(kills):
        # What is recorded stays, so each run is shorter than the one before: early instants hit them all.
        hit += kill_after(programs, manifest, folder / "killed", instants.uniform(0.05, 0.25) * seconds)
    expect(hit * 2 >= kills, f"{hit} of {kills} kills met a run at work")
    killed, _ = run(programs, manifest, folder / "killed")
    expect(digests(killed) == digests(whole), f"killed {hit} times of {kills}: the same digests")
    expect(
        record_names(folder / "killed") == record_names(folder / "whole"),
        "and the same record keys, none twice",
    )


def quickstart_learns(programs, folder):
    summary, seconds = run(programs, "manifests/quickstart.yaml", folder / "quickstart")
    expect(summary["succeeded"], f"quickstart: every object succeeded in {seconds:.0f} s")
    pages = [pathlib.Path(report["page"]) for report in summary["reports"]] + [
        pathlib.Path(page) for page in summary["viewers"]
    ]
    expect(len(pages) >= 2 and all(page.is_file() for page in pages), "report and viewer pages exist")
    models = [model for report in summary["reports"] for model in report["report"]["models"]]
    for model in models:
        print(json.dumps(model)[:400], flush=True)
    expect(len(models) >= 3, "base, SFT and SFT + DPO were measured")
    # Three campaigns over one task list, a forest, two trained models and a report.
    verify = [str(programs / "sealign"), "verify", "--state", str(folder / "quickstart")]
    walk = subprocess.run(verify, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expect(walk.returncode == 0, f"verify: the lineage is sound\n{walk.stdout[-2000:]}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=pathlib.Path, required=True)
    arguments.add_argument("--kills", type=int, default=6)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealign-loop-") as name:
        folder = pathlib.Path(name)
        campaign_survives_kills(options.programs, folder, options.kills)
        quickstart_learns(options.programs, folder)
    print(f"{PASSED} passed, 0 failed")


main()
