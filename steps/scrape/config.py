"""What a crawl can be told."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from steps.scrape.address import AddressPolicy
from steps.scrape.errors import AddressRefusedError


class ScrapeConfig(BaseModel):
    """Settings of the step `scrape`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["pydoc", "bundled", "web"] = Field(
        default="pydoc",
        description="Where pages come from: this Python's documentation, 30 bundled pages, or the web from `seeds`.",
    )
    seeds: tuple[str, ...] = Field(
        default=(), description="URLs to begin with; with seeds the source is `web`. Any sites, http or https."
    )
    name: str = Field(
        default="",
        description="Names the frontier, so that other seeds go on with the same one; made from the source if empty.",
    )
    max_pages: int = Field(default=200, ge=1, description="Pages asked for in one crawl at most, known ones first.")
    max_bytes: int = Field(default=4 * 2**20, ge=1024, description="Largest page in bytes, received or unpacked.")
    same_site: bool = Field(default=True, description="Follow only links within the registrable domains of the seeds.")
    allow_private: bool = Field(
        default=False,
        description="Allow loopback and private addresses and any port; never metadata services or link-local ones.",
    )
    user_agent: str = Field(
        default="Everloop/0.1", description="Sent to servers; robots.txt is read for its first word."
    )
    delay_s: float | None = Field(
        default=None,
        ge=0,
        le=60,
        description="Least pause between two requests to a host; not given: 1 s on the web, none on own servers.",
    )
    concurrency_per_host: int = Field(default=2, ge=1, le=64, description="Requests at once to a host without a pause.")
    page_timeout_s: float = Field(default=20.0, gt=0, description="Time for one page, from connection to last byte.")
    max_attempts: int = Field(default=3, ge=1, le=10, description="Tries per page when a server fails or is busy.")
    num_fetchers: int = Field(default=1, ge=1, le=64, description="Fetching actors; hosts are shared out among them.")
    batch_size: int = Field(default=16, ge=1, le=500, description="Pages per batch: one batch is one frontier record.")
    batch_s: float = Field(default=15.0, gt=0, description="Time after which a batch hands back the pages not begun.")
    min_text_chars: int = Field(default=50, ge=1, description="A page with less text gives no document.")
    browser: Literal["never", "auto"] = Field(
        default="never", description="`auto`: pages that are mostly script are rendered in Chromium (extra `browser`)."
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_are_web_addresses(cls, seeds: tuple[str, ...]) -> tuple[str, ...]:
        for seed in seeds:
            # Only the form is judged here; whether an address may be asked for is for the crawl to say.
            try:
                AddressPolicy(allow_private=True).check_url(seed)
            except AddressRefusedError as error:
                if error.reason == "bad_url":
                    raise ValueError(f"scrape.seeds: {seed!r} is no web address: {error.detail}") from error
        return seeds

    @field_validator("name")
    @classmethod
    def _name_fits_a_key(cls, name: str) -> str:
        if name and not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,80}", name):
            raise ValueError(f"scrape.name: {name!r} must be lower-case letters, digits, dots, dashes")
        return name

    @field_validator("user_agent")
    @classmethod
    def _user_agent_is_one_line(cls, user_agent: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z_-]*[ -~]*", user_agent):
            raise ValueError(f"scrape.user_agent: {user_agent!r} must begin with a product name and be one ASCII line")
        return user_agent

    @model_validator(mode="before")
    @classmethod
    def _seeds_mean_the_web(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("seeds") and "source" not in values:
            return {**values, "source": "web"}
        return values

    @model_validator(mode="after")
    def _source_and_seeds_agree(self) -> Self:
        if self.source == "web" and not self.seeds:
            raise ValueError("scrape.seeds: source 'web' needs at least one URL")
        if self.source != "web" and self.seeds:
            raise ValueError(f"scrape.source: {self.source!r} has seeds of its own; with scrape.seeds it must be 'web'")
        return self

    @property
    def robots_token(self) -> str:
        """The product token under which robots.txt is read (RFC 9309 section 2.2.1)."""
        return re.split(r"[^A-Za-z_-]", self.user_agent, maxsplit=1)[0]
