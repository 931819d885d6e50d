"""What a call of the model raises in a hook."""

from __future__ import annotations


class ModelError(Exception):
    """The server refused a call or failed at it.

    `status` is the HTTP status, `message` the server's sentence, `error_type` the dialect's name of the error,
    `retry_after_s` the seconds that the server asks to wait, if it does. A hook that does not catch it hands status,
    message and seconds to its client.
    """

    def __init__(self, status: int, message: str, error_type: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error_type = error_type
        self.retry_after_s = retry_after_s


class CallEnded(ModelError):
    """Nobody waits for the request whose hook called: its client has left, or its time is used up."""

    def __init__(self) -> None:
        super().__init__(503, "nobody waits for this answer any more", "ended")
