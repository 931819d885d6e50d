"""gunicorn's configuration. Passed with `--config`; the settings and run directory come from PID 1's environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

# Set by container.serve for its children; not a setting.
RUN_DIR_VARIABLE = "HEIR_RUN_DIR"
LISTEN_FD_VARIABLE = "HEIR_LISTEN_FD"
WORKERS_VARIABLE = "HEIR_WEB_WORKERS"

# The socket is open before gunicorn starts, so the port never refuses a connection while it loads.
bind = f"fd://{os.environ.get(LISTEN_FD_VARIABLE, '0')}"
worker_class = "gevent"
workers = int(os.environ.get(WORKERS_VARIABLE, "2"))
worker_connections = 2000
# A heartbeat of the worker's event loop, not a limit on requests.
timeout = 60
graceful_timeout = 2
keepalive = 75
backlog = 2048
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a heartbeat file, mode 0600
control_socket_disable = True
preload_app = False
accesslog = None
loglevel = "warning"


def application() -> Flask:
    """The WSGI application; called in each worker after the fork, when gevent has patched the process."""
    from container.app import create_app
    from container.settings import Settings

    return create_app(Settings.from_environ(os.environ), Path(os.environ[RUN_DIR_VARIABLE]))
