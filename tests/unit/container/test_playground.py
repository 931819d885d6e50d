"""The page's files: what they hold, how they are served, and that they can be switched off."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from container.app import create_app
from container.run_dir import RunDir
from container.settings import Settings
from handler.seam.status import StatusBoard

FOLDER = Path(__file__).resolve().parents[3] / "container" / "api" / "playground" / "page"
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {path.name: path.read_text() for path in FOLDER.iterdir()}


@pytest.fixture
def client_of(tmp_path: Path) -> Any:
    run_dir = RunDir(tmp_path)
    StatusBoard(run_dir.board, create=True).close()
    return lambda **settings: create_app(Settings(**settings), run_dir).test_client()


@pytest.fixture
def client(client_of: Any) -> FlaskClient:
    """With a key, which the page does not need."""
    found: FlaskClient = client_of(api_key="Secret")
    return found


def linked(page: str) -> list[str]:
    return re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]+)"', page)


def test_the_page_and_all_it_links_to_come_without_a_key(client: FlaskClient) -> None:
    page = client.get("/playground")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    links = linked(page.text)
    assert len(links) > 5
    imported = [f"playground/{name}" for text in FILES.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    for link in {*links, *imported}:
        answer = client.get(f"/{link}")
        assert answer.status_code == 200, link
        assert answer.mimetype == MEDIA_TYPES[Path(link).suffix]
    assert {f"playground/{name}" for name in FILES} == {*links, *imported, "playground/index.html"}


def test_the_policy_allows_nothing_but_our_own_files(client: FlaskClient) -> None:
    for path in ("/playground", "/playground/main.js"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["frame-ancestors"] == policy["trusted-types"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
def test_files_hold_no_inline_code_no_markup_from_text_and_no_other_address(name: str) -> None:
    text = FILES[name]
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "javascript:"):
        assert word not in text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=\"|@import", text)
    assert not (name.endswith(".css") and "url(" in text)
    # Relative addresses work below any path that a proxy puts before them.
    assert not re.search(r'(?:src|href)="/|from "/|fetch\("/', text)
    assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_a_file_that_has_not_changed_is_not_sent_again(client: FlaskClient) -> None:
    first = client.get("/playground/main.js")
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/playground/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/playground/theme.js", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
    assert client.head("/playground").headers["Content-Length"] == str(len(FILES["index.html"].encode()))


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2froutes.py", "..%5croutes.py", "%2e%2e/__init__.py"])
def test_there_are_no_other_files(client: FlaskClient, name: str) -> None:
    assert client.get(f"/playground/{name}", headers={"x-api-key": "Secret"}).status_code == 404


def test_a_slash_at_the_end_is_taken_away_by_a_relative_redirect(client: FlaskClient) -> None:
    answer = client.get("/playground/")
    assert (answer.status_code, answer.headers["Location"]) == (308, "../playground")


@pytest.mark.parametrize("path", ["/playground", "/playground/", "/playground/main.js"])
def test_switched_off_it_is_not_found_and_says_so(client_of: Any, path: str) -> None:
    answer = client_of(playground=False).get(path)
    assert answer.status_code == 404
    assert answer.json["error"] == "the playground is switched off on this server (PLAYGROUND=false)"


def test_the_health_route_at_the_root_stays(client_of: Any) -> None:
    answer = client_of().get("/")
    assert (answer.status_code, answer.json["error"]) == (503, "unhealthy")
