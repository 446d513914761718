"""The manifests of each value set are those in `golden/`; `pytest tests/charts --update-golden`
writes them.
"""

import pytest

from tests.support.helm import GOLDEN, Case, Helm, cases, operator_cases

EVERY = [*cases(), *operator_cases()]


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_the_manifests_are_the_golden_ones(helm: Helm, case: Case, *, update_golden: bool) -> None:
    rendered = helm.template(case.values, *case.flags, chart=case.chart)
    if update_golden:
        case.golden.write_text(rendered)
    assert rendered == case.golden.read_text()


def test_there_is_no_golden_file_without_a_value_set() -> None:
    assert sorted(GOLDEN.glob("*")) == sorted(case.golden for case in EVERY)
