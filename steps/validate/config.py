"""Settings of the step. The published numbers stand in the descriptions, with the source that gave them.

Sources: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1 and section A1.1), C4 (Raffel et al. 2020, JMLR 21-140,
section 2.2), FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6).
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class QualityLimits(BaseModel):
    """Limits of the quality rules. A document at a limit passes; None turns a rule off.

    The defaults are the published numbers, save for the rules on lines, repetition and code, which only make sense for
    running prose: they are off, or wider, since they throw out most reference documentation. Of 400 pages of pydoc the
    defaults keep 75 %, all rules as published 15 %. `QualityLimits.prose()` has all as published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: Count | None = Field(50, description="Fewest words. Gopher: 50.")
    max_words: Count | None = Field(100_000, description="Most words. Gopher: 100,000.")
    min_mean_word_chars: float | None = Field(3.0, ge=0, description="Shortest mean word, in characters. Gopher: 3.")
    max_mean_word_chars: float | None = Field(10.0, gt=0, description="Longest mean word, in characters. Gopher: 10.")
    max_word_chars: Count | None = Field(1_000, description="Longest word, in characters. C4's code: 1,000.")
    max_hashes_per_word: float | None = Field(0.1, ge=0, description="Most `#` a word. Gopher: 0.1.")
    max_ellipses_per_word: float | None = Field(0.1, ge=0, description="Most ellipses a word. Gopher: 0.1.")
    max_bullet_lines: Fraction | None = Field(0.9, description="Most lines that start with a bullet. Gopher: 0.9.")
    max_ellipsis_lines: Fraction | None = Field(0.3, description="Most lines that end in an ellipsis. Gopher: 0.3.")
    min_alphabetic_words: Fraction | None = Field(0.8, description="Fewest words that have a letter. Gopher: 0.8.")
    min_stop_words: Count | None = Field(
        2,
        le=8,
        description="Fewest different of: the be to of and that have with; English only. Gopher: 2.",
    )
    max_duplicate_lines: Fraction | None = Field(
        0.6, description="Most lines seen before. Gopher, for prose: 0.3; references repeat inherited members."
    )
    max_duplicate_line_chars: Fraction | None = Field(
        0.5, description="Most characters in lines seen before. Gopher, for prose: 0.2; FineWeb: 0.01."
    )
    max_top_2gram_chars: Fraction | None = Field(0.2, description="Most characters in the top 2-gram. Gopher: 0.2.")
    max_top_3gram_chars: Fraction | None = Field(0.18, description="Most characters in the top 3-gram. Gopher: 0.18.")
    max_top_4gram_chars: Fraction | None = Field(0.16, description="Most characters in the top 4-gram. Gopher: 0.16.")
    max_repeated_5gram_chars: Fraction | None = Field(
        None,
        description="Most characters in 5-grams seen before. Gopher: 0.15. Prose only.",
    )
    max_repeated_10gram_chars: Fraction | None = Field(
        None, description="Most characters in 10-grams seen before. Gopher: 0.10. Prose only."
    )
    max_short_lines: Fraction | None = Field(
        None, description="Most lines of at most 30 characters. FineWeb: 0.67. Prose only."
    )
    max_lines_per_word: float | None = Field(
        None, ge=0, description="Most line ends a word: lists. FineWeb: 0.3. Prose only."
    )
    min_punctuated_lines: Fraction | None = Field(
        None, description="Fewest lines that end in terminal punctuation. FineWeb: 0.12. Prose only."
    )
    min_sentences: Count | None = Field(None, description="Fewest sentences. C4: 5. Prose only.")
    max_lorem_ipsum: Count | None = Field(0, description="Most times of `lorem ipsum`. C4: 0.")
    max_curly_brackets: Count | None = Field(None, description="Most `{`. C4: 0. Prose only: it throws out all code.")
    max_replacement_chars: Fraction | None = Field(
        0.01, description="Most U+FFFD, left by wrong decoding. Our own number: one in a hundred characters."
    )

    @classmethod
    def prose(cls) -> Self:
        """All rules on, as published for web prose."""
        return cls(
            max_duplicate_lines=0.3,
            max_duplicate_line_chars=0.01,
            max_short_lines=0.67,
            max_lines_per_word=0.3,
            max_repeated_5gram_chars=0.15,
            max_repeated_10gram_chars=0.10,
            min_punctuated_lines=0.12,
            min_sentences=5,
            max_curly_brackets=0,
        )

    @model_validator(mode="after")
    def _bounds_leave_room(self) -> Self:
        for low, high in (("min_words", "max_words"), ("min_mean_word_chars", "max_mean_word_chars")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"{low}={least} must not be above {high}={most}")
        return self


class ValidateConfig(BaseModel):
    """Settings of the step `validate`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = Field(
        ("en",), description="ISO 639-1 codes of languages to keep, as py3langid names them; none keeps all."
    )
    language_max_chars: int = Field(
        4_000, gt=0, description="Characters at the start of a document by which its language is told."
    )
    quality: QualityLimits = Field(default_factory=QualityLimits, description="Limits of the quality rules.")
    mask_personal_data: bool = Field(
        True, description="Whether e-mail, IP and phone numbers, IBANs, cards and secrets give way to placeholders."
    )
    max_reject_rate: Fraction = Field(
        0.5, description="Largest share of rows that may be rejected before the step fails; needs `min_rows` rows."
    )
    max_schema_failure_rate: Fraction = Field(
        0.01,
        description="Largest share of rows that may break the schema before the step fails, likewise.",
    )
    min_rows: int = Field(20, gt=0, description="Rows below which no rate is judged: too few to tell.")
    rows_per_file: int = Field(20_000, gt=0, description="Rows a Parquet file of the result is planned for.")
    rows_per_task: int = Field(250, gt=0, description="Rows a cleaning task is planned for.")
    num_workers: int = Field(2, gt=0, description="Tasks that run at once, of one CPU each.")

    @model_validator(mode="after")
    def _languages_are_codes(self) -> Self:
        for code in self.languages:
            if not (2 <= len(code) <= 3 and code.isalpha() and code.islower()):
                raise ValueError(f"languages={code!r} must be an ISO 639 code such as 'en'")
        return self
