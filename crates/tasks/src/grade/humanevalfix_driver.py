import ast
import builtins
import json
import os
import sys

SETTINGS = 0
SERVER = 0


def close_to_others():
    """Keeps processes of the same user from reading this one's memory and descriptors."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    except Exception:
        pass


class Solution:
    """The other process: it runs the solution and answers calls."""

    def __init__(self, path):
        calls, self.calls = os.pipe()
        self.replies, replies = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, used) for used in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, calls, 20), (os.POSIX_SPAWN_DUP2, replies, 21)]
        argv = [sys.executable, "-I", "-B", "-c", SERVER, path]
        self.process = os.posix_spawn(sys.executable, argv, {"PATH": os.environ.get("PATH", "")}, file_actions=actions)
        for other in (calls, replies, null):
            os.close(other)
        self.calls = os.fdopen(self.calls, "w", encoding="utf-8")
        self.replies = os.fdopen(self.replies, "r", encoding="utf-8")

    def reply(self):
        line = self.replies.readline()
        if not line.endswith("\n"):
            raise RuntimeError("the solution's process ended")
        data = json.loads(line)
        if set(data) != {"ok"}:
            raise RuntimeError("the solution raised")
        return decode(data["ok"])

    def call(self, name, arguments, named):
        self.calls.write(json.dumps([name, encode(list(arguments)), encode(named)]) + "\n")
        self.calls.flush()
        return self.reply()

    def function(self, name):
        return lambda *arguments, **named: self.call(name, arguments, named)


class Never:
    """Equal to nothing."""


class Assertions(ast.NodeTransformer):
    """Hands every assertion to `_assert` (or, when it compares for equality, both sides to `_assert_equal`)."""

    def visit_Assert(self, node):
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            name, arguments = "_assert_equal", [test.left, test.comparators[0]]
        else:
            name, arguments = "_assert", [test]
        call = ast.Call(ast.Name(name, ast.Load()), arguments, [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))


def scope_of(tree, solution, entry):
    """What the test finds: modules that it names, and functions of the solution for every other free name."""
    nodes = list(ast.walk(tree))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    modules = {"math", "random", "re", "copy", "string", "itertools", "collections", "functools", "heapq", "datetime", "hashlib", "statistics", "fractions", "decimal", "operator", "sys", "os", "json"}
    scope = {"__name__": "tests"}
    for name in (used - bound) | {entry}:
        if name in modules:
            scope[name] = __import__(name)
        elif not hasattr(builtins, name) or name == entry:
            scope[name] = solution.function(name)
    return scope


def look_at(path, entry):
    """What the solution's file is, without running it."""
    try:
        tree = ast.parse(open(path, encoding="utf-8").read())
    except FileNotFoundError:
        return "missing"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "syntax"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return "file" if any(isinstance(node, functions) and node.name == entry for node in tree.body) else "noFunction"


def main():
    close_to_others()
    control, path, entry = SETTINGS["control"], SETTINGS["path"], SETTINGS["entry"]
    seen = {"asserts": 0, "held": 0}

    def judge(held):
        seen["asserts"] += 1
        seen["held"] += bool(held)
        if not control and not held:
            raise AssertionError

    result = {"file": look_at(path, entry), "passed": False}
    if result["file"] == "file":
        solution = Solution(path)
        try:
            solution.reply()
            tree = ast.parse(SETTINGS["test"])
            scope = scope_of(tree, solution, entry)
            tree = Assertions().visit(tree)
            never = Never()
            scope["_assert"] = lambda held: judge(not held if control else held)
            scope["_assert_equal"] = lambda a, b: judge(a == never or b == never if control else a == b)
            exec(compile(tree, "tests", "exec"), scope)
            result["passed"] = True
        except BaseException as error:
            result["raised"] = type(error).__name__
        os.kill(solution.process, 9)
    sys.stdout.write(SETTINGS["nonce"] + " " + json.dumps({**result, **seen}) + "\n")
    sys.stdout.flush()
    os._exit(0)


main()
