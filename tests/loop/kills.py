"""A whole run killed at random instants ends as if nothing had happened.

The phase is told from what the state folder says about live pods; then a random delay passes, so that kills meet a phase at
any point of it. A phase that ends before the kill lands counts for what the kill really met, and is tried again.
"""

import random
import re
import shutil
import time

from programs import ROOT, Running, digests, expect, record_names, run

MANIFEST = "tests/loop/whole.yaml"
# Phases that have to be met, each at least so often.
LEAST = {"rollout": 3, "grade": 3, "train": 3, "report": 3}
# Seconds after a phase has begun in which a kill may land: about as long as the phase lasts on a quiet machine.
SPREAD = {"rollout": 0.8, "grade": 0.4, "train": 2.0, "report": 0.03}
# Kills that one state folder sees before it is brought to its end.
KILLS_A_FOLDER = 5
# Runs that are started at most to land one kill: phases that end too early are tried again.
TRIES_MAX = 80
# Between two looks at the state folder.
LOOK_SECONDS = 0.002


def whole_run_survives(programs, folder, kills):
    whole, seconds = run(programs, MANIFEST, folder / "whole")
    expect(whole["succeeded"], f"{MANIFEST}: every object succeeded")
    again, _ = run(programs, MANIFEST, folder / "whole")
    expect(again["alreadyComplete"], "the same manifest and state again: already complete")
    expect(digests(again) == digests(whole), "and the digests are the same")
    expected = digests(whole), record_names(folder / "whole")
    places_are_in_no_digest(programs, folder, expected)

    seed = random.SystemRandom().randrange(2**32)
    print(f"kills: seed {seed}", flush=True)
    Killer(programs, folder, random.Random(seed), seconds, expected).run(kills)


def places_are_in_no_digest(programs, folder, expected):
    """Another namespace means other UIDs and other keys everywhere: what is digested may hold none of them."""
    text = (ROOT / MANIFEST).read_text()
    manifest = folder / "elsewhere.yaml"
    manifest.write_text(re.sub(r"(metadata:\n  name: .+)", r"\1\n  namespace: elsewhere", text))
    elsewhere, _ = run(programs, manifest, folder / "elsewhere")
    expect_equal((digests(elsewhere), record_names(folder / "elsewhere")), expected, "in another namespace")
    shutil.rmtree(folder / "elsewhere")


def expect_equal(found, expected, where):
    """The same digests and record keys."""
    differing = [f"{kind} {name} {step}" for (kind, name, step), digest in expected[0].items()
                 if found[0].get((kind, name, step)) != digest]
    expect(not differing, f"{where}: the same digests {differing or ''}".rstrip())
    expect(found[1] == expected[1], f"{where}: the same record keys, none twice")


class Killer:
    def __init__(self, programs, folder, instants, seconds, expected):
        self.programs, self.folder, self.instants = programs, folder, instants
        self.seconds, self.expected = seconds, expected
        self.met = dict.fromkeys([*LEAST, "else"], 0)
        self.kills = 0
        self.folders = 0
        self.tries = 0

    def run(self, kills):
        began = time.monotonic()
        while self.kills < kills or self.missing():
            self.one_folder(kills)
        seconds = time.monotonic() - began
        met = ", ".join(f"{count} in {name}" for name, count in self.met.items())
        print(f"{self.kills} kills over {self.folders} state folders in {seconds:.0f} s: {met}", flush=True)
        expect(self.kills >= kills and not self.missing(), "every phase was met at least three times")

    def missing(self):
        return [name for name, least in LEAST.items() if self.met[name] < least]

    def one_folder(self, kills):
        """Kills one run several times on its way, then lets it end and compares."""
        state = self.folder / f"killed-{self.folders}"
        self.folders += 1
        here, is_over = [], False
        while not is_over and len(here) < KILLS_A_FOLDER and (self.kills < kills or self.missing()):
            self.tries += 1
            if self.tries > TRIES_MAX:
                expect(False, f"{TRIES_MAX} runs were enough to land the kills")
            met = self.one_kill(state)
            is_over = met is None
            if met:
                here.append("+".join(sorted(met)))
        killed, _ = run(self.programs, MANIFEST, state)
        print(f"state folder {self.folders}: killed in {', '.join(here)}", flush=True)
        expect_equal((digests(killed), record_names(state)), self.expected, f"killed {len(here)} times")
        shutil.rmtree(state)

    def one_kill(self, state):
        """Starts the run and kills it; returns the phases that were met, None when it came to its end before."""
        wanted = self.instants.choice([*(self.missing() or LEAST), "any"])
        delay = self.instants.uniform(0, SPREAD.get(wanted, self.seconds / 2))
        running = Running(self.programs, MANIFEST, state)
        while wanted != "any" and wanted not in running.phases() and not running.has_ended():
            time.sleep(LOOK_SECONDS)
        end = time.monotonic() + delay
        while time.monotonic() < end and not running.has_ended():
            time.sleep(LOOK_SECONDS)
        met = running.kill()
        if met is None:
            if running.process.returncode != 0:
                expect(False, f"a run that no kill met ends well, not with exit code {running.process.returncode}")
            return None
        self.kills += 1
        for name in met & LEAST.keys() or {"else"}:
            self.met[name] += 1
        return met or {"else"}
