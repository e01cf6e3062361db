from __future__ import annotations

import pytest
from pydantic import ValidationError

from steps.scrape import ScrapeConfig
from steps.scrape.source import source_name


def test_the_default_is_this_pythons_documentation() -> None:
    config = ScrapeConfig()
    assert (config.source, config.allow_private, config.max_pages >= 150) == ("pydoc", False, True)
    assert source_name(config) == "pydoc"


def test_with_seeds_the_source_is_the_web() -> None:
    assert ScrapeConfig(seeds=("https://example.com/",)).source == "web"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "web"}, "scrape.seeds"),
        ({"source": "pydoc", "seeds": ["https://example.com/"]}, "scrape.source"),
        ({"seeds": ["ftp://example.com/"]}, "scheme 'ftp'"),
        ({"seeds": ["example.com"]}, "no web address"),
        ({"seeds": ["http://user:pass@example.com/"]}, "user or password"),
        ({"user_agent": "Bad\nAgent"}, "scrape.user_agent"),
        ({"name": "../elsewhere"}, "scrape.name"),
        ({"max_pages": 0}, "max_pages"),
        ({"max_page": 5}, "max_page"),
        ({"delay_s": -1}, "delay_s"),
        ({"source": "gopher"}, "source"),
    ],
)
def test_impossible_values_are_refused_by_key_and_value(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScrapeConfig.model_validate(values)


def test_every_field_is_described() -> None:
    assert all(field.description for field in ScrapeConfig.model_fields.values())


def test_a_source_is_named_by_its_seeds_in_any_order_and_spelling() -> None:
    one = ScrapeConfig(seeds=("https://example.com/b", "https://EXAMPLE.com"))
    other = ScrapeConfig(seeds=("https://example.com/", "https://example.com/b#x"), max_pages=9)
    assert source_name(one) == source_name(other)
    assert source_name(one).startswith("example.com-")
    assert source_name(ScrapeConfig(seeds=("https://example.com/c",))) != source_name(one)
    assert source_name(ScrapeConfig(seeds=("https://example.com/c",), name="docs")) == "docs"


def test_robots_are_read_for_the_product_name() -> None:
    assert ScrapeConfig(user_agent="Some-Bot/2.0 (+https://example.com)").robots_token == "Some-Bot"
