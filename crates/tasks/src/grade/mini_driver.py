import os
import sys

CALLS = 0
NONCE = 0
out = os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
for used in (0, 1, 2):
    os.dup2(null, used)
sys.dont_write_bytecode = True
sys.path.append(os.getcwd())


def text(value, depth=0):
    kind = type(value)
    if depth > 20:
        raise ValueError
    if value is None or kind in (bool, int, float, str):
        return repr(value)
    inner = ", ".join(text(item, depth + 1) for item in value) if kind in (list, tuple) else None
    if kind is list:
        return "[" + inner + "]"
    if kind is tuple:
        return "(" + inner + ("," if len(value) == 1 else "") + ")"
    raise TypeError


for name, module, call in CALLS:
    try:
        line = "value " + text(eval(call, dict(vars(__import__(module)))))
        if "\n" in line or len(line) > 2000:
            line = "raised ValueError"
    except BaseException as error:
        line = "raised " + type(error).__name__
    os.write(out, f"{NONCE} {name} {line}\n".encode())
os.write(out, f"{NONCE} end {len(CALLS)}\n".encode())
os._exit(0)
