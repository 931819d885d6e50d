"""The dashboard and the alert rules ask for numbers this server has, by labels they have."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.exposition import Scrape, scrape
from tests.support.server import Server

DOCS = Path(__file__).resolve().parents[3] / "docs"
DASHBOARD = json.loads((DOCS / "monitoring" / "grafana.json").read_text())
RULES = [rule for group in yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text())["groups"]
         for rule in group["rules"]]  # fmt: skip
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]
SERIES = re.compile(r"\b((?:tgi|heir)_\w+)(?:\{([^}]*)\})?")
# Set by Prometheus, not by the server.
TARGET_LABELS = {"instance", "job"}


@pytest.fixture(scope="module")
def labels_of(tiny_server: Server) -> dict[str, set[str]]:
    """The label names of each series of a server that has answered one request."""
    tiny_server.request("POST", "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}})
    found: Scrape = scrape(tiny_server)
    names: defaultdict[str, set[str]] = defaultdict(set)
    for name, labels in found.values:
        names[name] |= {label for label, _ in labels}
    return names


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(labels_of: dict[str, set[str]], expression: str) -> None:
    asked = SERIES.findall(expression)
    assert asked
    for name, selector in asked:
        assert name in labels_of, name
        assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= labels_of[name] | TARGET_LABELS
    grouped = {label for inside in re.findall(r"by \(([^)]*)\)", expression) for label in inside.split(", ")}
    assert grouped <= set().union(*(labels_of[name] for name, _ in asked)) | TARGET_LABELS
    assert all(expression.count(opening) == expression.count(closing) for opening, closing in ("()", "{}", "[]"))


def test_every_quantile_is_of_a_histogram_and_keeps_its_bounds(labels_of: dict[str, set[str]]) -> None:
    quantiles = [expression for expression in EXPRESSIONS if "histogram_quantile" in expression]
    assert quantiles
    for expression in quantiles:
        assert re.search(r"sum by \([^)]*\ble\b[^)]*\) \(rate\(\w+_bucket", expression), expression
        assert all("le" in labels_of[name] for name, _ in SERIES.findall(expression))


def test_no_rate_is_taken_of_a_gauge(tiny_server: Server) -> None:
    types = scrape(tiny_server).types
    for name in re.findall(r"(?:rate|increase)\((\w+)", " ".join(EXPRESSIONS)):
        family = re.sub(r"_(?:total|bucket|sum|count)$", "", name)
        assert types.get(name, types.get(family)) in {"counter", "histogram"}, name


def test_panels_stand_beside_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_how_bad_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_the_page_explains_every_number_and_no_other(labels_of: dict[str, set[str]]) -> None:
    page = (DOCS / "monitoring.md").read_text()
    explained = set(re.findall(r"^\| `((?:tgi_|heir_|vllm:)\w+)", page, re.MULTILINE))
    # By position: there is none before the first draft.
    explained.remove("vllm:spec_decode_num_accepted_tokens_per_pos_total")
    # By adapter: this server has none.
    explained.remove("heir_adapter_sequences_total")
    assert explained == {_family(name, labels_of) for name in labels_of}


def _family(series: str, labels_of: dict[str, set[str]]) -> str:
    """The histogram a series belongs to, else the series itself."""
    stem = series.rpartition("_")[0]
    return stem if "le" in labels_of.get(f"{stem}_bucket", ()) else series
