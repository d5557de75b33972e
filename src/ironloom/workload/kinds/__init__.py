"""Every kind of manifest that makes pods, read into the one shape of `workload.workload`."""

from ironloom.workload.kinds.read import Found, Unread, workloads_of

__all__ = ["Found", "Unread", "workloads_of"]
