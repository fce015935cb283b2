"""Embedded runs of the release programs. Exits 1 at the first expectation that does not hold.

Every test has a state folder of its own below a temporary one. `--only` names the tests to run.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import programs as running
from imported import imported_trajectories_align
from kills import whole_run_survives
from programs import expect, run


def quickstart_learns(programs, folder, _options):
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


def two_ranks_train_as_one(programs, folder, _options):
    """The same run with one trainer pod a step and with two, which meet over Gloo."""
    manifest = (running.ROOT / "tests/loop/whole.yaml").read_text()
    summaries, losses = [], []
    for nodes in (1, 2):
        path = folder / f"nodes-{nodes}.yaml"
        path.write_text(manifest.replace("\n  stages:", f"\n  trainer:\n    nodes: {nodes}\n  stages:", 1))
        state = folder / f"nodes-{nodes}"
        summaries.append(run(programs, path, state)[0])
        models = sorted((state / "store/default/alignmentruns").glob("*/steps/*/model/manifest.json"))
        losses.append([json.loads(model.read_text())["metrics"]["validationLoss"] for model in models])
    ours = [object["digests"] for object in summaries[0]["objects"] if object["kind"] == "AlignmentRun"][0]
    theirs = [object["digests"] for object in summaries[1]["objects"] if object["kind"] == "AlignmentRun"][0]
    same = all(ours[step] == theirs[step] for step in ("rollout-0", "forest-0"))
    expect(same, "one and two ranks train on the same attempts and pairs")
    met = list((folder / "nodes-2").glob("logs/*-1.log"))
    expect(any("rank 1 of 2" in log.read_text() for log in met), "the second pod was a rank of the first")
    worst = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    expect(worst < 1e-3, f"validation losses differ by {worst:.1e} at most: {losses}")


TESTS = {
    "kills": lambda programs, folder, options: whole_run_survives(programs, folder, options.kills),
    "ranks": two_ranks_train_as_one,
    "imported": imported_trajectories_align,
    "quickstart": quickstart_learns,
}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=pathlib.Path, required=True)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--only", choices=TESTS, nargs="*", default=list(TESTS))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealign-loop-") as name:
        for test in options.only:
            began = time.monotonic()
            folder = pathlib.Path(name) / test
            folder.mkdir()
            TESTS[test](options.programs.resolve(), folder, options)
            print(f"{test}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"{running.passed} passed, 0 failed")


main()
