"""Base of all spec models: camelCase names, no unknown fields, and CEL rules."""

from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DATA_KEY = r"^[-._a-zA-Z0-9]+$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
QUANTITY = (
    r"^([0-9]+|[0-9]*\.[0-9]+|[0-9]+\.[0-9]*)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei|[eE][-+]?[0-9]+)?$"
)
PERCENT_OR_COUNT = r"^[0-9]+%?$"


class Rule(NamedTuple):
    """One constraint on several fields of a model, enforced by the API server.

    `cel` is the expression; `self` is the object of the model. `message` names the field. `field`
    (a path like `.minReplicas`) is the field path in the API server's error.
    """

    cel: str
    message: str
    field: str | None = None

    def as_schema(self) -> dict[str, str]:
        """Return the rule as an item of `x-kubernetes-validations`."""
        schema = {"rule": self.cel, "message": self.message}
        return schema | {"fieldPath": self.field} if self.field else schema


class SpecModel(BaseModel):
    """Immutable base model: camelCase in JSON, snake_case in Python, unknown fields rejected."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    rules: ClassVar[tuple[Rule, ...]] = ()


def int_or_string(pattern: str) -> WithJsonSchema:
    """Return the schema of a value that is an integer, or a string with the given pattern."""
    return WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": pattern})


Quantity = Annotated[int | str, int_or_string(QUANTITY)]
IntOrPercent = Annotated[int | str, int_or_string(PERCENT_OR_COUNT)]
ResourceName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=DATA_KEY)]
Labels = dict[str, Annotated[str, Field(max_length=63)]]
Annotations = dict[str, str]


def crd_default(value: Any) -> dict[str, Any]:
    """Return the extra schema of a field whose default the API server writes into the object."""
    return {"x-crd-default": value}


def list_map(*keys: str) -> dict[str, Any]:
    """Return the extra schema of a list whose items server-side apply identifies by `keys`."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


# For a string that Helm's `--set` may parse as a number, such as the tag 2.
HELM_INTEGER: dict[str, Any] = {"x-helm-integer": True}
LIST_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
LIST_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
