"""Access control from the command line: `python -m workflows.access check|verify|public-key|new-key`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from workflows.access.audit_check import verify_audit
from workflows.access.errors import AccessError
from workflows.access.policy_files import LOCAL_POLICIES, TEAM_POLICIES, load_policies
from workflows.access.principals import key_digest, new_api_key
from workflows.access.signing import AUDIT_KEY, VerifyingKey, audit_key, signing_key
from workflows.log import LogError, open_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0 if all is well, 1 if something is wrong, 2 if it could not be looked at."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (AccessError, LogError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _check(options: argparse.Namespace) -> int:
    policy_set = load_policies(options.folders or (TEAM_POLICIES, LOCAL_POLICIES))
    for name, origin in policy_set.origins.items():
        sys.stdout.write(f"{origin}\t{name}\n")
    sys.stdout.write(f"{len(policy_set.origins)} policies, digest {policy_set.digest}\n")
    return 0


def _verify(options: argparse.Namespace) -> int:
    anchors = open_store(options.anchors) if options.anchors else None
    report = verify_audit(open_store(options.storage), options.key, anchors=anchors)
    for log in report.logs:
        sys.stdout.write(f"{log.name}\t{log.num_records} records\t{log.num_anchored} under a checkpoint\n")
    for finding in report.findings:
        sys.stdout.write(f"{finding.kind}\t{finding.log}\t{finding.detail}\n")
    verdict = "whole" if report.ok else f"{len(report.findings)} findings"
    sys.stdout.write(f"{len(report.logs)} logs, {report.num_checkpoints} checkpoints: {verdict}\n")
    return 0 if report.ok else 1


def _public_key(options: argparse.Namespace) -> int:
    key = signing_key(options.file) if options.file else audit_key(None, os.environ)
    sys.stdout.write(f"{key.public.hex}\n")
    return 0


def _new_key(_: argparse.Namespace) -> int:
    key = new_api_key()
    sys.stdout.write(f"key    {key}\nsha256 {key_digest(key)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflows.access", description=__doc__)
    commands = parser.add_subparsers(required=True)
    check = commands.add_parser("check", help="read and validate policies")
    check.add_argument("folders", nargs="*", type=Path, help="by default those of the project")
    check.set_defaults(command=_check)
    verify = commands.add_parser("verify", help="check the audit logs of a storage")
    verify.add_argument("--storage", required=True, help="storage URI")
    verify.add_argument("--anchors", help="storage URI of the checkpoints, if it is another one")
    verify.add_argument(
        "--key", required=True, action="append", type=VerifyingKey, help="a trusted public key; may be repeated"
    )
    verify.set_defaults(command=_verify)
    public_key = commands.add_parser(
        "public-key", help="print the public key of a signing key, making one if there is none"
    )
    public_key.add_argument("file", nargs="?", type=Path, help=f"by default the key that {AUDIT_KEY} holds")
    public_key.set_defaults(command=_public_key)
    new_key = commands.add_parser(
        "new-key", help="make an API key: the key is for its holder, the digest for the directory"
    )
    new_key.set_defaults(command=_new_key)
    return parser


if __name__ == "__main__":
    sys.exit(main())
