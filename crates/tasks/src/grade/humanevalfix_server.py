import json
import os
import sys

calls = os.fdopen(20, "r", encoding="utf-8")
replies = os.fdopen(21, "w", encoding="utf-8")


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
