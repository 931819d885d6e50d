"""Which of a caller's headers make its trace the request's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask, Response, request

from container.monitoring.request_record import RequestRecord
from container.monitoring.tracing.sender import SpanSender
from container.monitoring.tracing.span import Span

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
OTHER = TRACEPARENT.replace("4bf9", "aaaa")


class Kept(SpanSender):
    """The socket leads nowhere; spans are kept."""

    def __init__(self, path: Path, *, reads_parent: bool) -> None:
        super().__init__(path, reads_parent=reads_parent)
        self.spans: list[Span] = []

    def send(self, span: Span) -> None:
        self.spans.append(span)


@pytest.fixture(params=[True, False], ids=["read", "not read"])
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    with closing(Kept(tmp_path / "s", reads_parent=request.param)) as sender:
        yield sender


def answered(headers: dict[str, str], sender: Kept, adopted: str | None = None) -> tuple[RequestRecord, Span, Response]:
    with Flask("test").test_request_context("/x", headers=headers):
        record = RequestRecord(request, dialect="tgi", generates=True, spans=sender)
    record.adopt(adopted)
    response = Response()
    record.show_ids(response)
    record.close(response)
    (span,) = sender.spans
    return record, span, response


def test_the_header_is_the_parent_unless_a_setting_forbids(sender: Kept) -> None:
    record, span, response = answered({"traceparent": TRACEPARENT, "tracestate": "a=b"}, sender)
    if sender.reads_parent:
        assert (span.trace_id, span.parent_id, span.parent_flags, span.trace_state) == (TRACE_ID, PARENT_ID, 1, "a=b")
    else:
        assert (span.trace_id, span.parent_id, span.parent_flags, span.trace_state) == (record.id, "", 0, "")
    assert response.headers.get("traceparent") == (TRACEPARENT if sender.reads_parent else None)


@pytest.mark.parametrize(
    ("header", "adopted", "trace_id"),
    [("", TRACEPARENT, TRACE_ID), (TRACEPARENT, OTHER, TRACE_ID), ("x", OTHER, f"aaaa{TRACE_ID[4:]}"), ("", "x", None)],
)
def test_a_trace_that_comes_another_way_counts_where_there_is_no_header(
    sender: Kept, header: str, adopted: str, trace_id: str | None
) -> None:
    record, span, _ = answered({"traceparent": header}, sender, adopted)
    assert span.trace_id == (trace_id if trace_id and sender.reads_parent else record.id)


def test_a_state_beyond_what_the_standard_asks_for_is_left_out(tmp_path: Path) -> None:
    with closing(Kept(tmp_path / "s", reads_parent=True)) as sender:
        _, span, _ = answered({"traceparent": TRACEPARENT, "tracestate": f"a={'b' * 511}"}, sender)
    assert (span.parent_id, span.trace_state) == (PARENT_ID, "")


def test_a_request_is_closed_once(tmp_path: Path) -> None:
    with closing(Kept(tmp_path / "s", reads_parent=True)) as sender:
        record, _, response = answered({}, sender)
        record.close(response)
        assert len(sender.spans) == 1
