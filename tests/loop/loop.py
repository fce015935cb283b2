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


TESTS = {
    "kills": lambda programs, folder, options: whole_run_survives(programs, folder, options.kills),
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
