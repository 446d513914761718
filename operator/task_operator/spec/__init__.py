"""Models of the workload: spec and status of a TaskService, and the values of the chart.

The CRD, the chart's values and their schema, and the reference page are generated from them
(`python -m task_operator.generate`).
"""

from task_operator.spec.base import Rule, SpecModel
from task_operator.spec.chart import ChartValues
from task_operator.spec.resource import (
    GROUP,
    KIND,
    NAME_RULES,
    PLURAL,
    VERSION,
    TaskServiceSpec,
    TaskServiceStatus,
    chart_values,
)

__all__ = [
    "GROUP",
    "KIND",
    "NAME_RULES",
    "PLURAL",
    "VERSION",
    "ChartValues",
    "Rule",
    "SpecModel",
    "TaskServiceSpec",
    "TaskServiceStatus",
    "chart_values",
]
