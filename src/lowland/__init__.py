"""Sharpness-aware training: the optimizer, the instruments that measure what it does, three papers as commands."""

__version__ = "0.1.0"
