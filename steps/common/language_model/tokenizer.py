"""A byte-level BPE tokenizer, trained on a dataset version.

Byte-level (GPT-2, Radford et al. 2019): any text round-trips and nothing is unknown. The folder is in Hugging Face
form, so `AutoTokenizer` and vLLM read it without code of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['content'] }}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
)
"""A model trained on pages alone knows no roles: it goes on with the words of the conversation."""


_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4's split: numbers in groups of three and indentation as one piece, which suits pages about code."""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the tokens that stand for no text."""

    pad: int
    bos: int
    eos: int


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns merges from texts. The same texts in the same order give the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, row_length: int) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": row_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def load_tokenizer(folder: Path) -> tuple[Tokenizer, SpecialIds]:
    """Reads a folder in Hugging Face form: ours, or that of a base model.

    Returns:
        The tokenizer, set to treat special tokens inside documents as the plain text they are, and the special ids.
        A base model without a token for the beginning or for padding uses its end token there.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    settings = json.loads((folder / "tokenizer_config.json").read_text())

    def id_of(*names: str) -> int:
        for name in names:
            token = settings.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            found = tokenizer.token_to_id(token) if token else None
            if found is not None:
                return int(found)
        raise ValueError(f"{folder}/tokenizer_config.json names none of {', '.join(names)}")

    eos = id_of("eos_token")
    return tokenizer, SpecialIds(pad=id_of("pad_token", "eos_token"), bos=id_of("bos_token", "eos_token"), eos=eos)


def encode_documents(tokenizer: Tokenizer, special: SpecialIds, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole documents: a beginning token, the text, an end token."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[special.bos, *encoding.ids, special.eos] for encoding in encodings]
