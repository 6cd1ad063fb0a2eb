"""What Prometheus is told: names and labels by its conventions, no label whose values nobody can count beforehand.

Counters and histograms say what this daemon did; gauges that are read from the database are the same at every daemon (`gauges`). The labels
`emp` and `lease` have the names of the configuration.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from cdc_pusher import __version__

registry = CollectorRegistry()
of_the_database = CollectorRegistry()  # joins the other one when the database has been read: a zero that nobody has counted is a lie
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)

_LAG_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400)
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def _counter(name: str, text: str, *labels: str, registry: CollectorRegistry = registry) -> Counter:
    return Counter(f"cdc_pusher_{name}", text, labels, registry=registry)


def _gauge(name: str, text: str, *labels: str, registry: CollectorRegistry = registry) -> Gauge:
    return Gauge(f"cdc_pusher_{name}", text, labels, registry=registry)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"cdc_pusher_{name}", text, labels, buckets=buckets, registry=registry)


_gauge("build_info", "The version of the program", "version").labels(__version__).set(1)

# ── what this daemon did ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

delivery_lag = _histogram("delivery_lag_seconds", "From a change in the CPO's database to the EMP's acknowledgement", _LAG_S, "emp", "kind")
requests = _counter("requests", "Requests by what came of them: accepted, retry, station_missing, rejected", "emp", "kind", "outcome")
request_duration = _histogram("request_duration_seconds", "From sending a request to its answer or failure", _REQUEST_S, "emp")
concurrency = _gauge(
    "concurrency", "Requests that this daemon may have in flight: what is configured, or what the EMP keeps up with", "emp"
)
captured = _counter("captured_changes", "Changes that were taken out of the change log")
capture_duration = _histogram("capture_batch_duration_seconds", "How long a batch of changes took to capture", _REQUEST_S)
lease_held = _gauge("lease_held", "Whether this daemon has the lease", "lease")
lease_taken = _counter("lease_taken", "How often this daemon took the lease", "lease")
connections_lost = _counter("database_connections_lost", "Connections to the database that broke or could not be made", "part")
daemons = _gauge("daemons", "Daemons that live, as this one sees it")
listening = _gauge("listening", "1: NOTIFY is heard; 0: the database is polled")
reload_successful = _gauge("config_last_reload_successful", "Whether the configuration was taken when it was last read")
job_failures = _counter("job_failures", "Scheduled jobs that failed", "task")  # `job` is a label of Prometheus itself

# ── what the database says ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

undelivered = _gauge("undelivered_messages", "Messages that are not delivered", "emp", "state", "cause", registry=of_the_database)
oldest_age = _gauge("oldest_undelivered_change_age_seconds", "Age of the oldest change that is on its way", "emp", registry=of_the_database)
late_after = _gauge("late_after_seconds", "Age of a change from which on the EMP is late", "emp", registry=of_the_database)
breaker_open = _gauge("breaker_open", "Whether the EMP fails as a whole and gets nothing but probes", "emp", registry=of_the_database)
paused = _gauge("emp_paused", "Whether people have paused the EMP", "emp", registry=of_the_database)
full_load_completed = _gauge("full_load_completed", "Whether the full load is through", "emp", registry=of_the_database)
stations = _gauge("stations", "Stations in the outbox", "emp", registry=of_the_database)
walk_stations = _gauge("walk_stations", "Stations that the walk under way has put into the change log", "emp", registry=of_the_database)
sweep_completed = _gauge("sweep_last_completed_timestamp_seconds", "When a sweep was last through", "emp", registry=of_the_database)
healed = _counter("healed_stations", "Stations that a sweep found changed though no trigger had told", "emp", registry=of_the_database)
missed = _counter("missed_changes", "Changes that triggers could not record; a sweep follows", registry=of_the_database)
change_log = _gauge("change_log_changes", "Changes that wait to be captured, counted up to 10,000", registry=of_the_database)
change_log_age = _gauge("change_log_oldest_age_seconds", "Age of the oldest change that waits to be captured", registry=of_the_database)
trigger_faults = _gauge("trigger_faults", "Triggers that are not as configured", registry=of_the_database)
refreshed = _gauge("gauges_refreshed_timestamp_seconds", "When the gauges of the database were last read", registry=of_the_database)


def expose_the_database() -> None:
    """The database has been read: show what it said from now on."""
    if not _exposed:
        registry.register(of_the_database)
        _exposed.append(True)


_exposed: list[bool] = []
