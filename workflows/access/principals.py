"""Who asks: people, services and continuous integration, with their roles, team and clearance.

A team keeps its principals in one TOML file, read by `load_directory`; API keys stand there as SHA-256, never in clear.
On one machine there is no file: `local_person` is the user of the process, who owns the storage folder or does not.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from urllib.parse import unquote, urlsplit

from workflows.access.errors import PrincipalError

Kind = Literal["Person", "Service", "CI"]

CLEARANCES: Mapping[str, int] = {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}
LOCAL_TEAM = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks.

    Attributes:
        kind: `Person`, `Service` or `CI`.
        id: Name, unique within the kind.
        roles: Names of the enumeration `Role` in the schema.
        team: Team whose runs and releases are meant.
        clearance: A key of `CLEARANCES`.
        owns_storage: A person whose uid owns the storage folder; never set for somebody who came over the network.
        run: For a step: its run.
        step: For a step: its name in the loop (`scrape`, `train`, ...).
        repository: For continuous integration: where the push came from.
    """

    kind: Kind
    id: str
    roles: tuple[str, ...] = ()
    team: str = LOCAL_TEAM
    clearance: str = "internal"
    owns_storage: bool = False
    run: str | None = None
    step: str | None = None
    repository: str = ""

    @property
    def subject(self) -> str:
        """The name as text, as it stands among the authors of a run: `Person::ann`."""
        return f"{self.kind}::{self.id}"

    @property
    def uid(self) -> dict[str, str]:
        """The name as Cedar takes it. A dictionary: text would let a quote in an id change the question."""
        return {"type": self.kind, "id": self.id}

    def entity(self) -> dict[str, Any]:
        """The principal with its attributes, as Cedar takes it. An unknown clearance counts as below public."""
        attrs: dict[str, Any] = {
            "subject": self.subject,
            "team": self.team,
            "clearance": CLEARANCES.get(self.clearance, -1),
        }
        if self.kind == "Person":
            attrs["owns_storage"] = self.owns_storage
        elif self.kind == "CI":
            attrs["repository"] = self.repository
        else:
            attrs |= {name: value for name, value in (("run", self.run), ("step", self.step)) if value is not None}
        return {"uid": self.uid, "attrs": attrs, "parents": [{"type": "Role", "id": role} for role in self.roles]}


def step_principal(run: str, step: str, *, team: str, clearance: str = "internal") -> Principal:
    """The principal that one step of one run acts as."""
    return Principal(
        kind="Service", id=f"{run}/{step}", roles=("step",), team=team, clearance=clearance, run=run, step=step
    )


def local_person(storage: str) -> Principal:
    """The user of this process, for the command line on one machine.

    Args:
        storage: The storage URI. For a folder, owning it is what makes an admin (policy `owner-of-local-storage`); a
            folder that does not exist yet is owned by whoever may create it in the nearest existing folder. A bucket
            is owned by whoever has credentials for it: an answer holds only once it stands in the audit log there, and
            the credentials of a step cannot write that.
    """
    uid = os.getuid()
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{uid}"
    return Principal(kind="Person", id=name, clearance="restricted", owns_storage=_owns(storage, uid))


def _owns(storage: str, uid: int) -> bool:
    parts = urlsplit(storage)
    if parts.scheme == "s3":
        return True
    if parts.scheme not in ("", "file"):
        return False
    path = Path(unquote(parts.path))
    if not path.is_absolute():
        path = Path.cwd() / path
    while not path.exists():
        path = path.parent
    return path.stat().st_uid == uid


@dataclass(frozen=True, slots=True)
class AliasRule:
    """What the policies must know of an alias.

    Attributes:
        team: Whose it is.
        protected: Whether a release needs a second person.
    """

    team: str = LOCAL_TEAM
    protected: bool = False


class Principals(Protocol):
    """Who there is, as of now. `Directory` and `FollowedDirectory` are such."""

    @property
    def reload_error(self) -> PrincipalError | None:
        """Why what stands in the file is not in force."""

    def alias(self, name: str) -> AliasRule:
        """What is known of an alias."""

    def by_subject(self, subject: str) -> Principal | None:
        """The principal of that name, or None."""

    def by_api_key(self, key: str) -> Principal | None:
        """Whose key this is, or None."""

    def by_key_digest(self, digest: str) -> Principal | None:
        """Whose key has this digest, or None."""


