"""The one description of the workload: the TaskService's spec and status, and the chart's values.

The CRD, the chart's schema and values, and the reference page are generated from these models
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
