"""The Hugging Face Hub: JSON files of a repository, and the sizes of its files. Nothing else is downloaded."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

HUB_URL = "https://huggingface.co"
TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Hub:
    """A Hub, the public one or a mirror; `token` opens gated repositories. `is_offline` means that nothing is asked."""

    url: str = HUB_URL
    token: str = field(default="", repr=False)
    is_offline: bool = False

    @classmethod
    def from_environment(cls, *environments: Mapping[str, str]) -> Hub:
        """Return the Hub by `HF_ENDPOINT`, `HF_HUB_OFFLINE` and the names of the token; the first environment wins."""
        merged = {key: value for one in reversed(environments) for key, value in one.items() if value}
        token = next((merged[name] for name in TOKEN_NAMES if name in merged), "")
        is_offline = merged.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
        return cls(merged.get("HF_ENDPOINT", HUB_URL).rstrip("/"), token, is_offline)

    def file(self, model_id: str, revision: str, name: str) -> Mapping[str, Any]:
        """Return a JSON file of a repository. Raises `OSError` or `ValueError`."""
        found = self._get(f"/{_quoted(model_id)}/resolve/{_quoted(revision)}/{name}")
        if not isinstance(found, dict):
            raise ValueError(f"{name} is not a JSON object")
        return found

    def file_sizes(self, model_id: str, revision: str) -> dict[str, int]:
        """Return the files at the top of a repository with their bytes. Raises `OSError` or `ValueError`."""
        found = self._get(f"/api/models/{_quoted(model_id)}/tree/{_quoted(revision)}")
        if not isinstance(found, list):
            raise ValueError("the list of files is not a JSON array")
        try:
            return {item["path"]: int(item["size"]) for item in found if item["type"] == "file"}
        except (KeyError, TypeError) as exc:
            raise ValueError(f"the list of files does not say {exc}") from exc

    def _get(self, path: str) -> Any:
        if self.is_offline:
            raise OSError("HF_HUB_OFFLINE is set")
        if not self.url.startswith(("https://", "http://")):
            raise ValueError(f"not a web address: {self.url}")
        request = urllib.request.Request(self.url + path)  # noqa: S310 - the scheme was checked
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.build_opener(_KeepsToken).open(request, timeout=_TIMEOUT_S) as reply:
                return json.load(reply)
        except HTTPException as exc:
            raise OSError(f"{self.url} broke off: {exc!r}") from exc


class _KeepsToken(urllib.request.HTTPRedirectHandler):
    """Sends the token on to the same host only: a file may be stored elsewhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token and following.host == req.host and following.type == req.type:
            following.add_unredirected_header("Authorization", token)
        return following


def _quoted(part: str) -> str:
    return urllib.parse.quote(part)
