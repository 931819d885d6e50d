"""A span for each request: made here, sent to the exporter process, the only one that loads opentelemetry."""
