from __future__ import annotations

from pathlib import Path

import pytest

from steps.common.language_model.tokenizer import (
    BOS,
    EOS,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TEXTS = [f"def function_{n}(value):\n    return value + {n * 37}  # naïve café ☃\n" for n in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, 400), folder, row_length=64)
    return folder


def test_equal_texts_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(iter(TEXTS), 400), tmp_path, row_length=64)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_any_text_comes_back(folder: Path) -> None:
    tokenizer, _ = load_tokenizer(folder)
    for text in ("", " ", "\t\n\r\n", "日本語 emoji 🎉", "a\x00b", "x" * 5000, *TEXTS[:3]):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_special_tokens_in_a_document_are_plain_text(folder: Path) -> None:
    tokenizer, special = load_tokenizer(folder)
    [ids] = encode_documents(tokenizer, special, [f"say {EOS} and {BOS}"])
    assert ids[0] == special.bos
    assert ids[-1] == special.eos
    assert special.eos not in ids[1:-1]
    assert special.bos not in ids[1:]


def test_transformers_loads_it_and_renders_a_chat(folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    own, special = load_tokenizer(folder)
    assert loaded("return value").input_ids == [special.bos, *own.encode("return value", add_special_tokens=False).ids]
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (special.pad, special.bos, special.eos)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a list?"}]
    rendered = loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == f"{BOS}Be brief.\n\nWhat is a list?"
