import json
import os
import sys

calls = os.fdopen(20, "r", encoding="utf-8")
replies = os.fdopen(21, "w", encoding="utf-8")


def encode(value):
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"f": repr(value)}
    if kind is complex:
        return {"c": [repr(value.real), repr(value.imag)]}
    if kind is dict:
        return {"d": [[encode(key), encode(item)] for key, item in value.items()]}
    for tag, sequence in (("l", list), ("t", tuple), ("s", set)):
        if kind is sequence:
            return {tag: [encode(item) for item in value]}
    raise TypeError("a value that is not plain data")


def decode(data):
    if not isinstance(data, dict):
        return data
    ((tag, inner),) = data.items()
    if tag == "f":
        return float(inner)
    if tag == "c":
        return complex(float(inner[0]), float(inner[1]))
    if tag == "d":
        return {decode(key): decode(item) for key, item in inner}
    return {"l": list, "t": tuple, "s": set}[tag](decode(item) for item in inner)


def answer(produce):
    try:
        reply = json.dumps({"ok": encode(produce())})
    except BaseException as error:
        reply = json.dumps({"raised": type(error).__name__})
    replies.write(reply + "\n")
    replies.flush()


path = sys.argv[1]
scope = {"__name__": "__main__", "__file__": path}


def load():
    exec(compile(open(path, encoding="utf-8").read(), path, "exec"), scope)


answer(load)
for line in calls:
    name, arguments, named = json.loads(line)
    answer(lambda: scope[name](*decode(arguments), **decode(named)))
