"""Many labels: the sampling plan, the workers that train it, and the store that keeps every result."""

from data_gen.driver import Progress, run_jobs
from data_gen.labels import cheap_labels, label_table, measured, write_label_table
from data_gen.local import device_names
from data_gen.lock import lock_owner, refuse_if_driven, run_lock
from data_gen.plan import ActiveSettings, GenerateSettings, plan
from data_gen.store import Failure, Job, NodeCount, Result, Store, open_store, read_store
from data_gen.task import Task, WorkerSettings

__all__ = [
    "ActiveSettings",
    "Failure",
    "GenerateSettings",
    "Job",
    "NodeCount",
    "Progress",
    "Result",
    "Store",
    "Task",
    "WorkerSettings",
    "cheap_labels",
    "device_names",
    "label_table",
    "lock_owner",
    "measured",
    "open_store",
    "plan",
    "read_store",
    "refuse_if_driven",
    "run_jobs",
    "run_lock",
    "write_label_table",
]
