"""What stands in `monitoring/` and docs/alerts.md belongs together, and names no metric that there is not.

Whether the rules are right is for promtool: `make alerts`.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cdc_pusher import metrics

ROOT = Path(__file__).parent.parent
RULES = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))
TESTS = yaml.safe_load((ROOT / "monitoring" / "alerts_test.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((ROOT / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8"))
RUNBOOK = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")

ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
SECTIONS = re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
METRICS = {
    f"{family.name}{suffix}"
    for registry in (metrics.registry, metrics.of_the_database)
    for family in registry.collect()
    for suffix in SUFFIXES[family.type]
}


def _named(text: str) -> set[str]:
    """Every metric that an expression names; what rules record has colons in its name."""
    return set(re.findall(r"(?<![\w:])(?:cdc_pusher|process|python)_\w+(?![\w:])", text))


def _recorded(text: str) -> set[str]:
    return set(re.findall(r"\b[a-z]+:\w+:\w+\b", text))


def _queries() -> Iterator[str]:
    yield from (target["expr"] for panel in PANELS for target in panel["targets"])
    yield from (variable["definition"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query")


def _firing() -> Iterator[tuple[str, set[str]]]:
    """Of each alert that a unit test expects: its name and its labels."""
    for test in TESTS["tests"]:
        for expected in test.get("alert_rule_test", ()):
            for alert in expected.get("exp_alerts", ()):
                yield expected["alertname"], set(alert["exp_labels"])
        for expected in test.get("promql_expr_test", ()):
            for sample in expected["exp_samples"]:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                yield labels["alertname"], set(labels)


def test_alerts_name_only_metrics_that_there_are() -> None:
    expressions = "\n".join(rule["expr"] for group in RULES["groups"] for rule in group["rules"])
    assert _named(expressions) - METRICS == set()
    assert _recorded(expressions) == RECORDED


def test_unit_tests_of_alerts_name_only_metrics_that_there_are() -> None:
    series = "\n".join(series["series"] for test in TESTS["tests"] for series in test["input_series"])
    assert _named(series) - METRICS == set()


def test_the_dashboard_names_only_metrics_that_there_are() -> None:
    assert _named("\n".join(_queries())) - METRICS == set()


def test_every_alert_says_how_urgent_it_is_what_it_means_and_where_to_read_on() -> None:
    for name, rule in ALERTS.items():
        assert rule["for"], name
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"


def test_every_alert_has_its_section_and_no_section_lacks_its_alert() -> None:
    assert sorted(SECTIONS) == sorted(ALERTS)


def test_the_runbook_says_the_same_urgency_as_the_alert() -> None:
    said = dict(re.findall(r"^## (\w+)\n\n\*\*(\w+)\.\*\*", RUNBOOK, re.MULTILINE))
    assert said == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}


def test_links_within_the_runbook_lead_to_a_section() -> None:
    assert set(re.findall(r"\(#([^)]+)\)", RUNBOOK)) <= {section.lower() for section in SECTIONS}


def test_every_alert_fires_in_a_unit_test() -> None:
    assert {name for name, _ in _firing()} == set(ALERTS)


def test_labels_that_the_words_of_an_alert_need_are_there_when_it_fires() -> None:
    labels = {name: set[str]() for name in ALERTS}
    for name, seen in _firing():
        labels[name] |= seen
    for name, rule in ALERTS.items():
        assert set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))) <= labels[name], name


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in PANELS:
        assert panel["title"], panel["id"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_no_panel_is_bound_to_one_data_source() -> None:
    for asked in (*PANELS, *(target for panel in PANELS for target in panel["targets"])):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_variables_of_the_dashboard_are_all_there() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "emp", "instance"]


def test_no_two_panels_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for one, other in itertools.combinations(DASHBOARD["panels"], 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
