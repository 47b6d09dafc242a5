"""Checkpoints as their authors published them, a module a system, for `diffgraph convert`."""
