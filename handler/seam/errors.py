"""Why an engine cannot start. Each class has the exit code PID 1 reports; messages are one sentence, no traceback."""

from __future__ import annotations


class StartupError(Exception):
    """Base of everything that ends the engine before it is ready. 70 is sysexits.h's internal software error."""

    exit_code = 70


class BadConfiguration(StartupError):
    """A setting is impossible for this model or machine."""

    exit_code = 2


class BadModel(StartupError):
    """The model is missing, damaged or refused."""

    exit_code = 3


class UnsupportedModel(BadModel):
    """The model is sound, but no runner here computes it correctly."""


class EngineBroken(Exception):
    """The engine no longer computes anything; only a new process helps."""
