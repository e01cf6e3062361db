"""Who may do what: Cedar policies, one authorizer, an audit log, approval tokens, storage credentials, webhook
signatures."""

from __future__ import annotations

from workflows.access.approvals import ApprovalDecision, ApprovalRequest, Approvals, ApprovalState
from workflows.access.audit import AuditLog, Checkpoint
from workflows.access.audit_check import AuditReport, Finding, verify_audit
from workflows.access.authorizer import Auditor, Authorizer, Decision, Question
from workflows.access.credentials import EVERY_STEP, STEP_NEEDS, CredentialBroker, Need, StepCredentials
from workflows.access.desk import CredentialDesk
from workflows.access.errors import (
    AccessError,
    ApprovalRefused,
    ApprovalVoid,
    AuditUnavailable,
    CredentialError,
    Denied,
    PolicyError,
    PrincipalError,
    SigningKeyError,
    TokenExpired,
    TokenSpent,
    UnknownToken,
    WebhookRefused,
)
from workflows.access.followed_directory import FollowedDirectory
from workflows.access.policy_files import LOCAL_POLICIES, TEAM_POLICIES, PolicySet, load_policies
from workflows.access.principals import (
    CLEARANCES,
    AliasRule,
    Directory,
    Principal,
    Principals,
    key_digest,
    load_directory,
    local_person,
    new_api_key,
    step_principal,
)
from workflows.access.resources import Resource
from workflows.access.seen import StoredSeenIds
from workflows.access.signing import SigningKey, VerifyingKey, audit_key, signing_key
from workflows.access.sts import KeyPair
from workflows.access.webhooks import SeenIds, WebhookSecret, WebhookVerifier, sign_webhook
from workflows.log.redaction import RedactingFormatter, Redactor, environment_secrets, redact_handlers

__all__ = [
    # decisions
    "Auditor", "Authorizer", "Decision", "Question", "PolicySet", "load_policies", "LOCAL_POLICIES", "TEAM_POLICIES",
    # who and what
    "AliasRule", "CLEARANCES", "Directory", "FollowedDirectory", "Principal", "Principals", "Resource", "key_digest",
    "load_directory", "local_person", "new_api_key", "step_principal",
    # audit
    "AuditLog", "AuditReport", "Checkpoint", "Finding", "SigningKey", "VerifyingKey", "audit_key", "signing_key",
    "verify_audit",
    # approvals
    "ApprovalDecision", "ApprovalRequest", "ApprovalState", "Approvals",
    # storage credentials
    "CredentialBroker", "CredentialDesk", "EVERY_STEP", "KeyPair", "Need", "STEP_NEEDS", "StepCredentials",
    # webhooks
    "SeenIds", "StoredSeenIds", "WebhookSecret", "WebhookVerifier", "sign_webhook",
    # secrets
    "RedactingFormatter", "Redactor", "environment_secrets", "redact_handlers",
    # errors
    "AccessError", "ApprovalRefused", "ApprovalVoid", "AuditUnavailable", "CredentialError", "Denied", "PolicyError",
    "PrincipalError", "SigningKeyError", "TokenExpired", "TokenSpent", "UnknownToken", "WebhookRefused",
]  # fmt: skip
