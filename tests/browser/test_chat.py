"""The page in a real browser: chats, stops, calls, tokens, and what it says of errors."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.visit import Visit
from tests.contract.openai.scripted import ScriptedServer

pytestmark = pytest.mark.needs("chromium")

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>'
# Long enough to be stopped on any machine: a token a byte, and a step for each.
ENDLESS = "on and on " * 9_000
FAILED = "Failed to load resource: the server responded with a status of "


def test_a_chat_is_streamed_and_goes_on(visit: Visit, server: ScriptedServer) -> None:
    visit.find("#system").fill("Be brief.")
    visit.find("#temperature").fill("0.5")
    visit.find("#seed").fill("7")
    visit.find("#stop-strings").fill("END\n\nFIN")
    visit.ask("Who are you?")
    expect(visit.text()).to_have_text("hello")
    for each in ("6 tokens", "tokens/s", "first after", "3 cached", "complete"):
        expect(visit.numbers()).to_contain_text(each)
    sampling = server.engine.requests[0].sampling
    assert (sampling.temperature, sampling.seed) == (0.5, 7)
    visit.ask("And now?")
    said = ["system\nBe brief.", "user\nWho are you?", "assistant\n", "hello", "user\nAnd now?"]
    places = [server.engine.prompt.index(each) for each in said]
    assert places == sorted(places)


def test_stop_ends_the_request_at_the_engine(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says(ENDLESS)
    visit.send("Go on.")
    expect(visit.answer()).to_contain_text("on and on")
    expect(visit.answer()).to_have_attribute("aria-busy", "true")
    visit.find("#stop").click()
    expect(visit.over()).to_contain_text("stopped")
    server.wait(lambda: server.engine.aborted == [server.engine.requests[0].request_id])
    expect(visit.find("#prompt")).to_be_focused()
    server.engine.says("hello")
    expect(visit.ask("Again.")).to_contain_text("hello")


def test_what_a_model_writes_is_never_markup(visit: Visit, server: ScriptedServer) -> None:
    written = '<img src="x" onerror="alert(1)"><b>bold</b>\n\n```html\n<script>alert(2)</script>\n```\nafter'
    server.engine.says(f"<think>\n<i>hm</i>\n</think>\n\n{written}")
    answer = visit.ask('<img src="y">')
    assert visit.find(".turn img, .turn b, .turn i, .turn script").count() == 0
    expect(answer.locator(".thoughts .text-view")).to_have_text("<i>hm</i>")
    expect(visit.text().locator("p").first).to_have_text(written.split("\n")[0])
    expect(answer.locator("pre code")).to_have_text("<script>alert(2)</script>")
    expect(visit.find('[data-role="user"] .text-view')).to_have_text('<img src="y">')


def test_a_text_that_grows_is_shown_as_if_it_came_at_once(visit: Visit) -> None:
    text = "\n\none\n```py\nx = 1\n``\n```\ntwo\n```b`c\n~~~~ js {1}\n```\n~~~\n~~~~~\n\n```\n```no\n```\n\n\nthree\n"
    script = """async (text) => {
        const { TextView } = await import(new URL("playground/text_view.js", location.href));
        const grown = new TextView();
        const wrong = [];
        for (let i = 0; i <= text.length; i += 1) {
            const whole = new TextView();
            grown.update(text.slice(0, i));
            whole.update(text.slice(0, i));
            if (grown.root.outerHTML !== whole.root.outerHTML) wrong.push(text.slice(0, i));
        }
        return [wrong, [...grown.root.querySelectorAll("p, code")].map((node) => node.textContent)];
    }"""
    shown = ["one", "x = 1\n``", "two\n```b`c", "```\n~~~", "```no", "three"]
    assert visit.page.evaluate(script, text) == [[], shown]


def test_a_line_of_any_length_is_read_in_one_go(visit: Visit) -> None:
    """What takes quadratic time here does not end before the test's timeout."""
    script = """async (lines) => {
        const { blocksOf } = await import(new URL("playground/text_view.js", location.href));
        return lines.map((line) => blocksOf(line).length);
    }"""
    long = 3_000_000
    lines = [f"```{'a' * long}`", f"{'`' * long}\u2028", f"```{' ' * long}`", "\n" * long + "x"]
    assert visit.page.evaluate(script, lines) == [1, 1, 1, 1]


