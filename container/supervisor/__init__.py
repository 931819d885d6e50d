"""PID 1: starts, watches, restarts and drains its children. Never flask or gevent."""
