"""What can go wrong with the services.

```
ServicesError
+-- ServicesConfigError   the configuration breaks a rule
+-- ProgramMissing        a program is not installed; says how to get it
+-- PortTaken             a stranger holds a port
+-- NotHealthy            a service ended, or did not become healthy in time
+-- SetupFailed           a service runs and refused what it was told
```
"""

from __future__ import annotations


class ServicesError(Exception):
    """Anything that keeps a service from doing its work."""


class ServicesConfigError(ServicesError):
    """The configuration breaks a rule."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")


class ProgramMissing(ServicesError):
    """A program is not installed."""

    def __init__(self, service: str, program: str, advice: str) -> None:
        super().__init__(f"{service} needs the program {program!r}, which is not there: {advice}")


class PortTaken(ServicesError):
    """A process that is none of ours listens on a port."""

    def __init__(self, service: str, port: int, holder: str, advice: str = "") -> None:
        told = f"port {port} of {service} is taken by {holder}; end it, or give {service} another port under [ports]"
        super().__init__(told + (f" ({advice})" if advice else ""))


class NotHealthy(ServicesError):
    """A service ended, or did not become healthy in time."""

    def __init__(self, service: str, reason: str, log_tail: str) -> None:
        super().__init__(f"{service} {reason}" + (f"; the end of its log:\n{log_tail}" if log_tail else ""))


class SetupFailed(ServicesError):
    """A service runs and refused what it was told."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service} could not be set up: {reason}")
