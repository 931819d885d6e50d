"""A real Chromium on the page, which a real web server serves before a scripted engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from playwright.sync_api import Browser, Route, sync_playwright

from tests.browser.visit import Visit
from tests.contract.openai.scripted import ScriptedServer, started
from tests.support.chromium import chromium_options, chromium_program
from tests.support.needs import require

# Where cores are shared, what takes milliseconds may take seconds.
_PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each module: Playwright's event loop runs in this thread, where other tests want one of their own."""
    require("chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium_program(), args=chromium_options())


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A model that thinks and calls tools."""
    yield from _serve(tmp_path_factory)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """The same behind a key."""
    yield from _serve(tmp_path_factory, API_KEY="Secret")


def _serve(tmp_path_factory: pytest.TempPathFactory, **environ: str) -> Iterator[ScriptedServer]:
    # Servers that start later are other tests'.
    with mock.patch.dict(os.environ, environ):
        server = started(tmp_path_factory.mktemp("page"), "qwen3")
    try:
        yield server
    finally:
        server.kill()
        server.engine.close()


@pytest.fixture
def server(running: ScriptedServer) -> ScriptedServer:
    """Its engine answers "hello" until a test says otherwise."""
    running.engine.says("hello")
    running.engine.bytes_per_step = 1
    return running


Open = Callable[..., Visit]


@pytest.fixture
def visit_to(browser: Browser) -> Iterator[Open]:
    """Opens the page of a server in a fresh profile; at the end nothing may have gone wrong in any of them."""
    visits: list[Visit] = []

    def open_page(
        server: ScriptedServer,
        path: str = "playground",
        forward: Callable[[Route], None] | None = None,
        **profile: object,
    ) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | profile)  # type: ignore[arg-type]
        context.set_default_timeout(_PATIENCE_MS)
        visits.append(Visit(context, f"{server.url}/", path, forward))
        return visits[-1]

    yield open_page
    for visit in visits:
        visit.context.close()
    for visit in visits:
        visit.check()


@pytest.fixture
def visit(visit_to: Open, server: ScriptedServer) -> Visit:
    """The page, open, on a desktop with a light theme."""
    return visit_to(server)
