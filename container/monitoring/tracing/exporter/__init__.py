"""The process that sends spans (`python -m container.monitoring.tracing.exporter SOCKET`); no gevent, no fork."""
