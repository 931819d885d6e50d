"""What the build takes from this machine and the repository never names: pip's sources, certificates, Debian mirror."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

_PASSED_ON = re.compile(r"(SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|https?_proxy|no_proxy)", re.IGNORECASE)
# Useless in a clean root.
_LEFT_OUT = {"PIP_CONFIG_FILE", "PIP_CACHE_DIR"}
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts")


def pip_environment() -> dict[str, str]:
    """This machine's pip settings, from files and environment, as environment variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    return passed_on | parse_pip_config(listed.splitlines())


def parse_pip_config(lines: Iterable[str]) -> dict[str, str]:
    """The output of `pip config list` as PIP_* variables; the environment overrides files."""
    found: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = "PIP_" + key.partition(".")[2].upper().replace("-", "_")
        if value and name not in _LEFT_OUT:
            found[name] = " ".join(str(ast.literal_eval(value)).split())
    return found


def build_binds(environment: Mapping[str, str]) -> dict[str, str]:
    """Bind mounts, each at its own path: files and directories in the settings, and the network configuration."""
    found = [Path(name) for name in _NETWORK_FILES]
    for word in " ".join(environment.values()).split():
        path = Path(urlsplit(word).path if word.startswith("file:") else word)
        # The pages of an index on disk link to files beside it.
        found.append(path.parent if word.startswith("file:") and len(path.parts) > 2 else path)
    return {str(path): str(path) for path in found if path.is_absolute() and path.exists()}


def torch_index(environment: Mapping[str, str]) -> dict[str, str]:
    """Build arguments if this machine has a torch wheel; else {}, and torch comes from its public index."""
    for word in environment.get("PIP_FIND_LINKS", "").split():
        if list(Path(word).glob("torch-*+cpu-*.whl")):
            return {"TORCH_INDEX": f"file://{word}"}
    return {}


def debian_mirror(release: str) -> str:
    """The mirror that this machine's apt uses for `release`, else Debian's."""
    texts = [path.read_text() for path in sorted(Path("/etc/apt").glob("**/*")) if path.suffix in {".list", ".sources"}]
    return find_mirror(texts, release) or "http://deb.debian.org/debian"


def find_mirror(texts: Iterable[str], release: str) -> str:
    """The first URI for the suite `release` itself, from apt files of either format; "" if there is none."""
    for text in texts:
        for block in re.split(r"\n\s*\n", text):
            uris = re.search(r"^URIs:\s*(\S+)", block, re.MULTILINE)
            suites = re.search(r"^Suites:(.*)", block, re.MULTILINE)
            if uris and suites and release in suites[1].split():
                return uris[1]
        one_line = re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{re.escape(release)}\s", text, re.MULTILINE)
        if one_line:
            return one_line[1]
    return ""