@dataclass(frozen=True, slots=True)
class Directory:
    """The principals of a team, and the aliases that are not everybody's.

    Attributes:
        principals: By subject (`Person::ann`).
        api_keys: Subject by SHA-256 of a key, in hex.
        aliases: By name.
    """

    principals: Mapping[str, Principal] = field(default_factory=dict)
    api_keys: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, AliasRule] = field(default_factory=dict)

    @property
    def reload_error(self) -> PrincipalError | None:
        """None: it never changes."""
        return None

    def alias(self, name: str) -> AliasRule:
        """What is known of an alias; one that is not named belongs to the team `local` and is not protected."""
        return self.aliases.get(name, AliasRule())

    def by_subject(self, subject: str) -> Principal | None:
        """The principal of that name, or None."""
        return self.principals.get(subject)

    def by_api_key(self, key: str) -> Principal | None:
        """Whose key this is, or None. The look-up is by digest, so its time tells nothing about the keys."""
        return self.by_key_digest(key_digest(key))

    def by_key_digest(self, digest: str) -> Principal | None:
        """Whose key has this digest, or None."""
        subject = self.api_keys.get(digest)
        return None if subject is None else self.principals.get(subject)


def new_api_key() -> str:
    """A fresh key of 256 random bits, to be shown once. Only `key_digest` of it is stored."""
    return f"elk_{secrets.token_urlsafe(32)}"


def key_digest(key: str) -> str:
    """SHA-256 of a key, in hex. Keys are 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def load_directory(path: Path) -> Directory:
    """Reads a directory of principals: `[[principal]]` tables with `kind`, `id`, `roles`, `team`, `clearance`,
    `api_keys`; and `[alias.<name>]` tables with `team`, `protected`.

    Raises:
        PrincipalError: An unknown key or kind, a double name, a clearance or a key digest that is none.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PrincipalError(str(path), str(error)) from error
    unknown = set(document) - {"principal", "alias"}
    entries = document.get("principal", [])
    if unknown or not isinstance(entries, list):
        raise PrincipalError(
            str(path), f"expected only [[principal]] tables, found {sorted(unknown) or type(entries).__name__}"
        )
    principals: dict[str, Principal] = {}
    api_keys: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        source = f"{path}, principal {number}"
        principal, digests = _read_entry(source, entry)
        if principal.subject in principals:
            raise PrincipalError(source, f"{principal.subject!r} stands there twice")
        principals[principal.subject] = principal
        for digest in digests:
            if api_keys.setdefault(digest, principal.subject) != principal.subject:
                raise PrincipalError(source, "the same API key belongs to two principals")
    return Directory(principals, api_keys, _read_aliases(path, document.get("alias", {})))


def _read_aliases(path: Path, tables: object) -> dict[str, AliasRule]:
    if not isinstance(tables, dict):
        raise PrincipalError(str(path), "aliases are tables [alias.<name>]")
    rules = {}
    for name, table in tables.items():
        source = f"{path}, alias {name}"
        if not isinstance(table, dict) or set(table) - {"team", "protected"}:
            raise PrincipalError(source, "a table of team and protected")
        rule = AliasRule(**table)
        if not isinstance(rule.team, str) or not rule.team or not isinstance(rule.protected, bool):
            raise PrincipalError(source, f"team is text, protected true or false; found {table}")
        rules[name] = rule
    return rules


_TEXT_FIELDS = ("id", "team", "clearance", "repository")
_LIST_FIELDS = ("roles", "api_keys")


def _read_entry(source: str, entry: object) -> tuple[Principal, list[str]]:
    if not isinstance(entry, dict):
        raise PrincipalError(source, "not a table")
    unknown = set(entry) - {"kind", *_TEXT_FIELDS, *_LIST_FIELDS}
    if unknown:
        raise PrincipalError(source, f"unknown keys {sorted(unknown)}")
    kind: Kind | None = next((kind for kind in get_args(Kind) if kind == entry.get("kind")), None)
    if kind is None:
        raise PrincipalError(source, f"kind = {entry.get('kind')!r} is none of {list(get_args(Kind))}")
    if not entry.get("id"):
        raise PrincipalError(source, "it needs an id")
    for name in _TEXT_FIELDS:
        if not isinstance(entry.get(name, ""), str):
            raise PrincipalError(source, f"{name} = {entry[name]!r} is not text")
    for name in _LIST_FIELDS:
        values = entry.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise PrincipalError(source, f"{name} must be a list of text")
    if entry.get("clearance", "internal") not in CLEARANCES:
        raise PrincipalError(source, f"clearance = {entry['clearance']!r} is none of {list(CLEARANCES)}")
    digests: list[str] = entry.get("api_keys", [])
    if any(len(digest) != 64 or set(digest) - set("0123456789abcdef") for digest in digests):
        raise PrincipalError(source, "api_keys holds SHA-256 in hex (64 digits), never a key itself")
    text = {name: entry[name] for name in _TEXT_FIELDS if name in entry}
    return Principal(kind=kind, roles=tuple(entry.get("roles", [])), **text), digests
