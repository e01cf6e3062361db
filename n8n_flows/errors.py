"""What can go wrong with n8n.

N8nError
  SettingsInvalid      the settings file breaks a rule
  InstallFailed        npm or the compiler ended badly
  ProvisionFailed      n8n does not hold what was given to it
  StartFailed          n8n did not come up; the message ends with its log
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class N8nError(Exception):
    """Base of the errors of this folder."""


class SettingsInvalid(N8nError):
    """A value breaks a rule. Secrets are not in the message."""

    def __init__(self, path: Path, rules: Iterable[str]) -> None:
        super().__init__(f"{path}: {'; '.join(rules)}")


class InstallFailed(N8nError):
    """A command of the installation failed."""

    def __init__(self, command: str, output: str) -> None:
        super().__init__(f"{command} failed:\n{output[-2000:]}")


class ProvisionFailed(N8nError):
    """n8n's commands exit with 0 although nothing was done, so the result is looked at."""

    def __init__(self, what: str, output: str = "") -> None:
        super().__init__(f"{what}\n{output[-2000:]}".rstrip())


class StartFailed(N8nError):
    """n8n ended at once, or did not answer in time."""

    def __init__(self, why: str, log: Path) -> None:
        end = log.read_text(errors="replace")[-2000:] if log.exists() else ""
        super().__init__(f"n8n {why}; the end of {log}:\n{end}")
