"""The Ed25519 key that signs audit checkpoints.

One key a machine, in a file that only its owner may read, made on first use; where machines come and go, one key for
all of them in `EVERLOOP_AUDIT_KEY`. Verification needs only public keys.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from workflows.access.errors import SigningKeyError

AUDIT_KEY = "EVERLOOP_AUDIT_KEY"
"""The variable that holds the key itself, as 64 hex digits."""

_SEED_BYTES = 32


class VerifyingKey:
    """The public half: 64 hex digits."""

    def __init__(self, public_hex: str) -> None:
        """Raises ValueError if these are not 64 hex digits of a key."""
        raw = bytes.fromhex(public_hex)
        self._key = Ed25519PublicKey.from_public_bytes(raw)
        self.hex = raw.hex()
        self.id = hashlib.sha256(raw).hexdigest()[:16]

    def accepts(self, signature: str, message: bytes) -> bool:
        """Whether the signature (base64) is this key's over the message; malformed ones are not."""
        try:
            self._key.verify(base64.b64decode(signature, validate=True), message)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


class SigningKey:
    """The private half. Never printed, never pickled."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = VerifyingKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex())

    def sign(self, message: bytes) -> str:
        """The signature over the message, in base64."""
        return base64.b64encode(self._key.sign(message)).decode()

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a signing key stays in its process")


def audit_key(path: Path | None, environ: Mapping[str, str]) -> SigningKey:
    """The key that the environment holds, else the one of the file.

    Raises:
        SigningKeyError: Where it was looked for is no key, or others may read the file.
    """
    if given := environ.get(AUDIT_KEY):
        return _key_of(given, AUDIT_KEY)
    if path is None:
        raise SigningKeyError(AUDIT_KEY, "not set, and no file was named")
    return signing_key(path)


def signing_key(path: Path) -> SigningKey:
    """Reads the key, or makes one. Two processes that make one at once end up with the same key.

    Raises:
        SigningKeyError: The file holds no key, or others may read it.
    """
    if not path.exists():
        _make(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SigningKeyError(path, f"cannot be opened, or is a link ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise SigningKeyError(
                path, f"mode {mode:04o} lets others read it; make it 0600, or remove it for a new one"
            )
        text = file.read(2 * _SEED_BYTES + 2)
    return _key_of(text.decode("ascii", "replace"), path)


def _key_of(text: str, origin: Path | str) -> SigningKey:
    try:
        seed = bytes.fromhex(text)
    except ValueError as error:
        raise SigningKeyError(origin, "not a key, which is 64 hex digits") from error
    if len(seed) != _SEED_BYTES:
        raise SigningKeyError(origin, "not a key, which is 64 hex digits")
    return SigningKey(seed)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SEED_BYTES).hex().encode())
            file.flush()
            os.fsync(file.fileno())
        # link(2) fails if the name is taken: whoever is first decides, and nobody ever reads half a key.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
