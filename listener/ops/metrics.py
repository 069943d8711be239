"""Metrics for Prometheus. One ``Metrics`` is made by the process and handed to whoever counts."""

import platform
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

_PREFIX = "immich_shared_library"
_LATENCY = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
_SWEEP = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0)  # seconds


class Metrics:
    """Every metric of the listener, in a registry of its own. Times are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.notifications = self._counter("notifications", "Notifications received.", "kind")
        self.notifications_ignored = self._counter(
            "notifications_ignored", "Notifications that could not be used.", "reason"
        )
        self.keys_queued = self._gauge("keys_queued", "Keys that wait for a worker.")
        self.keys_in_flight = self._gauge("keys_in_flight", "Keys that are being reconciled.")
        self.keys_reconciled = self._counter("keys_reconciled", "Keys reconciled.", "job", "outcome")
        self.copies_made = self._counter("copies_made", "Copies made.", "job")
        self.copies_updated = self._counter("copies_updated", "Copies changed to match their source.", "job")
        self.copies_removed = self._counter("copies_removed", "Copies removed.", "job")
        self.copies_parked = self._counter(
            "copies_parked", "Copies put out of sight while their source is away.", "job"
        )
        self.rows_written = self._counter("rows_written", "Rows inserted, updated or deleted.", "table")
        self.files = self._counter("files", "Files made (hardlink, copy, reflink, symlink) or removed.", "how")
        self.failures = self._counter("failures", "Failed tries to make or change a copy.", "job", "reason")
        self.waiting = self._gauge("waiting_sources", "Sources that wait to be ready.", "job", "reason")
        self.paused = self._gauge(
            "paused",
            "1 while a job pauses because a folder of its is not mounted, is not Immich's, or takes no links.",
            "job",
        )
        self.uploads_outside = self._gauge(
            "uploads_outside", "Uploads that are not shared, since they lie outside Immich's media root.", "job"
        )
        self.silent = self._gauge(
            "silent", "1 while a job pauses because a folder of its does not answer, else 0.", "job"
        )
        self.failing = self._gauge("failing_sources", "Photos that could not be copied, and are tried again.", "job")
        self.errors = self._counter("errors", "Errors that ended a part of the work, which was begun anew.", "where")
        self.refused = self._gauge("refused", "1 while a job cannot be served as it is configured, else 0.", "job")
        self.removals_held = self._gauge(
            "removals_held", "Copies that would go in a mass and are held, by why they would go.", "job", "reason"
        )
        self.latency = self._histogram(
            "latency_seconds", "Time from a change in Immich to the finished copy.", _LATENCY
        )
        self.sweep_duration = self._histogram("sweep_duration_seconds", "Time that a sweep took.", _SWEEP)
        self.sweeps = self._counter("sweeps", "Sweeps ended.", "outcome")
        self.listening = self._gauge("listening", "1 while notifications are proven to arrive, else 0.")
        self.reconnects = self._counter("reconnects", "Times the listening connection was made anew.")
        self.trigger_errors = self._gauge(
            "trigger_errors", "Errors that the triggers caught since they were installed."
        )
        self.triggers_installed = self._gauge(
            "triggers_installed", "1 if all triggers are as install leaves them, else 0."
        )
        self.immich_busy = self._gauge(
            "immich_busy", "1 while the listener waits for an upgrade or the maintenance of Immich, else 0."
        )
        Info(f"{_PREFIX}_build", "What runs.", registry=self.registry).info(
            {"version": _version(), "python": platform.python_version()}
        )
        ProcessCollector(namespace=_PREFIX, registry=self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{_PREFIX}_{name}", words, registry=self.registry, buckets=buckets)


def _version() -> str:
    try:
        return version("immich-shared-library")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
