"""Personal data and secrets give way to typed placeholders. Only counts leave this module, never what was found.

Each kind is a pattern that finds candidates and, where the standard has one, a check that keeps the real ones: mod 97
for IBANs (ISO 13616), Luhn for cards (ISO/IEC 7812-1), a public address for IPs (RFC 1918 and its kin name no person).
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from steps.validate.secrets import is_random

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT IBAN registry)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of personal data: how candidates look, which of them are real, and what stands for them.

    Attributes:
        name: What is counted.
        placeholder: What stands in its place.
        pattern: Finds candidates.
        is_real: Keeps the real ones.
        group: The group of the pattern that is replaced.
        hints: Without one of these the pattern need not be asked; most texts have none, and looking for them is fast.
    """

    name: str
    placeholder: str
    pattern: re.Pattern[str]
    is_real: Callable[[str], bool] = lambda _: True
    group: int = 0
    hints: tuple[str, ...] = ("",)


def luhn_valid(text: str) -> bool:
    """Checks the digits of a card number by ISO/IEC 7812-1."""
    digits = [int(char) for char in text if char.isdecimal()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_card(text: str) -> bool:
    """Says whether digits are a payment card's: length and issuer of a network in use, not one digit repeated, Luhn."""
    digits = "".join(filter(str.isdecimal, text))
    if len(set(digits)) == 1 or not luhn_valid(digits):
        return False
    two, four = int(digits[:2]), int(digits[:4])
    return (
        (digits[0] == "4" and len(digits) in (13, 16, 19))
        or (len(digits) == 16 and (51 <= two <= 55 or 2221 <= four <= 2720 or four == 6011 or two == 65))
        or (len(digits) == 15 and two in (34, 37))
        or (len(digits) == 14 and two in (30, 36, 38))
        or (len(digits) in (16, 19) and (3528 <= four <= 3589 or two == 62))
    )


def is_iban(text: str) -> bool:
    """Checks length by country and the remainder by 97 (ISO 13616, ISO 7064)."""
    compact = text.replace(" ", "")
    if len(compact) != IBAN_LENGTHS.get(compact[:2]):
        return False
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def is_public_address(text: str) -> bool:
    """Says whether text is an IP address of the public internet."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def is_phone(text: str) -> bool:
    """Checks the number of digits: E.164 allows 15; shorter than 9 is no full number, and dates are 8."""
    digits = sum(map(str.isdecimal, text))
    return 9 <= digits <= 15


KINDS: tuple[Kind, ...] = (
    Kind("secret", "<SECRET>", re.compile(
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[\s\S]{1,20000}?"
        r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        r"|\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"                                            # AWS access key id
        r"|\bgh[pousr]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b"              # GitHub
        r"|\bglpat-[A-Za-z0-9_-]{20,}|\bnpm_[A-Za-z0-9]{36}\b|\bhf_[A-Za-z0-9]{34,}\b|\bpypi-[A-Za-z0-9_-]{50,}"
        r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,250}|\bAIza[A-Za-z0-9_-]{35}"                        # Slack, Google
        r"|\b[srp]k_(?:live|test)_[A-Za-z0-9]{16,247}\b|\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,200}"  # Stripe, OpenAI
        r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"                 # JWT (RFC 7519)
    ), hints=(
        "PRIVATE KEY", "AKIA", "ASIA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_",
        "glpat-", "npm_", "hf_", "pypi-", "xox", "AIza", "k_live_", "k_test_", "sk-", "eyJ",
    )),
    Kind("secret", "<SECRET>", re.compile(
        r"(?i:(?:api[_-]?key|access[_-]?key|secret(?:[_-]?key)?|auth[_-]?token|access[_-]?token|token|passw(?:or)?d)"
        r"[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?)([A-Za-z0-9+/_=.~-]{16,200})"
    ), is_random, group=1),
    Kind("email", "<EMAIL_ADDRESS>", re.compile(
        r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b(?!\()"
    ), hints=("@",)),
    Kind("iban", "<IBAN_CODE>", re.compile(
        r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,28}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
    ), is_iban),
    Kind("card", "<CREDIT_CARD>", re.compile(
        r"(?<![\w.+/-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w/-]|\.\d)"
    ), is_card),
    Kind("phone", "<PHONE_NUMBER>", re.compile(
        r"(?<![\w.+/-])(?:\+\d{1,3}(?:[ -]?\(?\d{1,5}\)?|\.\d{2,5}){2,6}"                       # E.164 with its plus
        r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}"                  # North America
        r"|\(?0\d{1,4}\)?[ /-]\d{3,4}[ -]?\d{3,4}(?:[ -]\d{2,4})?)(?![\w/-]|\.\d)"             # with a trunk prefix
    ), is_phone),
    Kind("ip", "<IP_ADDRESS>", re.compile(
        r"(?<![\w.:-])(?<!ersion )(?:(?:\d{1,3}\.){3}\d{1,3}"
        r"|(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6})(?![\w:-]|\.\w)"
    ), is_public_address),
)  # fmt: skip
"""In the order in which they are replaced: what proves itself first, so that a card is not taken for a phone."""


def mask(text: str) -> tuple[str, Counter[str]]:
    """Replaces personal data by placeholders; masking twice changes nothing.

    Returns:
        The text, and how often each kind was found.
    """
    found: Counter[str] = Counter()
    for kind in KINDS:
        if not any(hint in text for hint in kind.hints):
            continue
        text = kind.pattern.sub(lambda match, kind=kind: _replacement(match, kind, found), text)  # type: ignore[misc]
    return text, found


def _replacement(match: re.Match[str], kind: Kind, found: Counter[str]) -> str:
    if not kind.is_real(match[kind.group]):
        return match[0]
    found[kind.name] += 1
    before = match[0][: match.start(kind.group) - match.start()]
    return before + kind.placeholder
