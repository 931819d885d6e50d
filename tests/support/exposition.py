"""/metrics as a scraper reads it."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import Server

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics: a value for each series, under the names the text has them by."""

    values: dict[Series, float]
    types: dict[str, str]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels."""
        wanted = labels.items()
        found = [
            value for (each, given), value in self.values.items() if each == name and wanted <= dict(given).items()
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.values}


def scrape(server: Server) -> Scrape:
    """Fails if the text is not what the format allows, or names a series twice."""
    answer = server.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    heads = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)), "a metric has two heads"
    written = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(written) == len(set(written)), "a series is there twice"
    values: dict[Series, float] = {}
    types: dict[str, str] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        types[family.name] = family.type
        for sample in family.samples:
            # The parser calls every counter `_total`; what the text says counts.
            bare = sample.name.removesuffix("_total")
            name = sample.name if any(line.startswith(sample.name) for line in written) else bare
            values[name, frozenset(sample.labels.items())] = sample.value
    return Scrape(values, types)
