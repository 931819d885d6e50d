"""gunicorn's configuration, started by PID 1 with `--config python:container.gunicorn_conf`."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

# Imported in gunicorn's own process, so that workers get the modules by fork. Importing creates no thread, socket or
# ZeroMQ context; the worker creates those.
from gunicorn.glogging import Logger
from prometheus_client import multiprocess

from container.app import create_app
from container.run_dir import LISTEN_FD_VARIABLE, RUN_DIR_VARIABLE, WORKERS_VARIABLE, RunDir
from container.settings import Settings
from handler.seam.lifeline import die_with_parent
from handler.seam.logs import configure_logging

if TYPE_CHECKING:
    from flask import Flask

# PID 1 opens the socket before gunicorn starts, so connections are never refused during loading.
bind = f"fd://{os.environ.get(LISTEN_FD_VARIABLE, '0')}"
worker_class = "container.web.worker.Worker"
workers = int(os.environ.get(WORKERS_VARIABLE, "2"))


def _raise_file_limit() -> int:
    """Raise the open-file limit to the hard limit, 65,536 at most. Returns the new limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


# Above this number the longest-idle connections are closed. 256 files are kept for everything else.
worker_connections = max(64, min(10_000, _raise_file_limit() - 256))
# A heartbeat of the worker's event loop, not a limit on requests.
timeout = 60
graceful_timeout = 2
keepalive = 75
backlog = 2048
# Off: the tokenizer library's thread pool would take cores from the engine.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a heartbeat file, mode 0600
control_socket_disable = True
preload_app = False
accesslog = None
loglevel = "warning"

_settings = Settings.from_environ(os.environ)
configure_logging("web", level=_settings.log_level, as_json=_settings.json_output)


class _Log(Logger):  # type: ignore[misc]
    """Sends gunicorn's records to the root logger's handlers."""

    def setup(self, cfg: object) -> None:
        """Remove gunicorn's own handlers."""
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


logger_class = _Log


def on_starting(_server: object) -> None:
    """gunicorn's hook, in the master: end when PID 1 dies. Workers end with the master."""
    die_with_parent(signal.SIGTERM)


def child_exit(_server: object, worker: object) -> None:
    """gunicorn's hook: drop a dead worker's gauges, keep its counters."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[attr-defined,no-untyped-call]


def application() -> Flask:
    """Create the WSGI application. Called in each worker after the fork and after gevent's patching."""
    return create_app(_settings, RunDir(Path(os.environ[RUN_DIR_VARIABLE])))
