"""The beginning of a long text gives the same first tokens as the whole text, for every kind of tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from trainer import tiny
from transformers import PreTrainedTokenizerFast

from finetune_trainer.tasks import Settings, task_of
from finetune_trainer.tasks import beginning as beginning_module
from finetune_trainer.tasks.beginning import CHARACTERS_PER_TOKEN, MARGIN, beginning

CORPUS = [
    "The quick brown fox jumps over the lazy dog; 1,234,567 times, in 2024.",
    "    if (value != null) { return array[index]; }\t// indented\n\n",
    "Ärger über naïve Façaden, déjà vu. Съешь ещё этих мягких булок. 天地玄黄宇宙洪荒。",
    "aaaa abab ababab aaaaaaaa aabb bbbb",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
LONG_MARK = "<|" + "tool" * 20 + "|>"


def word_piece() -> Tokenizer:
    """Return a tokenizer like those of BERT and MiniLM."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    made.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return made


def byte_level(split: pre_tokenizers.PreTokenizer | None = None) -> Tokenizer:
    """Return a tokenizer like GPT-2's, or one that splits the text differently."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    made.pre_tokenizer = own if split is None else pre_tokenizers.Sequence([split, own])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    return made


def digits_from_the_right() -> Tokenizer:
    """Return a tokenizer with digits in groups of three, counted from the end of the number."""
    return byte_level(pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))|\D+?(?=\s|\d|$)"), "isolated"))


def unigram() -> Tokenizer:
    """Return a tokenizer like those of SentencePiece for XLM-RoBERTa and T5."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    made.train_from_iterator(CORPUS, trainer)
    return made


def without_pre_tokens() -> Tokenizer:
    """Return a tokenizer like Llama 2's, which merges over the whole text."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL))
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "WordPiece": word_piece,
    "byte-level BPE": byte_level,
    "digits from the right": digits_from_the_right,
    "Unigram": unigram,
    "BPE without pre-tokens": without_pre_tokens,
}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.add_tokens([LONG_MARK])
    return made


TOKENIZERS = {kind: tokenizer_of(kind) for kind in KINDS}

PIECES = st.one_of(
    st.sampled_from(
        [*" ".join(CORPUS).split(), "</s>", LONG_MARK, LONG_MARK[:30], "👩‍👩‍👧‍👦", "e\u0301", "\u1112\u1161\u11ab"]
    ),
    st.text(max_size=12),
    st.builds(
        lambda character, count: character * count,
        st.sampled_from([" ", "\n", " \t", "a", "ab", "7", "天", "-", "\u0301"]),
        st.integers(1, 300),
    ),
)
TEXTS = st.builds(
    lambda pieces, between, times: between.join(pieces) * times,
    st.lists(PIECES, min_size=1, max_size=12),
    st.sampled_from([" ", "", "\n", "  "]),
    st.integers(1, 8),
)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, tokens=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_the_first_tokens_are_those_of_the_whole_text(kind: str, text: str, tokens: int) -> None:
    tokenizer = TOKENIZERS[kind]
    # When the first piece of the text is so short, its end is often close to the tokens that are kept.
    with mock.patch.object(beginning_module, "CHARACTERS_PER_TOKEN", 1):
        read = beginning(tokenizer, text, tokens)
    assert text.startswith(read)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(read, add_special_tokens=False)["input_ids"][:tokens] == whole[:tokens]


class Spy:
    """A tokenizer that counts the characters passed to it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def __call__(self, text: str | list[str], **arguments: Any) -> Any:
        self.characters += sum(map(len, [text] if isinstance(text, str) else text))
        return self._tokenizer(text, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


LENGTH = 32
PROSE = " ".join(CORPUS) * 300
COLUMNS: list[tuple[str, dict[str, str]]] = [
    (tiny.SEQUENCE, {"text": PROSE}),
    (tiny.CAUSAL_LM, {"text": PROSE}),
    (tiny.CAUSAL_LM, {"prompt": PROSE, "completion": "yes"}),
    (tiny.CAUSAL_LM, {"prompt": "why?", "completion": PROSE}),
]


def encoded(tokenizer: Any, task: Any, columns: dict[str, str]) -> dict[str, Any]:
    """Return one row as the task encodes it."""
    rows = datasets.Dataset.from_dict({"id": ["rows.jsonl:1"], **{name: [text] for name, text in columns.items()}})
    model = tiny.bert() if task == tiny.SEQUENCE else tiny.gpt2()
    return dict(task_of(task).encode(rows, Settings(tokenizer, model, LENGTH))[0])


@pytest.mark.parametrize("kind", ["WordPiece", "byte-level BPE", "Unigram"])
@pytest.mark.parametrize(("task", "columns"), COLUMNS, ids=lambda value: "-".join(value) if value else "")
def test_of_a_long_text_a_task_reads_only_the_beginning_and_makes_the_same_row(
    kind: str, task: str, columns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(TOKENIZERS[kind])
    row = encoded(spy, task, columns)
    assert spy.characters <= 6 * (CHARACTERS_PER_TOKEN * (LENGTH + 1) + 2 * MARGIN)
    for module in ("causal_lm", "sequence_classification"):
        monkeypatch.setattr(f"finetune_trainer.tasks.{module}.beginning", lambda tokenizer, text, tokens: text)
    assert json.dumps(row) == json.dumps(encoded(TOKENIZERS[kind], task, columns))
    assert (row["cut"], row["length"]) == (True, LENGTH)


def test_a_classifier_whose_tokenizer_keeps_the_end_of_a_text_reads_all_of_it() -> None:
    tokenizer = tokenizer_of("WordPiece")
    tokenizer.truncation_side = "left"
    text = "dog " * 1000 + "fox"
    row = encoded(tokenizer, tiny.SEQUENCE, {"text": text})
    assert row["input_ids"] == tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
    assert row["cut"]


def test_a_short_text_is_not_read_twice() -> None:
    spy: Any = Spy(TOKENIZERS["WordPiece"])
    assert beginning(spy, "The quick brown fox", 32) == "The quick brown fox"
    assert spy.characters == 0
