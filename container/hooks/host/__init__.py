"""The process that runs the hooks: `python -m container.hooks.host`. Never Flask or gevent; torch if a hook imports it.

Three kinds of threads: the main thread owns the socket and never runs a call, a pool runs sync hooks, and one event
loop runs async ones. A hook that blocks its thread delays no frame and no abort.
"""
