#!/usr/bin/env python3
"""Seeded bugs: each is built into a copy of the sources, and the tests that it names have to fail.

    run.py [ID...] [--jobs N] [--list]

The copy lies below the target folder and is kept, with a build of its own, so that a later run compiles little. The checkout is
read and never written. Every test is run on the clean copy first: a test that fails there catches nothing.
"""

import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
# In the order of the layers; the contract test knows the same list.
PARTS = ["operator", "runner", "sandbox", "store", "embedded", "evaluation"]
# A build with an empty target folder compiles every dependency; one bug compiles a few crates.
BUILD_SECONDS_MAX = 1800
# The slowest test that catches a bug takes half a minute on two cores; a bug may make it wait for its own bounds.
TEST_SECONDS_MAX = 300
# Characters of what a command printed that are shown where something is wrong.
SHOWN_CHARS = 3000
# prctl(2): orphans of our children become ours, so that what a bug leaves behind can be ended.
PR_SET_CHILD_SUBREAPER = 36


def main():
    arguments = read_arguments()
    bugs = chosen(arguments.ids)
    if arguments.list:
        for bug in bugs:
            print(f"{bug['id']:<44}{bug['class']:<16}{bug['file']}")
        return
    began = time.monotonic()
    # Neighbours share packages and files, so that most of what one bug compiled serves the next.
    bugs.sort(key=lambda bug: (bug["catch"][0].split()[1:4], bug["file"]))
    jobs = max(1, min(arguments.jobs, len(bugs)))
    size = -(-len(bugs) // jobs)
    shares = [bugs[at:at + size] for at in range(0, len(bugs), size)]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        outcomes = [outcome for share in pool.map(work, range(len(shares)), shares) for outcome in share]
    caught = sum(outcome == "caught" for outcome in outcomes)
    print(f"{caught} of {len(bugs)} seeded bugs caught in {time.monotonic() - began:.0f} s", flush=True)
    if caught < len(bugs):
        sys.exit(1)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="bugs to seed; all where none is named")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at once, each with a copy and a build of its own")
    parser.add_argument("--list", action="store_true", help="show the bugs and do nothing")
    return parser.parse_args()


def chosen(ids):
    bugs = [bug for part in PARTS for bug in json.loads((HERE / "bugs" / f"{part}.json").read_text())]
    unknown = set(ids) - {bug["id"] for bug in bugs}
    if unknown:
        sys.exit(f"run.py: no bug is called {', '.join(sorted(unknown))}; --list shows them")
    return [bug for bug in bugs if not ids or bug["id"] in ids]


def work(number, bugs):
    """What one process does: its share of the bugs, in its own copy. Returns the outcome of each."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    copy = Copy(target.absolute() / "seeded" / str(number))
    copy.sync()
    if not copy.passes_clean(bugs):
        return ["unknown"] * len(bugs)
    return [copy.seed(bug) for bug in bugs]


class Copy:
    """A copy of the tracked files, with a target folder of its own: a build of seeded sources must serve nobody else."""

    def __init__(self, folder):
        self.tree = folder / "tree"
        self.environment = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target"), "CARGO_TERM_COLOR": "never"}

    def sync(self):
        """Makes the copy equal to the working tree. Equal files are left alone, so that cargo sees no change in them."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        names = {name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()}
        for path in [path for path in self.tree.rglob("*") if path.is_file() or path.is_symlink()]:
            if str(path.relative_to(self.tree)) not in names:
                path.unlink()
        for name in sorted(names):
            source, copy = ROOT / name, self.tree / name
            content = source.read_bytes()
            if not copy.is_file() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            shutil.copymode(source, copy)

    def passes_clean(self, bugs):
        """Whether every test that is to catch something passes without it."""
        filters = {}
        for command in (command for bug in bugs for command in bug["catch"]):
            target, name = command.rsplit(" ", 1)
            filters.setdefault(target, set()).add(name)
        for target, names in sorted(filters.items()):
            began = time.monotonic()
            code, printed = self.cargo(["test", "--no-run", *target.split()], BUILD_SECONDS_MAX)
            if code == 0:
                code, printed = self.cargo(["test", *target.split(), "--", *sorted(names)], TEST_SECONDS_MAX)
            ran = re.findall(r"^test (\S+)(?: - should panic)? \.\.\. ok", printed, re.MULTILINE)
            unmet = [name for name in names if not any(name in test for test in ran)]
            if code != 0 or unmet:
                why = f"no test is called {', '.join(unmet)}" if code == 0 else printed[-SHOWN_CHARS:]
                print(f"NOT CLEAN {target}: {why}", flush=True)
                return False
            print(f"clean {target}: {len(ran)} tests ({time.monotonic() - began:.0f} s)", flush=True)
        return True

    def seed(self, bug):
        """Builds one bug in, runs the tests that are to catch it, and takes it out again."""
        began = time.monotonic()
        path = self.tree / bug["file"]
        source = path.read_text()
        if source.count(bug["find"]) != 1:
            return self.told(bug, "BROKEN", began, f"`find` is {source.count(bug['find'])} times in {bug['file']}")
        path.write_text(source.replace(bug["find"], bug["replace"]))
        try:
            for command in bug["catch"]:
                outcome, detail = self.meet(bug, command.split())
                if outcome != "caught":
                    return self.told(bug, outcome, began, detail)
        finally:
            # A fresh modification time, which tells cargo that what it built of the bug is out of date.
            path.write_text(source)
        return self.told(bug, "caught", began, f"by {', '.join(bug['catch'])}")

    def meet(self, bug, command):
        """Runs one test command with a bug in. Says what became of it, and a detail for people."""
        code, printed = self.cargo(["test", "--no-run", *command], BUILD_SECONDS_MAX)
        if code != 0:
            return "BROKEN", f"it does not compile:\n{printed[-SHOWN_CHARS:]}"
        code, printed = self.cargo(["test", *command], TEST_SECONDS_MAX)
        if code is None:
            detail = f"{' '.join(command)} did not end within {TEST_SECONDS_MAX} s"
            return ("caught" if bug.get("hangs") else "BROKEN"), detail
        if code == 0:
            return "ESCAPED", f"{' '.join(command)} passes"
        # A test that failed or a test process that died; anything else is cargo's own trouble.
        if "error: test failed, to rerun pass" not in printed:
            return "BROKEN", f"no test failed:\n{printed[-SHOWN_CHARS:]}"
        return "caught", ""

    def told(self, bug, outcome, began, detail):
        print(f"{outcome} {bug['id']} {detail} ({time.monotonic() - began:.0f} s)", flush=True)
        return outcome

    def cargo(self, arguments, seconds):
        """Runs cargo in the copy. Returns its exit code, None where its time ran out, and what it printed."""
        # A bug may write where it should not: tests get a folder for temporary files that has room around it.
        with tempfile.TemporaryDirectory(prefix="seeded-") as scratch, tempfile.TemporaryFile() as printed:
            temporary = pathlib.Path(scratch) / "t"
            temporary.mkdir()
            process = subprocess.Popen(
                ["cargo", arguments[0], "--locked", *arguments[1:]],
                cwd=self.tree,
                env={**self.environment, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                # Not a pipe, which what a bug leaves running would hold open.
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = None
            finally:
                end_orphans()
            printed.seek(0)
            return code, printed.read().decode(errors="replace")


def end_orphans():
    """Ends what a command left behind: it is ours now, and so is what it leaves when it ends."""
    while children := own_children():
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def own_children():
    """Process ids of our children. The command itself has been waited for."""
    text = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(child) for child in text.split()]


if __name__ == "__main__":
    main()
