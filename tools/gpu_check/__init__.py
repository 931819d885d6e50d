"""`make gpu-check`: what a bare machine with a GPU says about this engine, in minutes, without a network.

Only `__main__`, `bundle` and the standard library may be imported before the bundle is unpacked.
"""
