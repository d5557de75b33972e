"""Workloads as the objects that a cluster's controllers run."""
