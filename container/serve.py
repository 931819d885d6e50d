"""PID 1 of the container: `python -m container.serve [serve] [--model-id ...]`.

Reads the settings, opens the port, then runs the supervisor. The port is open before anything is loaded: from the
first second SageMaker expects a connection within 250 ms and an answer to /ping within 2 s.

Exit codes: 0 after SIGTERM or SIGINT; 2 bad settings, or impossible on this machine; 3 bad model; 4 the port cannot be
opened; 5 no writable directory; 70 too many crashes. The only ERROR line of the log gives the reason
(docs/configuration.md).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
from pathlib import Path

from container.directories import NotWritable, check_writable, make_run_dir, name_temporary_directory
from container.hooks.found import find_hook
from container.hooks.user_code.hook import HookLoadError
from container.run_dir import RunDir
from container.settings import Settings, SettingsError
from container.supervisor import launcher
from container.supervisor.information import information, launcher_usage
from container.supervisor.supervisor import Supervisor
from handler.seam.errors import BadConfiguration, BadModel
from handler.seam.logs import configure_logging

logger = logging.getLogger("container")

EXIT_PORT = 4
EXIT_NOT_WRITABLE = 5
_SEND_BUFFER_BYTES = 131_072


def main(arguments: list[str]) -> int:
    """Serve; return the exit code. `arguments`: an optional "serve" (SageMaker's), then those of TGI's launcher.

    `--help`, `--version` and `--env` print a text instead.
    """
    text = information("serve", arguments, launcher_usage("serve"))
    if text is not None:
        sys.stdout.write(text + "\n")
        return 0
    configure_logging("main", level=logging.INFO)
    try:
        # The web workers read their settings from the environment too.
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
        return Supervisor(settings, RunDir(run_dir), listener.fileno(), find_hook(settings)).run()
    except HookLoadError as exc:
        logger.error("cannot start: %s", exc)
        return BadModel.exit_code
    finally:
        listener.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def listen(host: str, port: int) -> socket.socket:
    """Open the only listening socket, which the web workers inherit. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: bounds the kernel memory of a client that does not read, otherwise 4 MB.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listener.bind((host, port))
    listener.listen(2048)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
