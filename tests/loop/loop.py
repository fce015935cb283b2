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
from programs import ask, expect, run


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
    lineage_is_sound(programs, folder / "quickstart")


def lineage_is_sound(programs, state):
    verify = [str(programs / "sealign"), "verify", "--state", str(state)]
    walk = subprocess.run(verify, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    expect(walk.returncode == 0, f"verify: the lineage is sound\n{walk.stdout[-2000:]}")


def with_trainer(folder, name, fields):
    """The whole run with other settings of its trainer."""
    manifest = (running.ROOT / "tests/loop/whole.yaml").read_text()
    path = folder / f"{name}.yaml"
    path.write_text(manifest.replace("\n  stages:", f"\n  trainer: {json.dumps(fields)}\n  stages:", 1))
    return path


def adapters_are_trained_and_exported(programs, folder, _options):
    """The same run with low-rank adapters: each stage's lies beside the model that has it merged."""
    state = folder / "state"
    summary, _ = run(programs, with_trainer(folder, "lora", {"lora": {"rank": 8, "alpha": 16}}), state)
    expect(summary["succeeded"], "every object succeeded")
    lineage_is_sound(programs, state)
    for step in ("sft", "dpo-0"):
        out = folder / step
        exported = ask(programs, "export", "adapter", "--step", step, "--state", state, "--out", out)
        names = sorted(pathlib.Path(file).name for file in exported["files"])
        expect(names == ["adapter_config.json", "adapter_model.safetensors"], f"{step}: exported in PEFT's layout")
        config = json.loads((out / "adapter_config.json").read_text())
        expect((config["r"], config["lora_alpha"]) == (8, 16), f"{step}: with the rank that was asked for")


def two_ranks_train_as_one(programs, folder, _options):
    """The same run with one trainer pod a step and with two, which meet over Gloo."""
    summaries, losses = [], []
    for nodes in (1, 2):
        path = with_trainer(folder, f"nodes-{nodes}", {"nodes": nodes})
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
    "adapters": adapters_are_trained_and_exported,
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
