"""From pydantic's JSON schema to one without references, nulls and titles, and on to those of CRD and Helm."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from task_operator.spec import SpecModel

Schema = dict[str, Any]


def plain(model: type[BaseModel]) -> Schema:
    """The model's schema with every reference replaced by what it points to, and without titles.

    An optional field becomes a field that may be absent: `anyOf` with null is unwrapped. Rules of the models become
    `x-kubernetes-validations`.
    """
    document = model.model_json_schema(by_alias=True)
    rules = {m.__name__: [rule.as_schema() for rule in m.rules] for m in _models()}
    definitions = document.pop("$defs", {}) | {model.__name__: document}
    for name, definition in definitions.items():
        if rules.get(name):
            definition["x-kubernetes-validations"] = rules[name]
    return _inline(document, definitions)


def _models() -> Iterator[type[SpecModel]]:
    """Every model that can be among the definitions: all of ours."""
    waiting = [SpecModel]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += found.__subclasses__()


def _inline(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """One schema node, resolved. A field's own description and default win over its model's."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return _inline(target | {k: v for k, v in node.items() if k != "$ref"}, definitions)
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        if len(options) != 1:
            raise ValueError(f"a structural schema has no unions: {node}")
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
    """The schema with `change` made to every node, children first."""
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
    """The schema for a CRD: structural (OpenAPI 3.0), defaults only where the API server shall write them."""
    return walk(plain(model), _structural_node)


def _structural_node(node: Schema) -> Schema:
    dropped = {"default", "examples", "x-crd-default", "x-helm-integer"}
    if "properties" in node:
        dropped.add(
            "additionalProperties"
        )  # unknown fields are pruned, or refused by strict validation
    result = {k: v for k, v in node.items() if k not in dropped}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "description" in result:
        result["description"] = described(node)
    if "x-crd-default" in node:
        result["default"] = node["x-crd-default"]
    return result


def described(node: Schema) -> str:
    """The node's description with its default, where it has one that tells something."""
    text = str(node.get("description", ""))
    default = node.get("default")
    if default in (None, "", [], {}) or isinstance(default, dict):
        return text
    shown = {True: "true", False: "false"}.get(default) if isinstance(default, bool) else default
    if isinstance(shown, list):
        shown = ", ".join(map(str, shown))
    return f"{text} Default: {shown}."


def helm(model: type[BaseModel]) -> Schema:
    """The schema for a chart's values: JSON Schema that any validator knows, unknown values refused."""
    schema = walk(plain(model), _helm_node)
    schema["properties"]["global"] = {
        "type": "object",
        "description": "Values that Helm shares between charts.",
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
