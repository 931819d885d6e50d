"""The page around the chat: themes, keyboard, widths, the server's numbers, requests to copy, accessibility."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import axe_playwright_python
import pytest
from playwright.sync_api import Error, Route, expect

from tests.browser.conftest import Open
from tests.browser.visit import Visit
from tests.contract.openai.scripted import ScriptedServer

pytestmark = pytest.mark.needs("chromium")

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Quotes of both kinds, an escape, a second line, a character beyond 16 bits: what shells and Python stumble over.
HARD = 'it\'s "so" \\n\n$HOME `x` 🙂'
PHONE = {"width": 390, "height": 844}


def background(visit: Visit) -> str:
    found: str = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


def test_the_theme_is_the_systems_until_it_is_switched(visit_to: Open, server: ScriptedServer) -> None:
    dark = visit_to(server, color_scheme="dark")
    light = visit_to(server, color_scheme="light")
    assert background(dark) != background(light)
    switch = light.page.get_by_role("button", name="Dark theme")
    expect(switch).to_have_attribute("aria-pressed", "false")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "true")
    assert background(light) == background(dark)
    light.page.reload()
    assert background(light) == background(dark)


def test_everything_can_be_done_by_keyboard(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("on and on " * 9_000)
    press = visit.page.keyboard.press
    press("Tab")
    expect(visit.page.get_by_role("link", name="Skip to the message box")).to_be_focused()
    press("Enter")
    press("Tab")  # from the message box, where the link leads, or into it
    if not visit.find("#prompt").evaluate("node => node === document.activeElement"):
        press("Shift+Tab")
    expect(visit.find("#prompt")).to_be_focused()
    visit.page.keyboard.type("one")
    press("Shift+Enter")
    visit.page.keyboard.type("two")
    press("Enter")
    expect(visit.find('[data-role="user"] .text-view')).to_have_text("one\ntwo", use_inner_text=True)
    expect(visit.answer()).to_contain_text("on and on")
    press("Escape")
    expect(visit.over()).to_contain_text("stopped")
    for _ in range(10):
        press("Tab")
        if visit.page.evaluate("document.activeElement.id") == "tab-settings":
            break
    press("ArrowRight")
    expect(visit.find("#tab-server")).to_be_focused()
    expect(visit.find("#server")).to_be_visible()
    press("ArrowLeft")
    press("Tab")
    press("Tab")
    expect(visit.find("#system")).to_be_focused()


def test_the_focus_stays_in_the_chat_when_its_button_goes_away(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("one", "two")
    visit.ask("first").get_by_role("button", name="Answer again").press("Enter")
    expect(visit.find("#transcript")).to_be_focused()
    expect(visit.over()).to_contain_text("two")
    visit.answer().get_by_role("button", name="Delete answer").press("Enter")
    expect(visit.find("#transcript")).to_be_focused()


def test_the_servers_numbers_are_shown_live(visit: Visit, server: ScriptedServer) -> None:
    board = server.engine.board
    visit.show("server")
    card = visit.page.get_by_role("region", name="Running")
    expect(card.locator(".number")).to_have_text("0")
    try:
        board["running"], board["waiting"], board["kv_capacity_tokens"], board["kv_used_tokens"] = 3, 2, 200, 50
        board["generated_tokens"] += 1_000_000
        expect(card.locator(".number")).to_have_text("3")
        expect(visit.page.get_by_role("region", name="Waiting").locator(".number")).to_have_text("2")
        expect(visit.page.get_by_role("region", name="KV memory").locator(".number")).to_have_text("25.0 %")
        expect(visit.page.get_by_role("region", name="Tokens a second").locator(".most")).not_to_have_text("most: 0.0")
        assert card.locator(".curve").get_attribute("d").count("L") >= 1  # type: ignore[union-attr]
    finally:
        board["running"] = board["waiting"] = board["kv_used_tokens"] = board["kv_capacity_tokens"] = 0
        board["generated_tokens"] = 0
    expect(visit.find("#facts")).to_contain_text("quick")


def test_the_copied_curl_command_asks_the_same(visit: Visit, server: ScriptedServer) -> None:
    visit.find("#prompt").fill(HARD)
    visit.find("#top_k").fill("5")
    visit.show("code")
    words = shlex.split(visit.find("#curl").inner_text().replace("\\\n", " "))
    assert words[:2] == ["curl", "-N"]
    assert words[2] == f"{server.url}/v1/chat/completions"
    assert server.request("POST", urlsplit(words[2]).path, words[words.index("-d") + 1].encode()).status == 200
    assert HARD in server.engine.prompt
    assert server.engine.requests[0].sampling.top_k == 5
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.find("#copy-curl").click()
    expect(visit.find("#announcer")).to_have_text("Copied")
    assert visit.page.evaluate("navigator.clipboard.readText()") == visit.find("#curl").text_content()


def test_the_copied_program_runs(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("hello")
    visit.find("#prompt").fill(HARD)
    visit.find("#top_k").fill("5")
    visit.find("#tools-example").click()
    visit.show("code")
    program = visit.find("#python").inner_text()
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "hello\n"), run.stderr
    assert HARD in server.engine.prompt
    assert server.engine.requests[0].sampling.top_k == 5


def test_it_works_below_a_path_that_a_proxy_puts_before_it(visit_to: Open, server: ScriptedServer) -> None:
    prefix = f"{server.url}/some/proxy/8080/"

    def forward(route: Route) -> None:
        assert route.request.url.startswith(prefix), "everything stays below the prefix"
        route.continue_(url=route.request.url.replace(prefix, f"{server.url}/"))

    visit = visit_to(server, "some/proxy/8080/playground", forward=forward)
    expect(visit.find("#model")).to_have_text("quick")
    expect(visit.ask("hi")).to_contain_text("hello")
    visit.show("code")
    expect(visit.find("#curl")).to_contain_text(f"{prefix}v1/chat/completions")


def test_nothing_comes_in_and_nothing_goes_out(visit: Visit) -> None:
    """The policy holds in this browser: what it refuses is told on the console."""
    with pytest.raises(Error, match="TrustedHTML"):
        visit.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    script = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.x = 1'}))"
    with pytest.raises(Error, match="TrustedScript"):
        visit.page.evaluate(script)
    assert visit.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert len(visit.faults) >= 2
    assert all("Content Security Policy" in each or "Trusted" in each for each in visit.faults), visit.faults
    visit.faults.clear()


def violations(visit: Visit, part: str = "html") -> list[str]:
    """What axe-core finds now on the page or in a part of it. The theme changes colours and nothing else."""
    found = []
    for scheme, rules in (("light", None), ("dark", ["color-contrast"])):
        visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        options = {"runOnly": rules} if rules else {}
        script = "async ([part, options]) => (await axe.run(part, options)).violations"
        found += visit.page.evaluate(script, [part, options])
    return [f"{each['id']}: {node['html'][:200]} {node['failureSummary']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_axe_finds_no_violation(visit_to: Open, server: ScriptedServer, width: str) -> None:
    is_phone = width == "phone"
    profile = {"viewport": PHONE} if is_phone else {}
    # Playwright evaluates axe's source, which the page's policy forbids as it should.
    visit = visit_to(server, reduced_motion="reduce", bypass_csp=True, **profile)
    visit.page.evaluate(AXE)
    assert violations(visit, "main") == []
    fill_with_everything(visit, server, is_phone)
    assert violations(visit) == []
    if is_phone:
        visit.find("#show-panel").click()
    visit.find("#temperature").fill("-1")
    visit.find("#schema").fill("{")
    assert violations(visit, "html" if is_phone else "#panel") == []
    for tab in ("server", "code"):
        visit.show(tab)
        assert violations(visit, "#panel") == []
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


def fill_with_everything(visit: Visit, server: ScriptedServer, is_phone: bool) -> None:
    """A chat with thoughts, code, a call, tokens with a card, and an error."""
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>'
    server.engine.bytes_per_step = 8
    server.engine.says("<think>\nHm.\n</think>\n\nSo:\n```python\nx = 1\n```", call, "Lima")
    visit.ask("Code?")
    set_up(visit, "#tools-example", is_phone)
    visit.ask("Weather?")
    set_up(visit, "#logprobs", is_phone)
    visit.ask("A city?").get_by_role("option").first.click()
    server.engine.rejects = "no"
    visit.ask("And?")
    server.engine.rejects = None
    assert visit.faults.pop().endswith("400 (BAD REQUEST)")


def set_up(visit: Visit, selector: str, is_phone: bool) -> None:
    if is_phone:
        visit.find("#show-panel").click()
    visit.find(selector).click()
    if is_phone:
        visit.find("#show-panel").click()


def test_a_phone_shows_the_chat_or_the_panel(visit_to: Open, server: ScriptedServer) -> None:
    visit = visit_to(server, viewport=PHONE)
    expect(visit.find("#panel")).to_be_hidden()
    button = visit.page.get_by_role("button", name="Settings")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(visit.find("#prompt")).to_be_hidden()
    visit.find("#max_tokens").fill("3")
    button.click()
    expect(visit.ask("hi")).to_contain_text("hel")
    expect(visit.answer()).to_contain_text("cut at its limit")
    assert json.dumps(visit.page.evaluate("document.documentElement.scrollWidth")) == str(PHONE["width"])
