"""The models are the one description: CRD, values, their schema and the reference page agree with
them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from task_operator import generate
from task_operator.generate.crd import crd
from task_operator.generate.schema import plain
from task_operator.spec import NAME_RULES, ChartValues, SpecModel, TaskServiceSpec
from task_operator.spec.pod import RESERVED_ENV
from tests.support.bad_specs import BAD
from tests.support.helm import CHART, REPOSITORY, by_name, cases, pod_specs, read

Schema = dict[str, Any]
CHART_ONLY = {"secret", "postgresql", "valkey", "operator", "trustedIssuers", "global"}
OPERATOR_ONLY = {"paused"}
COMPARED = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
)


def spec_schema() -> Schema:
    version = crd()["spec"]["versions"][0]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def fields(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Every field below a schema, with its path."""
    for name, node in schema.get("properties", {}).items():
        yield f"{prefix}{name}", node
        yield from fields(node, f"{prefix}{name}.")
        yield from fields(node.get("items", {}), f"{prefix}{name}[].")


def models() -> list[type[SpecModel]]:
    found = [SpecModel]
    for model in found:
        found += [sub for sub in model.__subclasses__() if sub not in found]
    return found


def test_no_generated_file_is_stale() -> None:
    assert generate.main(check=True) == []


def test_a_stale_file_is_named_and_written_anew(tmp_path: Path) -> None:
    assert set(generate.main(root=tmp_path)) == set(generate.OUTPUTS)
    (tmp_path / "k8s/crd.yaml").write_text("old")
    assert generate.main(check=True, root=tmp_path) == ["k8s/crd.yaml"]
    assert (tmp_path / "k8s/crd.yaml").read_text() == "old"
    assert generate.main(root=tmp_path) == ["k8s/crd.yaml"]
    assert generate.main(check=True, root=tmp_path) == []


def test_the_chart_takes_every_field_of_the_spec_with_the_same_bounds() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    in_values = {
        path: node
        for path, node in fields(schema)
        if path.split(".")[0].split("[")[0] not in CHART_ONLY
    }
    in_crd = {path: node for path, node in fields(spec_schema()) if path not in OPERATOR_ONLY}
    assert set(in_values) == set(in_crd)
    for path, node in in_crd.items():
        if (
            not node.get("x-kubernetes-int-or-string") and path != "image.tag"
        ):  # Helm may take a tag for a number
            assert {k: node.get(k) for k in COMPARED} == {
                k: in_values[path].get(k) for k in COMPARED
            }, path


def test_every_field_of_spec_and_status_is_described() -> None:
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    undescribed = [path for path, node in fields(schema) if not node.get("description")]
    assert undescribed == []


def test_the_crd_is_structural_and_keeps_no_unknown_field() -> None:
    text = yaml.safe_dump(crd())
    for word in ("$ref", "anyOf", "oneOf", "nullable", "preserve-unknown-fields", "title:"):
        assert word not in text


def test_the_api_server_writes_no_default_but_the_one_that_scale_needs() -> None:
    defaults = {path: node["default"] for path, node in fields(spec_schema()) if "default" in node}
    assert defaults == {"worker": {}, "worker.replicas": 1}


def test_the_defaults_of_the_chart_are_those_of_the_models() -> None:
    values = ChartValues.model_validate(read(CHART / "values.yaml"))
    assert values.model_dump(by_alias=True) == ChartValues().model_dump(by_alias=True)


@pytest.mark.parametrize("name", ["minimal", "autoscaled", "full"])
def test_a_sample_is_what_the_models_take(name: str) -> None:
    spec = read(REPOSITORY / f"k8s/samples/{name}.yaml")["spec"]
    assert TaskServiceSpec.model_validate(spec).database.secret_ref.name == "task-service-database"


def test_the_full_sample_sets_every_part_of_the_spec() -> None:
    spec = read(REPOSITORY / "k8s/samples/full.yaml")["spec"]
    assert set(spec) == set(plain(TaskServiceSpec)["properties"]) - OPERATOR_ONLY


def test_every_rule_has_a_spec_that_breaks_it() -> None:
    expected = " ".join(word for bad in BAD for word in bad.words)
    for model in models():
        for rule in model.rules:
            assert any(
                part in expected for part in (rule.message, rule.message.partition(": ")[2] or "-")
            ), rule.message


def test_every_rule_of_the_spec_is_also_a_rule_of_the_chart() -> None:
    checks = (CHART / "templates/_validate.tpl").read_text()
    for rule in [*NAME_RULES, *(rule for model in models() for rule in model.rules)]:
        assert re.sub(r"^(autoscaling|podDisruptionBudget|extraEnv): ", "", rule.message) in checks


def test_no_variable_that_the_chart_sets_can_be_given_twice() -> None:
    names = set()
    for case in cases():
        for key, spec in pod_specs(by_name(case.golden.read_text())).items():
            if not key.endswith(("-test", "-postgresql", "-valkey")):
                given = {
                    e["name"]
                    for c in ("api", "worker")
                    for e in case.values.get(c, {}).get("extraEnv", [])
                }
                names |= {
                    env["name"] for container in spec["containers"] for env in container["env"]
                } - given
    assert names - {"ENVIRONMENT", "LOG_LEVEL", "LOG_FORMAT"} <= set(RESERVED_ENV)
