"""One visit to the page: what a person does there, and all that may not happen meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Request, Route, expect

# What waits may take on a busy machine; a condition that holds ends the wait at once.
expect.set_options(timeout=120_000)


class Visit:
    """The open page. `faults` are errors of the console, scripts that failed, violations of the page's policy.

    A test that provokes an error takes it off `faults`.
    """

    def __init__(
        self, context: BrowserContext, root: str, path: str, forward: Callable[[Route], None] | None = None
    ) -> None:
        """Open `root` + `path`. `forward`, a proxy, takes every request where it belongs."""
        self.context = context
        self.root = root
        self.faults: list[str] = []
        self.urls: list[str] = []
        self.page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._on_request)
        if forward is not None:
            self.page.route("**", forward)
        self.page.goto(f"{root}{path}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.urls.append(request.url)

    def check(self) -> None:
        """Nothing went wrong, and nothing was asked of anybody but the server."""
        assert self.faults == []
        assert [url for url in self.urls if not url.startswith(self.root)] == []

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def answer(self) -> Locator:
        """The newest answer."""
        return self.find('.turn[data-role="assistant"]').last

    def text(self) -> Locator:
        """What the newest answer says, beside its thoughts."""
        return self.answer().locator('[data-part="text"]')

    def numbers(self) -> Locator:
        """The line below the newest answer."""
        return self.answer().locator('[data-part="numbers"]')

    def send(self, text: str) -> None:
        """Send a message and wait for nothing."""
        self.find("#prompt").fill(text)
        self.find("#prompt").press("Enter")

    def ask(self, text: str) -> Locator:
        """Send a message; the answer once it is over."""
        self.send(text)
        return self.over()

    def over(self) -> Locator:
        """The newest answer once it is over."""
        expect(self.answer()).to_have_attribute("aria-busy", "false")
        return self.answer()

    def show(self, tab: str) -> None:
        self.find(f"#tab-{tab}").click()
