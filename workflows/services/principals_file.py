"""The directory of principals of one machine: the person who runs the services, and each program in its one role."""

from __future__ import annotations

from pathlib import Path

from workflows.access import key_digest
from workflows.services.secret_file import ROLES, owner, write_private
from workflows.services.site import Site
from workflows.services.toml_text import toml_text


def write_principals(site: Site) -> Path:
    """Writes the directory, and says where it is. It holds digests of keys, never a key."""
    entries = []
    for subject, key in site.secrets.api_keys.items():
        kind, _, name = subject.partition("::")
        entries.append(
            {
                "kind": kind,
                "id": name,
                "roles": list(("admin",) if subject == owner() else ROLES.get(subject, ())),
                "team": "local",
                "clearance": "restricted" if kind == "Person" else "internal",
                "api_keys": [key_digest(key)],
            }
        )
    write_private(site.principals, toml_text({"principal": entries}))
    return site.principals
