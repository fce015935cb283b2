"""Real trajectories through the same path: an AlignmentRun over OpenHands attempts at SWE-Gym tasks, in one command.

The model is a Qwen2 of 5 million seeded random weights with the real tokenizer and chat template: every token, mask and pair
is real, what it learns is nothing, and the report says so.
"""

import gzip
import json
import os
import pathlib
import shutil
import subprocess

from programs import ROOT, ask, expect, run

MANIFEST = "manifests/import.yaml"
TRAJECTORIES = "openhands-swegym-samples"
TOKENIZER = "qwen2.5-tokenizer"
# The published configuration in small; the vocabulary is that of the tokenizer.
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "max_window_layers": 2, "tie_word_embeddings": True, "torch_dtype": "float32"}
SEED = 7


def shared_data():
    """The folder of real data, or None."""
    given = os.environ.get("SEALIGN_SHARED_DATA")
    folder = pathlib.Path(given) if given else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def make_model(programs, data, folder):
    """A small Qwen2 with the real tokenizer, made by our own command."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    for file in (data / TOKENIZER).iterdir():
        if file.suffix == ".gz":
            (tokenizer / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        elif file.name != "SOURCE.md" and not file.name.endswith("_vectors.jsonl"):
            shutil.copy(file, tokenizer)
    published = json.loads((data / TOKENIZER / "config-qwen2.5-7b-instruct.json").read_text())
    (tokenizer / "config.json").write_text(json.dumps(published | SMALL))
    line = [str(programs / "sealign-trainer"), "init", "--config", str(tokenizer), "--seed", str(SEED)]
    made = subprocess.run([*line, "--out", str(folder / "model")], capture_output=True, text=True, timeout=120)
    expect(made.returncode == 0, f"a model with seeded random weights: {(made.stdout + made.stderr).strip()}")


def imported_trajectories_align(programs, folder, _options):
    data = shared_data()
    if data is None:
        print("skipped: no shared data (real trajectories were not imported)", flush=True)
        return
    make_model(programs, data, folder)
    (folder / "imported").symlink_to(data / TRAJECTORIES)
    expected = ask(programs, "forest", data / TRAJECTORIES)
    state = folder / "state"
    summary, seconds = run(programs, MANIFEST, state, folder)
    expect(summary["succeeded"], f"real trajectories: every object succeeded in {seconds:.0f} s")

    forest = json.loads(only(state, "trajectoryforests/*/forest.json").read_text())
    told = {name: forest["statistics"][name] for name in ("collected", "afterFiltering", "nodes", "criticalPairs")}
    expect(told == {name: expected[name] for name in told}, f"the forest is that of `sealign forest`: {told}")
    for step, rows in (("sft", forest["sftExamples"]), ("dpo-0", forest["pairs"])):
        trained = json.loads(only(state, f"alignmentruns/*/steps/{step}/model/manifest.json").read_text())
        figures, seen = trained["metrics"], trained["metrics"]["data"]
        dropped = sum(seen["dropped"].values())
        expect(seen["rows"] == rows, f"{step}: {rows} rows came from the forest, as many as it counts")
        expect(
            seen["training"] + seen["validation"] + dropped == rows and seen["training"] > 0,
            f"{step}: {seen['training']} trained on, {seen['validation']} held out, dropped {seen['dropped']}",
        )
        expect(
            figures["lastLoss"] < figures["firstLoss"],
            f"{step}: loss falls from {figures['firstLoss']:.3f} to {figures['lastLoss']:.3f} in {trained['steps']} steps",
        )
    notes = [note for report in summary["reports"] for note in report["report"]["notes"]]
    expect(any(f"seeded random weights (seed {SEED})" in note for note in notes), f"the report says so: {notes}")
    walk = ask(programs, "verify", "--state", state)
    expect(sum(one["findingCount"] for one in walk) == 0, "verify: the lineage is sound")


def only(state, pattern):
    found = list((state / "store" / "default").glob(pattern))
    expect(len(found) == 1, f"one {pattern}")
    return found[0]
