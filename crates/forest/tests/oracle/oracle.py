"""A second, brute-force reading of the forest rules (specs 5.2-5.4 and 5.11), in Python and without any shared code.

It is slow and plain on purpose: no tree is built. A node is a tuple of edges, a score is counted by looking at every
rollout. Its outputs on the open data are the fixtures beside it; run it again with

    python3 crates/forest/tests/oracle/oracle.py DATA_FOLDER [call|full_text|call_and_observation] > FIXTURE

where DATA_FOLDER is `openhands-swegym-samples` or `mini-swe-agent-multirun`.
"""

import collections
import fractions
import gzip
import hashlib
import json
import math
import os
import re
import sys

# The characters of the Unicode property White_Space.
SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"


def sha(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def lf(text):
    return text.replace("\r\n", "\n")


def trim(text):
    return lf(text).strip(SPACE)


def tmp(text):
    return re.sub(r"/tmp/tmp[A-Za-z0-9_]+", "/tmp/tmp<X>", text)


# ---- A2: canonical JSON


def number(value):
    if isinstance(value, int) and abs(value) < 2**53:
        return str(value)
    value = float(value)
    if value == int(value) and abs(value) < 2**53:
        return str(int(value))
    text = repr(abs(value))
    mantissa, _, exponent = text.partition("e")
    whole, _, part = mantissa.partition(".")
    part = "" if part == "0" else part
    digits, point = (whole + part), len(whole) + int(exponent or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0") or "0"
    sign, k = ("-" if value < 0 else ""), len(digits)
    if k <= point <= 21:
        return sign + digits + "0" * (point - k)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    tail = ("." + digits[1:]) if k > 1 else ""
    return "%s%s%se%s%d" % (sign, digits[0], tail, "+" if point > 0 else "-", abs(point - 1))


def string(text):
    text = "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
    return '"' + "".join(short.get(c) or ("\\u%04x" % ord(c) if ord(c) < 32 else c) for c in text) + '"'


def canonical(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return string(value)
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    names = sorted(value, key=lambda name: name.encode("utf-8", "surrogatepass"))
    return "{" + ",".join(string(name) + ":" + canonical(value[name]) for name in names) + "}"


# ---- A3, A4, A9, A11, A14: one call


def deep_trim(value):
    if isinstance(value, str):
        return trim(value)
    if isinstance(value, list):
        return [deep_trim(item) for item in value]
    if isinstance(value, dict):
        return {name: deep_trim(item) for name, item in value.items()}
    return value


def path(text):
    root, out = text.startswith("/"), []
    for part in text.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if out and out[-1] != "..":
                out.pop()
                continue
            if root:
                continue
        out.append(part)
    joined = "/".join(out)
    return "/" + joined if root else joined or "."


def call_text(name, arguments):
    name = {"terminal": "execute_bash", "bash": "execute_bash", "file_editor": "str_replace_editor"}.get(name, name)
    kept = {}
    for key, value in arguments.items():
        if name == "finish" or value is None or key in ("security_risk", "timeout"):
            continue
        if key == "is_input":
            if value is False or (isinstance(value, str) and trim(value).lower() in ("", "false")):
                continue
            value = True
        elif isinstance(value, str) and key in ("old_str", "new_str", "file_text"):
            value = lf(value)
            value = value[1:] if value.startswith("\n") else value
            value = value[:-1] if value.endswith("\n") else value
        else:
            value = deep_trim(value)
            if name == "str_replace_editor" and key == "path" and isinstance(value, str):
                value = path(value)
        kept[key] = value
    return name + canonical(kept)


# ---- B3, B4: observations


def normal(text):
    text = lf(text)
    text = re.sub(r"(?a)[ \t]+(?=\n|\Z)", "", text)
    text = re.sub(r"(?a)\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|\b| ?[+-]\d{2}:?\d{2}\b)", "<time>", text)
    text = re.sub(r"(?a)\b(%s,? )?%s +\d{1,2} +(\d{2}:\d{2}(:\d{2})?( \d{4})?|\d{4})\b" % (DAY, MONTH), "<time>", text)
    text = re.sub(r"(?a)\b\d{2}:\d{2}:\d{2}([.,]\d+)?\b", "<time>", text)
    text = re.sub(r"(?a)\bin \d+(\.\d+)?s\b", "in <duration>", text)
    text = re.sub(r"(?a)\b0x[0-9A-Fa-f]+\b", "<address>", text)
    text = re.sub(r"(?a)\b(pid|PID|process|Process)([ =:#]+)\d+\b", r"\1\2<pid>", text)
    return tmp(text)


def unwrap(text):
    if text.startswith("OBSERVATION:\n"):
        return text[len("OBSERVATION:\n") :]
    found = re.match(r"EXECUTION RESULT of \[[^\n]*?\]:\n", text)
    return text[found.end() :] if found else text


def text_of(content):
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(part.get("text", "[image]") for part in content)
    return content


# ---- messages to rollouts


class Rollout:
    def __init__(self, task, name, order, messages, outcome):
        self.task, self.name, self.order, self.outcome = task, name, order, outcome
        self.messages = len(messages)
        self.prompt, self.actions, self.results, self.remarks = [], [], [], []
        for message in messages:
            self.take(message)
        self.seen = [None if not (a or b) else tuple(normal(unwrap(t)) for t in a + b) for a, b in zip(self.results, self.remarks)]
        self.tree = (task, sha(canonical([normal(text) for text in self.prompt])))

    def act(self, call, full, invalid=False, wordless=False):
        self.actions.append((tmp(call), tmp(full), invalid, wordless))
        self.results.append([])
        self.remarks.append([])

    def take(self, message):
        role, text = message["role"], text_of(message.get("content"))
        if role == "assistant":
            return self.assistant(message, text)
        if role == "tool":
            if not self.actions:
                self.act("invalid:", "invalid:", True, True)
            return self.results[-1].append(text)
        lost = (message.get("extra") or {}).get("interrupt_type") == "FormatError"
        lost = lost or text.rstrip().endswith("[Error occurred in processing last action]")
        answered = not self.actions or self.results[-1] or self.remarks[-1]
        if lost and answered:
            self.act("invalid:", "invalid:", True, True)
        if self.actions:
            self.remarks[-1].append(text)
        else:
            self.prompt.append(text)

    def assistant(self, message, text):
        stored = message.get("tool_calls") or []
        if not stored and (message.get("extra") or {}).get("actions"):
            stored = [{"function": {"name": "bash", "arguments": {"command": a["command"]}}} for a in message["extra"]["actions"]]
        if not stored:
            return self.act("message:" + trim(text), "message:" + trim(text))
        keys, raw = [], text
        for call in stored:
            arguments = call["function"].get("arguments")
            raw += "\n" + str(call["function"].get("name") or "") + (arguments if isinstance(arguments, str) else json.dumps(arguments))
            try:
                arguments = json.loads(arguments or "{}") if not isinstance(arguments, dict) else arguments
            except ValueError:
                arguments = None
            if not call["function"].get("name") or not isinstance(arguments, dict):
                keys = None
                break
            keys.append(call_text(call["function"]["name"], arguments))
        if keys is None:
            return self.act("invalid:" + trim(raw), "invalid:" + trim(raw), True, trim(raw) == "")
        self.act("call:" + "\n".join(keys), "call:" + "\n".join(keys) + "\n\n" + trim(text))


def swegym(folder):
    for root, _, files in sorted(os.walk(folder)):
        for name in sorted(files):
            if not name.endswith(".jsonl"):
                continue
            place = os.path.relpath(os.path.join(root, name), folder)
            for line, text in enumerate(open(os.path.join(root, name), encoding="utf-8"), 1):
                row = json.loads(text)
                task = re.sub(r"^(.+-[0-9]+)_[0-9]+$", r"\1", row["instance_id"])
                report = row["test_result"].get("report") or {}
                outcome = bool(row["resolved"])
                if report.get("error_eval"):
                    outcome = "infrastructure"
                elif report.get("empty_generation") or report.get("failed_apply_patch") or report.get("test_timeout"):
                    outcome = False
                yield Rollout(task, row["run_id"], (place.encode(), line), row["messages"], outcome)


def mini(folder):
    index = {}
    for line in open(os.path.join(folder, "verdicts.jsonl"), encoding="utf-8"):
        row = json.loads(line)
        index[row["file"]] = row["resolved"]
    for task in sorted(os.listdir(folder)):
        if not os.path.isdir(os.path.join(folder, task)):
            continue
        for name in sorted(os.listdir(os.path.join(folder, task))):
            if not name.endswith(".traj.json.gz"):
                continue
            place, run = task + "/" + name, name[: -len(".traj.json.gz")]
            record = json.load(gzip.open(os.path.join(folder, place)))
            report = os.path.join(folder, task, run + ".report.json")
            outcome = index.get(place)
            if os.path.exists(report):
                said = json.load(open(report, encoding="utf-8"))[task]["resolved"]
                assert outcome is None or outcome == said, "report and index contradict each other: " + place
                outcome = said
            if outcome is None:
                outcome = "no_verdict"
            if record["info"]["exit_status"] not in ("Submitted", "LimitsExceeded", "TimeExceeded", "RepeatedFormatError"):
                outcome = "infrastructure"
            messages = [message for message in record["messages"] if message["role"] != "exit"]
            yield Rollout(record["instance_id"], run, (place.encode(), 1), messages, outcome)


# ---- cleaning, scores, pairs


def name_rollouts(rollouts):
    seen = collections.Counter()
    for rollout in sorted(rollouts, key=lambda r: r.order):
        base = rollout.task + "/" + rollout.name
        seen[base] += 1
        rollout.id = (base if seen[base] == 1 else base + "#%d" % seen[base]).encode()
    return sorted(rollouts, key=lambda r: r.id)


def edges(rollout, mode):
    if mode == "call_and_observation":
        before = [None] + rollout.seen[:-1]
        return [(seen, action[0]) for seen, action in zip(before, rollout.actions)]
    return [(None, action[1 if mode == "full_text" else 0]) for action in rollout.actions]


def loops(rollout):
    for i in range(len(rollout.actions) - 2):
        keys = {action[0] for action in rollout.actions[i : i + 3]}
        seen = rollout.seen[i : i + 3]
        if len(keys) == 1 and len(set(seen)) == 1 and seen[0] is not None and not rollout.actions[i][3]:
            return True
    return False


def stuck(rollout):
    at = [i for i in range(len(rollout.actions) - 2) if len({a[0] for a in rollout.actions[i : i + 3]}) == 1 and not rollout.actions[i][3]]
    return bool(at), (len(rollout.actions) - 3) in at


def run(rollouts, mode):
    rollouts = name_rollouts(rollouts)
    dropped, left = collections.Counter(), []
    for rollout in rollouts:
        if rollout.outcome in ("infrastructure", "no_verdict"):
            dropped[rollout.outcome] += 1
        else:
            left.append(rollout)
    seen, unique = set(), []
    for rollout in left:
        # After the last action nothing comes back; a missing observation before that equals nothing.
        gap = rollout.id if None in rollout.seen[:-1] else None
        same = (rollout.tree, rollout.outcome, tuple(k for _, k in edges(rollout, "full_text" if mode == "full_text" else "call")), tuple(rollout.seen), gap)
        if same in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(same)
            unique.append(rollout)
    straight = [rollout for rollout in unique if not loops(rollout)]
    dropped["loop"] = len(unique) - len(straight)
    kept = []
    for rollout in straight:
        first = edges(rollout, mode)[:1]
        if first and any(o is not rollout and o.tree == rollout.tree and edges(o, mode)[:1] == first for o in straight):
            kept.append(rollout)
    dropped["overlap"] = len(straight) - len(kept)
    return report(rollouts, kept, dropped, mode)


def report(rollouts, kept, dropped, mode):
    through = collections.defaultdict(list)
    for rollout in kept:
        steps = edges(rollout, mode)
        for depth in range(1, len(steps) + 1):
            through[(rollout.tree, tuple(steps[:depth]))].append(rollout)
    groups, branches = collections.defaultdict(list), collections.defaultdict(set)
    for tree, steps in through:
        groups[(tree, steps[:-1], steps[-1][0])].append((tree, steps))
        branches[(tree, steps[:-1])].add(steps)
    score = {node: (sum(r.outcome for r in via), len(via)) for node, via in through.items()}
    share = {node: fractions.Fraction(*s) for node, s in score.items()}
    invalid = {}
    for node, via in through.items():
        invalid[node] = via[0].actions[len(node[1]) - 1]
    half, points, pairs = fractions.Fraction(1, 2), 0, []
    for members in groups.values():
        if max(share[m] for m in members) - min(share[m] for m in members) > half:
            points += 1
        key = lambda m: m[1][-1][1].encode("utf-8", "surrogatepass")
        fit = [m for m in members if not invalid[m][3]]
        best = sorted((m for m in fit if not invalid[m][2]), key=lambda m: (-share[m], -score[m][1], key(m)))
        worst = sorted(fit, key=lambda m: (share[m], -score[m][1], key(m)))
        if best and worst and share[best[0]] - share[worst[0]] > half:
            pairs.append(pair(best[0], worst[0], through, score))
    single = lambda n: n == 1
    counts = {
        "instances": len({r.task for r in kept}),
        "instancesCollected": len({r.task for r in rollouts}),
        "collected": len(rollouts),
        "afterFiltering": len(kept),
        "successful": sum(r.outcome for r in kept),
        "wrong": sum(not r.outcome for r in kept),
        "pathMessages": sum(r.messages for r in kept),
        "pathActions": sum(len(r.actions) for r in kept),
        "nodes": len(through),
        "branchPoints": sum(len(children) > 1 for children in branches.values()),
        "criticalDecisionPoints": points,
        "criticalPairs": len(pairs),
        "stuckInLoop": sum(stuck(r)[0] for r in rollouts),
        "stuckAtEnd": sum(stuck(r)[1] for r in rollouts),
        "singlePathPairs": {
            "chosen": sum(p["n"][0] == 1 for p in pairs),
            "rejected": sum(p["n"][1] == 1 for p in pairs),
            "either": sum(1 in p["n"] for p in pairs),
            "both": sum(p["n"] == (1, 1) for p in pairs),
        },
        "dropped": {reason: dropped[reason] for reason in ("infrastructure", "no_verdict", "excluded", "duplicate", "loop", "overlap")},
    }
    for one in pairs:
        del one["n"]
    pairs.sort(key=lambda p: (p["task"], p["depth"], p["chosen"], p["rejected"]))
    everything = sorted(r.id.decode() + " " + " ".join(sha(k) for _, k in edges(r, mode)) for r in rollouts)
    return {
        "nodeKey": mode,
        "counts": counts,
        "keysDigest": sha("\n".join(everything)),
        "keptDigest": sha("\n".join(sorted(r.id.decode() for r in kept))),
        "pairs": pairs,
    }


def pair(chosen, rejected, through, score):
    depth = len(chosen[1]) - 1
    shortest = lambda rs: min(rs, key=lambda r: (len(r.actions), r.id))
    good = shortest([r for r in through[chosen] if r.outcome])
    bad = shortest([r for r in through[rejected] if not r.outcome])
    return {
        "task": chosen[0][0],
        "depth": depth,
        "chosen": sha(chosen[1][-1][1]),
        "rejected": sha(rejected[1][-1][1]),
        "chosenScore": "%d/%d" % score[chosen],
        "rejectedScore": "%d/%d" % score[rejected],
        "chosenRollout": good.id.decode(),
        "rejectedRollout": bad.id.decode(),
        "prefixDivergent": any(a is None or a != b for a, b in zip(good.seen[:depth], bad.seen[:depth])),
        "n": (score[chosen][1], score[rejected][1]),
    }


if __name__ == "__main__":
    assert math.isfinite(float(number(0.5)))
    folder = sys.argv[1].rstrip("/")
    reader = mini if os.path.exists(os.path.join(folder, "verdicts.jsonl")) else swegym
    modes = sys.argv[2:] or ["call", "full_text", "call_and_observation"]
    loaded = list(reader(folder))
    print(json.dumps([run(loaded, mode) for mode in modes], indent=1, sort_keys=True))
