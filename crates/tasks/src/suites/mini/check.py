import sys

sys.dont_write_bytecode = True
CASES = [
# CASES
]


def source(module, function):
    shown = []
    for line in open(module + ".py", encoding="utf-8", errors="replace"):
        if line.startswith("def " + function + "("):
            shown = [line]
        elif shown and line.strip() and line[0] != " ":
            break
        elif shown:
            shown.append(line)
    return "".join(shown).rstrip()


for module, function, call, expected, spec in CASES:
    try:
        value = repr(eval(call, dict(vars(__import__(module)))))
    except Exception as error:
        value = type(error).__name__
    if value != expected:
        print(f"{module}.py: {call} gave {value}, expected {expected}{spec}")
        print(source(module, function))
        sys.exit(1)
print("passed")
