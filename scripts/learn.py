"""Trains over several seeds with both teacher sets and prints what learning shows: `make learn SEEDS=1,2,3 EVAL_SEED=n`.

`guessing`: teachers that seldom look before they edit. SFT once, then DPO from it on critical and on whole-trajectory pairs,
at 2, 4 and 8 optimiser steps of the same number of tokens. `habits`: teachers of three degrees of skill; SFT, then DPO.
Every figure is on fresh tasks of the seed that you name, and no figure chooses anything. Interrupted, it goes on where it was.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from math import comb

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
# Per teacher set: training tasks, attempts a task, DPO runs as (pair mode, optimiser steps).
RECIPES = {
    "guessing": (300, 16, [(mode, steps) for steps in (2, 4, 8) for mode in ("critical", "whole")]),
    "habits": (300, 12, [("critical", 27)]),
}
EVAL_TASKS = 150
COLUMNS = ["resolved", "empty", "stuck", "invalid"]


def thing(kind, name, spec):
    return {"apiVersion": "sealign.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def ref(name):
    return {"name": name}


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
        return [scripted("guessing", 1, "guessing", {"lookFirst": "0.17"})]
    return [scripted("strong", 1, "strong"), scripted("medium", 5, "medium"), scripted("weak", 6, "weak")]


def forest(name, mode, teachers):
    pairs = {
        "mode": mode,
        "scoreEstimator": "Laplace",
        "threshold": "0.4",
        "requireDifferentKind": True,
        "selection": "All",
        "maxPairsPerDecision": 4,
    }
    keeps_all = teachers == "guessing"
    spec = {
        "campaignRefs": [ref("rollouts")],
        "filters": {"deduplicate": not keeps_all, "loopMinRepeats": 0, "overlapMinPrefix": 0},
        "pairs": pairs,
        # How often teachers do a thing is what guessing is about; habits are learnt from distinct successes.
        "sft": {"deduplicate": not keeps_all, "maxPerTask": 5 if keeps_all else 4},
    }
    return thing("TrajectoryForest", name, spec)


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


def training(name, forest_name, base, stage, settings, seed):
    spec = {"model": {"base": base}, "seed": seed, "forestRef": ref(forest_name), "stages": {stage: settings}}
    return thing("AlignmentRun", name, spec)


def sft(seed):
    settings = {"learningRate": "3e-4", "optimization": optimization(84, 2)}
    return training("sft", "critical", "builtin:mini-base", "sft", settings, seed)


def dpo(mode, steps, base, seed):
    settings = {
        "learningRate": "2e-4",
        "beta": "0.1",
        "sftExamplesPerStep": 8,
        "optimization": optimization(steps, 10),
    }
    return training(f"{mode}-{steps}", mode, base, "dpo", settings, seed)


def benchmark(name, base, baselines):
    spec = {
        "taskSetRef": ref("eval"),
        "model": {"checkpoint": {"base": base}},
        "harness": HARNESS,
        "limits": LIMITS,
        "parallelism": 32,
        "sandbox": SANDBOX,
        "baselineRefs": [ref(baseline) for baseline in baselines],
    }
    return thing("Benchmark", f"on-{name}", spec)


def collection(teachers, seed, eval_seed):
    tasks, samples, _ = RECIPES[teachers]
    campaign = {
        "taskSetRef": ref("train"),
        "samplesPerTask": samples,
        "seed": seed,
        "policies": policies(teachers),
        "harness": HARNESS,
        "limits": LIMITS,
        "parallelism": 16,
        "sandbox": SANDBOX,
    }
    return [
        task_set("train", "Train", tasks, seed, teachers),
        task_set("eval", "Eval", EVAL_TASKS, eval_seed, teachers),
        thing("RolloutCampaign", "rollouts", campaign),
        forest("critical", "Critical", teachers),
        forest("whole", "WholeTrajectory", teachers),
    ]


class Folder:
    """A state folder of `sealign run`, into which one manifest after the other goes."""

    def __init__(self, sealign, folder):
        self.sealign, self.folder = sealign, folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name, objects):
        path = self.folder / f"{name}.yaml"
        path.write_text("\n---\n".join(json.dumps(one, indent=1) for one in objects))
        command = [self.sealign, "run", str(path), "--state", str(self.folder / "state"), "--output", "json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{path}: the run did not succeed; its state is in {self.folder / 'state'}\n{done.stdout}")

    def model(self, run, step):
        store = self.folder / "state" / "store"
        found = list(store.glob(f"default/alignmentruns/{run}-????????/steps/{step}/model/manifest.json"))
        if len(found) != 1:
            sys.exit(f"{store}: {len(found)} models of {run} instead of one")
        return f"artifact:{found[0].relative_to(store)}"

    def reports(self):
        found = (self.folder / "state" / "store").glob("default/benchmarks/on-*/report.json")
        reports = [json.loads(path.read_text()) for path in found]
        return {report["name"].removeprefix("on-"): report for report in reports}


def learn(folder, teachers, seed, eval_seed):
    _, _, runs = RECIPES[teachers]
    folder.run("collect", [*collection(teachers, seed, eval_seed), sft(seed)])
    tuned = folder.model("sft", "sft")
    folder.run("prefer", [dpo(mode, steps, tuned, seed) for mode, steps in runs])
    benchmarks = [benchmark("base", "builtin:mini-base", []), benchmark("sft", tuned, ["on-base"])]
    for mode, steps in runs:
        against = ["on-base", "on-sft"] + ([f"on-critical-{steps}"] if mode == "whole" else [])
        name = f"{mode}-{steps}"
        model = folder.model(name, "dpo-0")
        benchmarks.append(benchmark(name, model, against))
    folder.run("measure", benchmarks)
    return folder.reports()


def share(report, column):
    return f"{report[column]}/{report['total']} ({100 * report[column] / report['total']:.1f} %)"


def order(teachers):
    """The models of a teacher set as they are shown."""
    return ["base", "sft", *(f"{mode}-{steps}" for mode, steps in RECIPES[teachers][2])]


def show(reports, teachers, seed):
    print(f"\n## {teachers} teachers, seed {seed}\n")
    print("| model | " + " | ".join(COLUMNS) + " | against: wins/losses (exact p) |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for name in order(teachers):
        report = reports[name]
        tests = [
            f"{test['baseline'].removeprefix('on-')} {test['wins']}/{test['losses']} ({test['pValue']:.1g})"
            for test in report["comparisons"]
        ]
        print(f"| {name} | " + " | ".join(share(report, c) for c in COLUMNS) + f" | {'; '.join(tests)} |")
    sys.stdout.flush()


def pooled(all_reports, better, worse):
    """Wins and losses of one model against another over all seeds, with the exact two-sided p of the paired test."""
    wins = losses = 0
    for reports in all_reports:
        for test in reports[better]["comparisons"]:
            if test["baseline"] == f"on-{worse}":
                wins, losses = wins + test["wins"], losses + test["losses"]
    total = wins + losses
    tail = sum(comb(total, k) for k in range(min(wins, losses) + 1)) / 2**total
    return f"{wins} wins, {losses} losses, p = {min(1.0, 2 * tail):.1g}"


def mean(all_reports, name):
    return sum(100 * r[name]["resolved"] / r[name]["total"] for r in all_reports) / len(all_reports)


def conclude(all_reports, teachers):
    print(f"\n## {teachers} teachers, {len(all_reports)} seeds: resolved, mean in %\n")
    for name in order(teachers):
        print(f"- {name}: {mean(all_reports, name):.1f}")
    runs = RECIPES[teachers][2]
    last = f"critical-{runs[-1][1]}"
    pairs = [("sft", "base"), (last, "sft"), (last, "base")]
    pairs += [(f"whole-{steps}", f"critical-{steps}") for mode, steps in runs if mode == "whole"]
    for better, worse in pairs:
        better_in = sum(r[better]["resolved"] > r[worse]["resolved"] for r in all_reports)
        seeds = f"ahead in {better_in} of {len(all_reports)} seeds"
        print(f"- {better} against {worse}: {seeds}; pooled {pooled(all_reports, better, worse)}")
    sys.stdout.flush()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sealign", required=True)
    arguments.add_argument("--folder", type=pathlib.Path, required=True)
    arguments.add_argument("--seeds", default="1,2,3")
    arguments.add_argument("--eval-seed", type=int, default=2)
    arguments.add_argument("--teachers", default="guessing,habits")
    options = arguments.parse_args()
    for teachers in options.teachers.split(","):
        all_reports = []
        for seed in (int(text) for text in options.seeds.split(",")):
            name = f"{teachers}-seed{seed}-eval{options.eval_seed}"
            reports = learn(Folder(options.sealign, options.folder / name), teachers, seed, options.eval_seed)
            show(reports, teachers, seed)
            all_reports.append(reports)
        conclude(all_reports, teachers)


main()
