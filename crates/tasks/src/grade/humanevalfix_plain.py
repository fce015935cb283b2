# Values between the test and the solution: plain data only, so that neither process runs code of the other.


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
