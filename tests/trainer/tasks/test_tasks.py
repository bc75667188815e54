"""How each task encodes and batches rows, and computes loss and metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from PIL import Image
from trainer import chat_templates, tiny

from finetune_trainer.contract import TASKS
from finetune_trainer.tasks import IGNORED, Settings, task_of
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.image_classification import opaque
from finetune_trainer.tasks.supervision import completion, text

END = "<end>"


def settings(model: Any, length: int = 32, pad: bool = True, template: str | None = tiny.CHAT_TEMPLATE) -> Settings:
    return Settings(tiny.tokenizer(pad, template), model, length)


def learned(tokenizer: Any, supervised: Any) -> list[str]:
    ids = [token for token, counts in zip(*supervised, strict=True) if counts]
    return tokenizer.convert_ids_to_tokens(ids)


def causal_rows(**columns: list[Any]) -> datasets.Dataset:
    count = len(next(iter(columns.values())))
    return datasets.Dataset.from_dict({"id": [f"rows.jsonl:{n + 1}" for n in range(count)], **columns})


def test_a_text_is_learned_to_its_end() -> None:
    tokenizer = tiny.tokenizer(pad=True)
    assert learned(tokenizer, text(tokenizer, "w1 w2")) == ["w1", "w2", END]


def test_an_end_that_the_tokenizer_adds_is_not_doubled() -> None:
    tokenizer = tiny.tokenizer(pad=True)
    assert learned(tokenizer, text(tokenizer, f"w1 {END}")) == ["w1", END]


def test_only_a_completion_and_its_end_are_learned() -> None:
    tokenizer = tiny.tokenizer(pad=True)
    supervised = completion(tokenizer, "w1 w2", " w3 w4")
    assert learned(tokenizer, supervised) == ["w3", "w4", END]
    assert tokenizer.decode(supervised.ids) == f"w1 w2 w3 w4 {END}"


def test_a_token_that_spans_the_border_to_the_completion_is_learned() -> None:
    tokenizer = chat_templates.tokenizer(None)
    supervised = completion(tokenizer, "is the weat", "her warm")
    assert tokenizer.decode([token for token, counts in zip(*supervised, strict=True) if counts]) == " weather warm</s>"


def test_notes_about_chats_are_given_to_the_caller() -> None:
    messages = [{"role": "user", "content": "w1", "name": "w9"}, {"role": "assistant", "content": "w2 w3"}]
    notes: list[str] = []
    encoded = CausalLM().encode(
        causal_rows(messages=[json.dumps({"messages": messages})] * 2), settings(tiny.llama()), notes
    )
    assert encoded["count"] == [3, 3]
    assert notes == ["dataset.columns.messages: the chat template of the model does not use 'name', which 2 rows have"]


def test_rows_are_cut_and_counted() -> None:
    rows = causal_rows(prompt=["w1 w2 w3", "w1 w2 w3 w4 w5 w6"], completion=[" w4 w5 w6", " w7"])
    encoded = task_of("CausalLM").encode(rows, settings(tiny.llama(), length=5))
    assert encoded["length"] == [5, 5]
    assert encoded["count"] == [2, 0]
    assert encoded["cut"] == [True, True]
    assert encoded[1]["labels"] == [IGNORED] * 5


def test_a_row_is_not_longer_than_the_model_has_positions() -> None:
    rows = causal_rows(text=["w1 " * 100])
    assert task_of("CausalLM").encode(rows, settings(tiny.llama(), length=1000))["length"] == [64]


def test_padding_is_known_by_its_place_and_not_by_its_id() -> None:
    task = task_of("CausalLM")
    config = settings(tiny.gpt2(), pad=False)
    encoded = task.encode(causal_rows(text=["w1", f"w1 {END} w2 w3"]), config)
    batch = task.collate(encoded[:], [1, 1], config)
    assert batch.features["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert (batch.labels == IGNORED).tolist() == [[False, False, True, True, True], [False] * 5]


def test_the_loss_is_the_sum_over_supervised_tokens() -> None:
    task = task_of("CausalLM")
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[1, IGNORED, 3, 4], [IGNORED, 2, IGNORED, IGNORED]])
    expected = 0.0
    for row, place in ((0, 2), (0, 3), (1, 1)):
        expected -= math.log(torch.softmax(logits[row, place - 1], -1)[labels[row, place]])
    assert float(task.loss_sum(*task.aligned(logits, labels))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["CausalLM", "SequenceClassification", "ImageClassification"])
def test_a_batch_without_weight_has_no_loss_and_zero_gradients(name: Any) -> None:
    task = task_of(name)
    shape = (2, 3, 5) if name == "CausalLM" else (2, 5)
    logits = torch.randn(shape, requires_grad=True)
    loss = task.loss_sum(*task.aligned(logits, torch.full(shape[:-1], IGNORED)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_rows_that_fill_up_have_no_label() -> None:
    task = task_of("SequenceClassification")
    config = settings(tiny.bert())
    rows = causal_rows(text=["w1", "w2 w3"]).add_column("label", [2, 1])
    batch = task.collate(task.encode(rows, config)[:], [1, 0], config)
    assert batch.labels.tolist() == [2, IGNORED]


def test_pictures_are_stored_with_their_bytes(tmp_path: Path) -> None:
    tiny.pictures(tmp_path, 3)
    files = sorted(tmp_path.rglob("*.png"))
    rows = datasets.Dataset.from_dict(
        {"id": [file.name for file in files], "image": [{"bytes": None, "path": str(file)} for file in files]},
        features=datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()}),
    ).add_column("label", [0, 1, 2])
    task = task_of("ImageClassification")
    encoded = task.encode(rows, Settings(None, tiny.vit(), 0))
    for file in files:
        file.unlink()
    assert [picture.size for picture in encoded[:]["image"]] == [(12, 10)] * 3


def test_accuracy_and_macro_f1_are_those_of_their_definitions() -> None:
    task = task_of("SequenceClassification")
    predicted, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    values = {}
    for name in ("accuracy", "f1"):
        metric = task.metric(name, 3)
        assert metric is not None
        for part in (slice(0, 2), slice(2, 6)):
            metric.update(torch.nn.functional.one_hot(predicted[part], 3).float(), labels[part])
        values[name] = float(metric.compute())
    assert values["accuracy"] == pytest.approx(4 / 6)
    # Precision and recall of the classes are 1/2 and 1/2, 1 and 1/2, 2/3 and 1.
    assert values["f1"] == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)


@pytest.mark.parametrize("name", TASKS)
def test_an_entry_and_its_implementation_name_the_same_classes_of_transformers(name: Any) -> None:
    entry, task = TASKS[name], task_of(name)
    assert task.auto_class is getattr(transformers, entry.auto_class)
    assert hasattr(transformers, entry.processor_class)
    assert task.model_types


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_of_an_entry_can_be_measured(name: Any) -> None:
    entry, task = TASKS[name], task_of(name)
    for metric in entry.metrics:
        assert (task.metric(metric, classes=3) is None) == (metric == "perplexity")


@pytest.mark.parametrize("name", TASKS)
def test_an_entry_has_a_tag_that_the_card_shows(name: Any) -> None:
    assert TASKS[name].pipeline.replace("-", "").isalpha()


def picture_batch(picture: Image.Image, processor: Any) -> Any:
    task = task_of(tiny.IMAGE)
    return task.collate({"image": [picture], "label": [0]}, [1], Settings(processor, tiny.vit(), 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_picture_is_learned_as_it_looks_on_white(mode: str, tmp_path: Path) -> None:
    """The colour below a transparent pixel is arbitrary; it depends on the program that wrote the picture."""
    processor = tiny.save_model(tmp_path, tiny.IMAGE, tiny.vit()) and task_of(tiny.IMAGE).load_processor(
        tmp_path, False
    )
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    if mode == "P":
        hidden = Image.new("P", (8, 8), 0)
        hidden.putpalette([0, 0, 0])
        hidden.info["transparency"] = 0
    else:
        hidden = transparent.convert(mode)
    white = picture_batch(Image.new("RGB", (8, 8), "white"), processor).features["pixel_values"]
    assert torch.equal(picture_batch(hidden, processor).features["pixel_values"], white)


def test_a_half_transparent_picture_is_blended_with_white() -> None:
    assert opaque(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).convert("RGB").getpixel((0, 0)) == (127, 127, 127)
    picture = Image.new("RGB", (1, 1), "red")
    assert opaque(picture) is picture


def test_all_that_a_processor_returns_reaches_the_model() -> None:
    def processor(images: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(1, 3, 8, 8), "pixel_mask": torch.ones(1, 8, 8)}

    assert set(picture_batch(Image.new("RGB", (8, 8)), processor).features) == {"pixel_values", "pixel_mask"}
