"""Trains over several seeds with both teacher sets and prints what learning shows: `make learn SEEDS=1,2,3 EVAL_SEED=n`.

`guessing`: teachers that seldom look before they edit. SFT, then DPO on critical and on whole-trajectory pairs at 2, 4 and 8
optimiser steps of the same number of tokens. `habits`: teachers of three degrees of skill on all trained families. Every
figure is on fresh tasks; nothing is chosen by it. Seeds are those that you name.
"""

import argparse
import json
import pathlib
import subprocess
import sys

FAMILIES = ["operator", "compare", "index", "agg", "default", "const", "range"]
SANDBOX = {"memoryMib": 256, "diskMib": 64, "processes": 64, "startSeconds": 60}
LIMITS = {
    "turns": 10,
    "contextTokens": 720,
    "turnTokens": 100,
    "wallSeconds": 120,
    "commandSeconds": 10,
    "tokens": 20000,
}
HARNESS = {"name": "OpenHands", "profile": "compact"}
# Steps at which critical and whole-trajectory pairs are compared.
STEPS = [2, 4, 8]


def thing(kind, name, spec):
    return {"apiVersion": "sealign.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def task_set(name, split, count, seed, teachers):
    mini = {"split": split, "count": count, "seed": seed}
    if teachers == "guessing":
        mini |= {"families": FAMILIES, "vaguePercent": 100, "nameFilePercent": 100, "twoFilePercent": 0}
    return thing("TaskSet", name, {"source": {"mini": mini}, "health": {"repeats": 0}, "sandbox": SANDBOX})


def policies(teachers):
    def scripted(name, weight, policy, parameters=None):
        model = {"scripted": {"policy": policy, "parameters": parameters or {}}}
        return {"name": name, "weight": weight, "model": model}

    if teachers == "guessing":
        return [scripted("guessing", 1, "guessing", {"lookFirst": "0.17"})], 16
    return [scripted("strong", 1, "strong"), scripted("medium", 5, "medium"), scripted("weak", 6, "weak")], 12


def forest(mode, teachers):
    pairs = {
        "mode": mode,
        "scoreEstimator": "Laplace",
        "threshold": "0.4",
        "requireDifferentKind": True,
        "selection": "All",
        "maxPairsPerDecision": 4,
    }
    keeps_all = teachers == "guessing"
    return {
        "campaignRefs": [{"name": "rollouts"}],
        "filters": {"deduplicate": not keeps_all, "loopMinRepeats": 0, "overlapMinPrefix": 0},
        "pairs": pairs,
        "sft": {"deduplicate": not keeps_all, "maxPerTask": 5 if keeps_all else 4},
    }


def optimization(steps, epochs):
    return {
        "maxEpochs": epochs,
        "maxSteps": steps,
        "tokensPerStep": 3000,
        "contextTokens": 1024,
        "schedule": "Cosine",
        "finalRatio": "0.05",
        "adamBeta2": "0.98",
        "checkpointSteps": 50,
    }


def run(name, forest_name, steps, seed):
    dpo = {
        "learningRate": "2e-4",
        "beta": "0.1",
        "sftExamplesPerStep": 8,
        "optimization": optimization(steps, 10),
    }
    bench = {"name": "fresh", "taskSetRef": {"name": "eval"}, "harness": HARNESS, "limits": LIMITS}
    spec = {
        "model": {"base": "builtin:mini-base"},
        "seed": seed,
        "forestRef": {"name": forest_name},
        "stages": {"sft": {"learningRate": "3e-4", "optimization": optimization(84, 2)}, "dpo": dpo},
        "benchmarks": [bench | {"parallelism": 32, "sandbox": SANDBOX}],
    }
    return thing("AlignmentRun", name, spec)


def manifest(teachers, seed, eval_seed):
    policy, samples = policies(teachers)
    campaign = {
        "taskSetRef": {"name": "train"},
        "samplesPerTask": samples,
        "seed": seed,
        "policies": policy,
        "harness": HARNESS,
        "limits": LIMITS,
        "parallelism": 16,
        "sandbox": SANDBOX,
    }
    objects = [
        task_set("train", "Train", 120, seed, teachers),
        task_set("eval", "Eval", 150, eval_seed, teachers),
        thing("RolloutCampaign", "rollouts", campaign),
        thing("TrajectoryForest", "critical", forest("Critical", teachers)),
    ]
    if teachers == "habits":
        return objects + [run("critical-27", "critical", 27, seed)]
    objects.append(thing("TrajectoryForest", "whole", forest("WholeTrajectory", teachers)))
    for mode in ["critical", "whole"]:
        objects += [run(f"{mode}-{steps}", mode, steps, seed) for steps in STEPS]
    return objects


def learn(sealign, folder, teachers, seed, eval_seed):
    folder = folder / f"{teachers}-seed{seed}-eval{eval_seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.yaml"
    path.write_text("\n---\n".join(json.dumps(o, indent=1) for o in manifest(teachers, seed, eval_seed)))
    done = subprocess.run(
        [sealign, "run", str(path), "--state", str(folder / "state"), "--output", "json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{path}: the run did not succeed; its state is in {folder / 'state'}")
    return json.loads(done.stdout)


def show(summary, teachers, seed):
    for report in summary["reports"]:
        if report["kind"] != "AlignmentRun":
            continue
        print(f"\n{teachers}, seed {seed}, {report['name']}", flush=True)
        markdown = pathlib.Path(report["markdown"]).read_text()
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        print("\n".join(lines[:12]), flush=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sealign", required=True)
    arguments.add_argument("--folder", type=pathlib.Path, required=True)
    arguments.add_argument("--seeds", default="1,2,3")
    arguments.add_argument("--eval-seed", type=int, default=2)
    arguments.add_argument("--teachers", default="guessing,habits")
    options = arguments.parse_args()
    for teachers in options.teachers.split(","):
        for seed in options.seeds.split(","):
            summary = learn(options.sealign, options.folder, teachers, int(seed), options.eval_seed)
            show(summary, teachers, int(seed))


main()
