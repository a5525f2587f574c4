"""A session in a process of its own: whatever ends that process, this one goes on and starts another."""

from jetlens.backends.isolated.session import IsolatedSession, Limits, open_isolated

__all__ = ["IsolatedSession", "Limits", "open_isolated"]
