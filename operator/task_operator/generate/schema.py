"""Convert pydantic's JSON schemas to the schemas of the CRD and of the chart's values."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from task_operator.spec import SpecModel

Schema = dict[str, Any]


def plain(model: type[BaseModel]) -> Schema:
    """Return the schema of a model with all references resolved and without titles.

    An optional field becomes a field that may be absent: `anyOf` with null is unwrapped. The rules
    of the models become `x-kubernetes-validations`.
    """
    document = model.model_json_schema(by_alias=True)
    rules = {m.__name__: [rule.as_schema() for rule in m.rules] for m in _models()}
    definitions = document.pop("$defs", {}) | {model.__name__: document}
    for name, definition in definitions.items():
        if rules.get(name):
            definition["x-kubernetes-validations"] = rules[name]
    return _inline(document, definitions)


def _models() -> Iterator[type[SpecModel]]:
    """Yield all models of the spec."""
    waiting = [SpecModel]
    while waiting:
        model = waiting.pop()
        yield model
        waiting += model.__subclasses__()


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Resolve a node; the description and default of a field override those of its model."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _inline(target | {k: v for k, v in node.items() if k != "$ref"}, definitions)
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        if len(options) != 1:
            raise ValueError(f"a structural schema cannot contain a union: {node}")
        return _inline(options[0] | {k: v for k, v in node.items() if k != "anyOf"}, definitions)
    result = {k: v for k, v in node.items() if k not in ("title", "$defs")}
    if isinstance(default := result.get("default"), float) and default.is_integer():
        result["default"] = int(default)
    if "properties" in result:
        result["properties"] = {
            name: _inline(child, definitions) for name, child in result["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _inline(result[key], definitions)
    return result


def walk(node: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Apply `change` to every node, children first, and return the new schema."""
    result = dict(node)
    if "properties" in result:
        result["properties"] = {
            name: walk(child, change) for name, child in result["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = walk(result[key], change)
    return change(result)


def structural(model: type[BaseModel]) -> Schema:
    """Return the structural schema (OpenAPI 3.0) for a CRD.

    It contains only the defaults that the API server has to write.
    """
    return walk(plain(model), _structural_node)


def _structural_node(node: Schema) -> Schema:
    dropped = {"default", "examples", "x-crd-default", "x-helm-integer"}
    if "properties" in node:
        # The API server prunes unknown fields, or rejects them with strict validation.
        dropped.add("additionalProperties")
    result = {k: v for k, v in node.items() if k not in dropped}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "description" in result:
        result["description"] = described(node)
    if "x-crd-default" in node:
        result["default"] = node["x-crd-default"]
    return result


def described(node: Schema) -> str:
    """Return the description of a node, with its default unless that is empty."""
    text = str(node.get("description", ""))
    default = node.get("default")
    if default in (None, "", [], {}) or isinstance(default, dict):
        return text
    shown = {True: "true", False: "false"}.get(default) if isinstance(default, bool) else default
    if isinstance(shown, list):
        shown = ", ".join(map(str, shown))
    return f"{text} Default: {shown}."


def helm(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema for the values of a chart; it rejects unknown values."""
    schema = walk(plain(model), _helm_node)
    schema["properties"]["global"] = {
        "type": "object",
        "description": "Values that Helm passes to all charts.",
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart task-service",
    } | schema


def _helm_node(node: Schema) -> Schema:
    result = {k: v for k, v in node.items() if not k.startswith("x-") and k != "default"}
    if node.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if node.get("x-helm-integer"):
        result["type"] = ["string", "integer"]
    if "description" in result:
        result["description"] = described(node)
    return result
