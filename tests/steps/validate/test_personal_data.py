"""Masking of personal data: what is planted is found, what looks like it is not."""

from __future__ import annotations

import random
import string
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.validate.personal_data import IBAN_LENGTHS, is_card, is_iban, luhn_valid, mask

CARRIERS = (
    "Write to {} before Friday.",
    "contact: {}",
    "({})",
    "It was {}, as far as anyone knows.",
    'value = "{}"',
    "| name | {} |",
)

LOOKALIKES = (
    "version 3.11.7.0 was released", "2026-11-24 04:05:44", "from 10.0.0.1 to 192.168.1.20", "listen on 127.0.0.1:8080",
    "ISBN 978-3-16-148410-0", "0x7ffdeadbeef", "@property", "@dataclass(frozen=True)", "a @ b", "matrix@vector",
    "1234567890", "1700000000.123", "std::vector::iterator", "12:34:56", "DE00 1234 5678 9012 3456 78", "1.2.3.4.5.6",
    "4111 1111 1111 1112", "0000000000000000", "token=None", "password = getpass.getpass()", "secret: str",
    "token = tokenize.generate_tokens", "api_key='your-api-key-goes-here'", "range(1000000000, 2000000000)",
    "sha256:9f86d081884c7d659a2feaa0c55ad015", "3.14159265358979", "RFC 5321 and RFC 2822", "pages 100-200, 300-400",
    "1,000,000 of 2,000,000", "v1.2.3-rc.4", "fe80::1", "::1", "commit 45d9244", "C:\\Users\\Public", "http://example",
    "sk-learn", "hf_hub_download", "xoxo", "eyJust a word", "(800) of 1200", "5 - 10 - 2000", "1999-2000-2001-2002",
)  # fmt: skip


def planted(kind: str, rng: random.Random) -> str:
    """A value of a kind, made at random."""
    letters = lambda n, chars=string.ascii_letters + string.digits: "".join(rng.choices(chars, k=n))  # noqa: E731
    digits = lambda n: letters(n, string.digits)  # noqa: E731
    match kind:
        case "email":
            user = rng.choice(["jane.doe", "j_smith+news", "info", letters(8).lower()])
            return (
                f"{user}@{rng.choice(['example.org', 'mail.example.co.uk', 'uni-x.de', letters(6).lower() + '.com'])}"
            )
        case "ip":
            if rng.random() < 0.3:
                return "2a00:1450:4001:" + ":".join(letters(4, "0123456789abcdef") for _ in range(5))
            return ".".join(map(str, (rng.choice([8, 52, 93, 81]), *rng.choices(range(1, 255), k=3))))
        case "phone":
            return rng.choice([
                f"+49 30 {digits(8)}", f"+1-{rng.randint(201, 989)}-{rng.randint(200, 999)}-{digits(4)}",
                f"({rng.randint(201, 989)}) {rng.randint(200, 999)}-{digits(4)}",
                f"{rng.randint(201, 989)}-{rng.randint(200, 999)}-{digits(4)}",
                f"+44 20 7{digits(3)} {digits(4)}", f"+33 1 {digits(2)} {digits(2)} {digits(2)} {digits(2)}",
                f"+861{digits(10)}",
            ])  # fmt: skip
        case "iban":
            country = rng.choice(["DE", "FR", "GB", "NL", "ES", "CH"])
            letters_in = {"GB": "NWBK", "NL": "ABNA"}.get(country, "")
            body = letters_in + digits(IBAN_LENGTHS[country] - 4 - len(letters_in))
            check = 98 - int("".join(str(int(char, 36)) for char in f"{body}{country}00")) % 97
            iban = f"{country}{check:02}{body}"
            return iban if rng.random() < 0.5 else " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
        case "card":
            body = rng.choice(["4", "51", "2221", "6011"])
            body += digits(15 - len(body))
            card = next(body + digit for digit in string.digits if luhn_valid(body + digit))
            separator = rng.choice(["", " ", "-"])
            return separator.join(card[i : i + 4] for i in range(0, 16, 4))
        case _:
            return rng.choice([
                f"AKIA{letters(16, string.ascii_uppercase + '234567')}", f"ghp_{letters(36)}", f"sk-proj-{letters(32)}",
                f"api_key={letters(15)}{digits(5)}x{letters(12)}", f"password: '{letters(14)}9f{letters(6)}'",
                f"xoxb-{digits(12)}-{letters(24)}", f"glpat-{letters(20)}",
                f"eyJ{letters(20)}.eyJ{letters(30)}.{letters(40)}",
            ])  # fmt: skip


KINDS = ("email", "ip", "phone", "iban", "card", "secret")


def test_planted_data_is_found_and_lookalikes_are_left() -> None:
    rng = random.Random(7)
    num_planted = num_found = num_wrong = 0
    for _ in range(200):
        for kind in KINDS:
            value = planted(kind, rng)
            text, found = mask(rng.choice(CARRIERS).format(value))
            num_planted += 1
            num_found += found == Counter({kind: 1}) and value[-8:] not in text
            num_wrong += sum(count for name, count in found.items() if name != kind)
    for lookalike in LOOKALIKES * 5:
        num_wrong += sum(mask(rng.choice(CARRIERS).format(lookalike))[1].values())
    assert num_found / num_planted >= 0.98
    assert num_found / (num_found + num_wrong) >= 0.95


@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_what_only_looks_like_personal_data_stays(lookalike: str) -> None:
    assert mask(lookalike) == (lookalike, Counter())


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jane@example.org.", "mail <EMAIL_ADDRESS>."),
        ("at 8.8.8.8, or", "at <IP_ADDRESS>, or"),
        ("call +49 30 12345678!", "call <PHONE_NUMBER>!"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN <IBAN_CODE>."),
        ("card 4111 1111 1111 1111", "card <CREDIT_CARD>"),
        ("amex 3782-822463-10005", "amex <CREDIT_CARD>"),
        ("password = 'x8Fk29sLq0Zr7TbW'", "password = '<SECRET>'"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nend", "<SECRET>\nend"),
        ("a@b.org and a@b.org", "<EMAIL_ADDRESS> and <EMAIL_ADDRESS>"),
    ],
)
def test_placeholders_name_the_kind_and_keep_what_is_around(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


def test_known_check_digits() -> None:
    assert luhn_valid("79927398713")
    assert not luhn_valid("79927398710")
    assert is_iban("GB82 WEST 1234 5698 7654 32")
    assert not is_iban("GB83 WEST 1234 5698 7654 32")
    assert not is_iban("GB82 WEST 1234 5698 7654 3")
    assert is_card("4242424242424242")
    assert not is_card("9999999999999995")


@given(st.lists(st.sampled_from([*LOOKALIKES, "a@b.org", "8.8.8.8", "+49 30 12345678", "4111111111111111", "\n", " "])))
def test_masking_twice_changes_nothing(parts: list[str]) -> None:
    once, _ = mask(" ".join(parts))
    assert mask(once) == (once, Counter())


@pytest.mark.parametrize(
    "unit", ["1", "a", "a.", "1 ", "1.", "ab:", "token=", "-", "@", "A1", "+1 ", "eyJ", "sk-", "("]
)
def test_hostile_text_takes_no_more_than_linear_time(unit: str) -> None:
    started = time.process_time()
    mask("@eyJ sk- " + unit * (200_000 // len(unit)))
    assert time.process_time() - started < 5
