"""PID 1 of the container: `python -m container.serve [serve] [--model-id ...]`.

Reads the settings, opens the port, then hands over to the supervisor. The port is open before anything is loaded:
SageMaker wants a connection within 250 ms and an answer to /ping within 2 s from the first second on.

Exit codes: 0 after SIGTERM or SIGINT; 2 settings, or what this machine cannot do; 3 the model; 4 the port; 5 no
writable directory; 70 crashed too often. The reason is the one ERROR line of the log (docs/configuration.md).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
from pathlib import Path

from container.directories import NotWritable, check_writable, make_run_dir, name_temporary_directory
from container.run_dir import RunDir
from container.settings import Settings, SettingsError
from container.supervisor import launcher
from container.supervisor.supervisor import Supervisor
from handler.seam.errors import BadConfiguration
from handler.seam.logs import configure_logging

logger = logging.getLogger("container")

EXIT_PORT = 4
EXIT_NOT_WRITABLE = 5
_SEND_BUFFER_BYTES = 131_072


def main(arguments: list[str]) -> int:
    """Serve. `arguments` are ["serve"], which is how SageMaker starts a container, and those of TGI's launcher."""
    configure_logging("main", level=logging.INFO)
    try:
        # Into the environment, where the web workers read their settings too.
        os.environ.update(launcher.read_arguments(arguments))
        os.environ.update(launcher.translate(os.environ))
        ignored = launcher.check(os.environ)
        settings = Settings.from_environ(os.environ)
    except SettingsError as exc:
        logger.error("%s", exc)
        return BadConfiguration.exit_code
    configure_logging("main", level=settings.log_level, as_json=settings.json_output)
    for line in ignored:
        logger.warning("%s", line)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as exc:
        logger.error("port %d on %s cannot be opened: %s", settings.port, settings.host, exc.strerror)
        return EXIT_PORT
    name_temporary_directory()
    try:
        check_writable(Path(settings.cache_dir))
        run_dir = make_run_dir()
    except NotWritable as exc:
        logger.error("%s", exc)
        listener.close()
        return EXIT_NOT_WRITABLE
    try:
        return Supervisor(settings, RunDir(run_dir), listener.fileno()).run()
    finally:
        listener.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def listen(host: str, port: int) -> socket.socket:
    """The container's one listening socket; the web workers inherit it. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: what a client that does not read may hold of the kernel's memory, instead of 4 MB.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listener.bind((host, port))
    listener.listen(2048)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
