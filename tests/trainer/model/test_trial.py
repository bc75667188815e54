"""A few rows are run through the start model on the CPU before the ranks begin to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from trainer import tiny
from transformers import BartConfig, ViTImageProcessor

from finetune_trainer.errors import InvalidError
from finetune_trainer.model import trial
from finetune_trainer.model.prepare import prepare
from finetune_trainer.model.refusal import as_refusal
from finetune_trainer.model.trial import telling_rows


def test_the_longest_the_shortest_and_some_between_are_tried() -> None:
    lengths = [5, 3, 9, 1, 7, 2, 8, 4, 6, 10, 11]
    rows = datasets.Dataset.from_dict({"id": [str(n) for n in lengths], "length": lengths})
    tried = [lengths[place] for place in telling_rows(rows)]
    assert {1, 11} <= set(tried)
    assert len(tried) == trial.ROWS
    assert telling_rows(rows.select([0])) == [0]


def refused_pictures(folder: Path, processor: ViTImageProcessor, **model: Any) -> str:
    """Return the message with which a run on pictures of unequal sizes is refused."""
    base = tiny.save_model(folder / "model", tiny.IMAGE, tiny.vit(**model))
    processor.save_pretrained(base)
    rows = tiny.pictures(folder / "rows", 30)
    Image.new("RGB", (40, 12), "red").save(rows / "first" / "wide.png")
    with pytest.raises(InvalidError) as refused:
        prepare(tiny.run_config(tiny.IMAGE, base, rows), tiny.paths_in(folder))
    return str(refused.value).replace(str(folder), "")


def test_a_processor_of_another_size_than_the_models_is_refused(tmp_path: Path) -> None:
    said = refused_pictures(tmp_path, ViTImageProcessor(size={"height": 16, "width": 16}))
    assert said.startswith("model.uri: file:///model, of type vit, cannot read what is made of ")
    assert "Input image size (16*16) doesn't match model (8*8)" in said
    assert said.endswith("; it was given pixel_values (6, 3, 16, 16)); correct its processor or choose another model")


def test_a_processor_that_makes_unequal_sizes_is_refused(tmp_path: Path) -> None:
    said = refused_pictures(tmp_path, ViTImageProcessor(do_resize=False))
    assert said == (
        "model.uri: the image processor makes pictures of different sizes (10x12 and 12x40 pixels), and a model reads "
        "one size; set do_resize and do_center_crop in its preprocessor_config.json"
    )


def test_a_processor_for_other_channels_is_refused(tmp_path: Path) -> None:
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 4, image_std=[0.5] * 4)
    said = refused_pictures(tmp_path, processor)
    assert "the image processor of file:///model cannot make one batch of " in said
    assert "(ValueError: mean must have 3 elements if it is an iterable, got 4)" in said


def test_an_end_token_inside_a_text_of_an_encoder_decoder_is_refused_by_its_row(tmp_path: Path) -> None:
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    rest = {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
    ids = {
        "vocab_size": tiny.VOCABULARY,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "decoder_start_token_id": 2,
    }
    base = tiny.save_model(tmp_path / "model", tiny.SEQUENCE, BartConfig(**shape, **rest, **ids, num_labels=3))
    tokenizer = tiny.tokenizer(pad=True)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    tokenizer.save_pretrained(base)
    rows = [{"text": f"w{n}", "label": tiny.LABELS[n % 3]} for n in range(36)]
    measured = tiny.write_rows(tmp_path / "e.jsonl", rows[30:])
    rows[4]["text"] += " <end> w1"
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows[:30])
    measured = tiny.write_rows(
        tmp_path / "e.jsonl", [{"text": f"w{n}", "label": tiny.LABELS[n % 3]} for n in range(30, 36)]
    )
    with pytest.raises(InvalidError) as refused:
        prepare(tiny.run_config(tiny.SEQUENCE, base, data, measured), tiny.paths_in(tmp_path))
    assert str(refused.value) == (
        "dataset.columns.text: 1 of 30 rows have another number of the token <end> than the usual 1, the first one at "
        "rows.jsonl:5; models of type bart need equally many in all rows, so remove it from the text"
    )


def test_a_large_model_is_tried_by_a_few_layers_and_is_whole_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LARGE", 0)
    model = tiny.AUTO_CLASSES[tiny.CAUSAL_LM].from_config(tiny.llama())
    layers = torch.nn.ModuleList([*model.model.layers, *model.model.layers])
    model.model.layers = layers
    with trial._few_layers(model):
        assert len(model.model.layers) == trial.LAYERS_OF_LARGE
    assert model.model.layers is layers


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("inhomogeneous SECRET"), InvalidError),
        (KeyError("SECRET"), InvalidError),
        (OSError(28, "No space left on device"), OSError),
        (MemoryError(), MemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), RuntimeError),
        (type("ReadTimeout", (Exception,), {"__module__": "httpx"})("timed out"), Exception),
    ],
)
def test_only_faults_of_data_and_model_are_refusals(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised, as_refusal("dataset.uri", "check the rows", quote=False):
        raise error
    assert isinstance(raised.value, InvalidError) == (kind is InvalidError)


def test_a_librarys_message_is_shown_only_where_it_cannot_hold_rows(capsys: pytest.CaptureFixture[str]) -> None:
    sentences = []
    for quote in (False, True):
        with pytest.raises(InvalidError) as refused, as_refusal("model.uri", "choose another model", quote):
            raise ValueError("SECRET\nmore")
        sentences.append(str(refused.value))
    assert sentences == [
        "model.uri: it cannot be prepared (ValueError); choose another model",
        "model.uri: it cannot be prepared (ValueError: SECRET); choose another model",
    ]
    assert "SECRET" not in capsys.readouterr().err.replace('ValueError("SECRET', "")