def test_a_selection_stays_while_the_text_grows(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says(ENDLESS)
    visit.send("Go on.")
    expect(visit.text()).to_contain_text("on and on")
    visit.text().locator("p").evaluate(
        "node => getSelection().setBaseAndExtent(node.firstChild, 0, node.firstChild, 4)"
    )
    length = len(visit.text().inner_text())
    expect(visit.text()).to_have_text(re.compile(f"^.{{{length + 100}}}"))
    assert visit.page.evaluate("String(getSelection())") == "on a"
    visit.find("#stop").click()


def test_a_schema_binds_the_answer(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says('{"city":"Lima","population":11}')
    visit.find("#schema-example").click()
    expect(visit.ask("A city?")).to_contain_text('{"city":"Lima","population":11}')
    grammar = server.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert {"city", "population"} <= set(json.loads(visit.find("#schema").input_value())["properties"])
    assert "population" in grammar.source


def test_what_cannot_be_sent_is_told_before_it_is_sent(visit: Visit, server: ScriptedServer) -> None:
    visit.find("#schema").fill("{")
    visit.find("#top_p").fill("2")
    visit.send("hi")
    expect(visit.find("#top_p")).to_be_focused()
    expect(visit.find("#top_p-fault")).to_have_text("A number from 0 to 1.")
    expect(visit.find("#schema-fault")).to_contain_text("This is not JSON")
    assert visit.find("#prompt").input_value() == "hi"
    assert not server.engine.requests
    visit.find("#top_p").fill("1")
    visit.find("#schema").fill("")
    expect(visit.ask("hi")).to_contain_text("hello")


def test_no_button_sends_without_a_setting_that_is_wrong(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("one", CALL)
    visit.find("#tools-example").click()
    visit.ask("first")
    visit.ask("second")
    visit.find("#top_p").fill("2")
    message = visit.find('[data-role="user"]').first
    message.get_by_role("button", name="Edit message").click()
    for button in ("Save and send", "Send the results", "Answer again"):
        visit.page.get_by_role("button", name=button).last.click()
        expect(visit.find("#top_p")).to_be_focused()
    expect(visit.find(".turn")).to_have_count(4)
    assert len(server.engine.requests) == 2


def test_a_call_is_shown_and_its_result_goes_back(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says(CALL, "It is 21 degrees.")
    visit.find("#tools-example").click()
    call = visit.ask("Weather in Lima?").locator(".call")
    expect(call.locator(".call-head code")).to_have_text("get_weather")
    expect(call.locator(".call-list")).to_have_text("cityLima")
    call.get_by_label("Result of the tool").fill('{"degrees": 21}')
    visit.find(".send-results").click()
    expect(visit.find('.turn[data-role="assistant"]')).to_have_count(2)
    expect(visit.over()).to_contain_text("It is 21 degrees.")
    assert '<tool_response>\n{"degrees": 21}\n</tool_response>' in server.engine.prompt


def test_a_call_that_was_stopped_is_no_history(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says('<tool_call>\n{"name": "get_weather", "arguments": {"city": "' + ENDLESS, "hello")
    visit.find("#tools-example").click()
    visit.send("Weather in Lima?")
    expect(visit.answer().locator(".call pre")).to_contain_text("on and on")
    visit.find("#stop").click()
    stopped = visit.over()
    expect(stopped).to_contain_text("stopped")
    expect(stopped.get_by_label("Result of the tool")).to_be_hidden()
    expect(stopped.locator(".send-results")).to_be_hidden()
    expect(visit.ask("And now?")).to_contain_text("hello")
    assert "on and on" not in server.engine.prompt


def test_tokens_show_their_probabilities_and_alternatives(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("Li\nma")
    visit.find("#logprobs").check()
    answer = visit.ask("A city?")
    tokens = answer.get_by_role("option")
    expect(tokens).to_have_text(["L", "i", "↵\n", "m", "a"], use_inner_text=False)
    # The engine gives each token exp(-0.5), and alternatives from exp(-1) down.
    expect(tokens.first).to_have_attribute("data-level", "2")
    expect(tokens.first).to_have_accessible_name('L 60.7 %; else ! 36.8 %, " 13.5 %, # 5.0 %')
    assert tokens.first.evaluate("node => getComputedStyle(node).textDecorationStyle") == "dashed"
    tokens.nth(3).hover()
    expect(answer.locator(".token-card tr")).to_have_count(6)
    expect(answer.locator(".token-card tr.chosen")).to_have_text("m (chosen)60.7 %")
    answer.get_by_role("listbox").focus()
    visit.page.keyboard.press("End")
    visit.page.keyboard.press("ArrowLeft")
    expect(tokens.nth(3)).to_have_attribute("aria-selected", "true")
    visit.page.keyboard.press("Escape")
    expect(answer.locator(".token-card")).to_be_hidden()
    answer.get_by_role("button", name="Show as text").click()
    expect(visit.text()).to_have_text("Li\nma", use_inner_text=True)


def test_colours_follow_the_probability(visit: Visit) -> None:
    script = """async () => {
        const { levelOf } = await import(new URL("playground/token_view.js", location.href));
        return [1, 0.9, 0.89, 0.5, 0.11, 0.09, 0].map((share) => levelOf(Math.log(share)));
    }"""
    assert visit.page.evaluate(script) == [0, 0, 1, 2, 3, 4, 4]


def test_turns_are_edited_answered_again_and_deleted(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("one", "two", "three", "four")
    visit.ask("first")
    visit.ask("second")
    visit.answer().get_by_role("button", name="Answer again").click()
    expect(visit.answer()).to_contain_text("three")
    message = visit.find('[data-role="user"]').first
    message.hover()
    message.get_by_role("button", name="Edit message").click()
    message.get_by_role("textbox").fill("changed")
    message.get_by_role("button", name="Save and send").click()
    expect(visit.over()).to_contain_text("four")
    assert "changed" in server.engine.prompt
    assert "first" not in server.engine.prompt
    assert "second" not in server.engine.prompt
    expect(visit.find(".turn")).to_have_count(2)
    visit.answer().get_by_role("button", name="Delete answer").click()
    expect(visit.find(".turn")).to_have_count(1)
    visit.find("#new-chat").click()
    expect(visit.find("#empty")).to_be_visible()


def test_while_an_answer_is_written_no_button_asks_for_another(visit: Visit, server: ScriptedServer) -> None:
    server.engine.says("one", CALL, ENDLESS)
    visit.find("#tools-example").click()
    visit.ask("first")
    visit.ask("second")
    visit.find('[data-role="user"]').last.get_by_role("button", name="Edit message").click()
    visit.send("third")
    expect(visit.answer()).to_contain_text("on and on")
    for button in ("Save and send", "Send the results", "Answer again"):
        expect(visit.page.get_by_role("button", name=button).last).to_be_disabled()
    visit.page.get_by_role("button", name="Delete message").first.click()
    expect(visit.page.get_by_text("first", exact=True)).to_have_count(0)
    expect(visit.answer()).to_have_attribute("aria-busy", "true")
    visit.find("#stop").click()
    expect(visit.over()).to_contain_text("stopped")
    expect(visit.page.get_by_role("button", name="Save and send")).to_be_enabled()


def test_neighbours_of_one_role_are_one_message(visit: Visit, server: ScriptedServer) -> None:
    server.engine.rejects = "no"
    visit.ask("first")
    assert visit.faults.pop().startswith(f"{FAILED}400")
    server.engine.says("<think>\n" + ENDLESS)
    visit.send("second")
    expect(visit.answer()).to_contain_text("on and on")
    visit.find("#stop").click()
    expect(visit.over()).to_contain_text("stopped")
    server.engine.says("one", "two", "three")
    visit.ask("third")
    assert "user\nfirst\n\nsecond\n\nthird<|im_end|>" in server.engine.prompt
    visit.ask("fourth")
    visit.find('[data-role="user"]').last.get_by_role("button", name="Delete message").click()
    visit.ask("fifth")
    assert "one\n\ntwo<|im_end|>" in server.engine.prompt


def test_errors_are_told_in_words(visit: Visit, server: ScriptedServer) -> None:
    server.engine.rejects = "this is too much for the model"
    expect(visit.ask("hi").get_by_role("alert")).to_have_text("this is too much for the model.")
    assert visit.faults.pop().startswith(f"{FAILED}400")
    server.engine.says("a long answer")
    server.engine.fails_at = 6
    failed = visit.ask("hi again")
    expect(failed.get_by_role("alert")).to_contain_text("the engine gave up")
    expect(failed).to_contain_text("a long")
    visit.page.route("**/v1/**", lambda route: route.abort())
    server.engine.says("hello")
    expect(visit.ask("once more").get_by_role("alert")).to_contain_text("The server cannot be reached.")
    assert visit.faults.pop().startswith("Failed to load resource")


class Breaking(BaseHTTPRequestHandler):
    """Begins a stream, and ends before its length."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"delta": {"content": "so far"}}]}\n\n')

    def log_message(self, *_args: object) -> None:
        """Nothing on the console."""


@pytest.fixture
def breaking() -> Iterator[str]:
    """The address of a server whose streams break."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_connection_that_breaks_is_told_in_words(visit: Visit, breaking: str) -> None:
    visit.page.route("**/v1/**", lambda route: route.continue_(url=breaking))
    expect(visit.ask("Go on.").get_by_role("alert")).to_have_text("The connection ended before the answer did.")
    assert visit.faults.pop().startswith("Failed to load resource")


def test_a_missing_key_is_told_and_a_key_stays_in_its_tab(visit_to: Open, guarded: ScriptedServer) -> None:
    guarded.engine.says("hello")
    visit = visit_to(guarded)
    expect(visit.ask("hi").get_by_role("alert")).to_contain_text("The server wants an API key, or another one")
    assert visit.faults.pop().startswith(f"{FAILED}401")
    assert not guarded.engine.requests
    expect(visit.find("#key")).to_have_attribute("aria-invalid", "true")
    visit.find("#key").fill("Secret")
    visit.answer().get_by_role("button", name="Answer again").click()
    expect(visit.answer()).to_contain_text("hello")
    visit.show("code")
    assert "$API_KEY" in visit.find("#curl").inner_text()
    assert "Secret" not in visit.find("#code").inner_text()
    visit.find("#with-key").check()
    assert "Bearer Secret" in visit.find("#curl").inner_text()
    visit.page.reload()
    assert visit.find("#key").input_value() == "Secret"
    assert "Secret" not in json.dumps([visit.urls, visit.page.evaluate("({...localStorage})")])
    # Another tab does not know it.
    assert visit_to(guarded).find("#key").input_value() == ""
