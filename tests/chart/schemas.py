"""Makes JSON schemas for kubeconform: of Kubernetes' kinds from the module's swagger.json, of ours from crds/yaml.

Usage: schemas.py KUBERNETES_MODULE DEFINITIONS OUT_FOLDER

Objects are closed (a field that the API does not know is an error), quantities and int-or-strings are what the API server
takes. DEFINITIONS holds our CustomResourceDefinitions, one JSON document a line.
"""

import json
import sys
from pathlib import Path

LOCATION = "_definitions.json#/definitions/"


def closed(schema):
    """The schema with references into the common file and without room for unknown fields."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {
        # Names of properties are no keywords: a schema of schemas has properties called `$ref` and `format`.
        key: {name: closed(one) for name, one in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if isinstance(out.get("$ref"), str):
        return {"$ref": out["$ref"].replace("#/definitions/", LOCATION)}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    if "properties" in out and "additionalProperties" not in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    out.pop("format", None)
    if out.pop("nullable", False) and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def kubernetes(module: Path, out: Path) -> int:
    definitions = json.loads((module / "api/openapi-spec/swagger.json").read_text())["definitions"]
    quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity"
    common = {name: closed(schema) for name, schema in definitions.items()}
    common[quantity] = {"oneOf": [{"type": "string"}, {"type": "number"}]}
    # What a schema of a schema may hold is free.
    for name in definitions:
        if name.endswith((".JSON", ".JSONSchemaPropsOrBool", ".JSONSchemaPropsOrArray", ".JSONSchemaPropsOrStringArray")):
            common[name] = {}
    (out / "_definitions.json").write_text(json.dumps({"definitions": common}))
    count = 0
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            file = "-".join(part.lower() for part in (kind["kind"], group, kind["version"]) if part)
            (out / f"{file}.json").write_text(json.dumps(common[name]))
            count += 1
    return count


def ours(definitions: Path, out: Path) -> int:
    specs = [json.loads(line)["spec"] for line in definitions.read_text().splitlines() if line.startswith("{")]
    for spec in specs:
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
            file = f"{spec['names']['kind']}-{spec['group'].split('.')[0]}-{version['name']}".lower()
            (out / f"{file}.json").write_text(json.dumps(schema))
    return len(specs)


if __name__ == "__main__":
    module, definitions, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    print(f"{kubernetes(module, out)} schemas of Kubernetes, {ours(definitions, out)} of ours")
