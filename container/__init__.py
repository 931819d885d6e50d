"""PID 1 and the web side, without torch. Of `handler`, only `handler.seam` may be imported."""
