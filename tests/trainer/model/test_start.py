"""The start checkpoint, and which of its parameters are trained: heads, new parameters and adapters."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from models_table.small_config import small_config
from trainer import chat_templates, tiny
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, ResNetConfig, SiglipConfig

from finetune_trainer import contract
from finetune_trainer.contract import RunConfig
from finetune_trainer.errors import InvalidError
from finetune_trainer.model.load import load_model
from finetune_trainer.model.prepare import Prepared, prepare
from finetune_trainer.pod.paths import Paths
from finetune_trainer.tasks import task_of

LORA = contract.Lora(rank=2, alpha=4.0, dropout=0.0)


def prepared(
    folder: Path, task: str, model: Any, body_only: bool = False, **changes: Any
) -> tuple[RunConfig, Prepared, Paths]:
    """Prepare a run and return what its ranks load."""
    base = tiny.save_model(folder / "model", task, model, body_only)
    rows = tiny.make_rows(folder / "train", task, 12)
    paths = tiny.paths_in(folder)
    config = tiny.run_config(task, base, rows, tiny.make_rows(folder / "evaluation", task, 6), **changes)
    prepare(config, paths)
    return config, Prepared.load(config, paths), paths


def another_run(config: RunConfig, **changes: Any) -> RunConfig:
    """Return another run of the same job, because the attempts of one run share what the first has prepared."""
    return config.model_copy(update={"folder": "runs/2-abcdef12", **changes})


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted(model: torch.nn.Module) -> set[str]:
    """Return the last names of the layers with an adapter."""
    return {name.split(".lora_A")[0].rpartition(".")[2] for name in trained(model) if "lora_A" in name}


def test_a_head_of_another_size_is_replaced_and_the_body_kept(tmp_path: Path) -> None:
    config, start, _ = prepared(tmp_path, tiny.IMAGE, tiny.vit(labels=10))
    assert start.new_parameters == ("classifier.bias", "classifier.weight")
    model = load_model(config, start, {})
    assert model.config.id2label == dict(enumerate(tiny.LABELS))
    assert model.classifier.weight.shape[0] == len(tiny.LABELS)
    base = tiny.AUTO_CLASSES[tiny.IMAGE].from_pretrained(tmp_path / "model")
    for name, weight in base.vit.state_dict().items():
        assert torch.equal(model.vit.state_dict()[name], weight), name


def test_new_parameters_are_drawn_by_the_seed(tmp_path: Path) -> None:
    heads = []
    for folder, seed in (("one", 1), ("same", 1), ("other", 2)):
        config, start, _ = prepared(tmp_path / folder, tiny.SEQUENCE, tiny.bert(), body_only=True, seed=seed)
        heads.append(load_model(config, start, {}).classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_start_checkpoint_may_be_read_by_the_workspaces_group(tmp_path: Path) -> None:
    _, start, _ = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    assert {stat.S_IMODE(path.stat().st_mode) for path in start.start.iterdir()} == {0o664}


def test_what_the_base_lacks_is_trained_in_full_beside_an_adapter(tmp_path: Path) -> None:
    bert = tiny.bert()
    base = tiny.AUTO_CLASSES[tiny.CAUSAL_LM].from_config(tiny.bert(is_decoder=True))
    config, start, paths = prepared(tmp_path, tiny.SEQUENCE, bert, lora=LORA)
    # The checkpoint of a language model has no pooler.
    base.save_pretrained(tmp_path / "model")
    bert.save_pretrained(tmp_path / "model")
    config = another_run(config)
    prepare(config, paths)
    start = Prepared.load(config, paths)
    assert "bert.pooler.dense.weight" in start.new_parameters
    names = trained(load_model(config, start, {}))
    for module in ("bert.pooler.dense", "classifier"):
        assert f"base_model.model.{module}.modules_to_save.default.weight" in names
    others = {name for name in names if "modules_to_save" not in name}
    assert others
    assert all("lora_" in name for name in others)
    assert not any("pooler" in name or "classifier" in name for name in others)


def test_every_linear_layer_but_the_head_has_an_adapter(tmp_path: Path) -> None:
    config, start, _ = prepared(tmp_path, tiny.CAUSAL_LM, tiny.llama(), lora=LORA)
    model = load_model(config, start, {})
    assert adapted(model) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("lora_" in name for name in trained(model))


def test_target_modules_may_be_chosen(tmp_path: Path) -> None:
    lora = LORA.model_copy(update={"target_modules": ("attention.self.query", "value")})
    config, start, _ = prepared(tmp_path, tiny.SEQUENCE, tiny.bert(), lora=lora)
    assert adapted(load_model(config, start, {})) == {"query", "value"}


def test_only_the_head_of_a_classifier_with_another_prefix_is_trained_in_full(tmp_path: Path) -> None:
    tower = {**tiny.SHAPE, "image_size": tiny.IMAGE_SIZE, "patch_size": 4}
    siglip = SiglipConfig(vision_config=tower, text_config=tiny.SHAPE, num_labels=len(tiny.LABELS))
    config, start, _ = prepared(tmp_path, tiny.IMAGE, siglip, lora=LORA)
    model = load_model(config, start, {})
    in_full = {name for name in trained(model) if "lora_" not in name}
    assert in_full == {f"base_model.model.classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")}
    assert {"q_proj", "v_proj", "fc1", "fc2"} <= adapted(model)


def test_layers_that_cannot_be_adapted_are_refused_by_name(tmp_path: Path) -> None:
    lora = LORA.model_copy(update={"target_modules": ("query", "attention")})
    config, start, _ = prepared(tmp_path, tiny.SEQUENCE, tiny.bert(), lora=lora)
    with pytest.raises(InvalidError, match=r"method\.targetModules: attention is no layer .* can have an adapter"):
        load_model(config, start, {})


def test_batch_normalisation_refuses_an_adapter(tmp_path: Path) -> None:
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=len(tiny.LABELS))
    config, start, _ = prepared(tmp_path, tiny.IMAGE, resnet, lora=LORA)
    with pytest.raises(InvalidError, match=r"method\.type: LoRA cannot train a model with batch normalisation"):
        load_model(config, start, {})


def test_an_adapter_is_in_the_precision_of_its_base(tmp_path: Path) -> None:
    config, start, _ = prepared(tmp_path, tiny.CAUSAL_LM, tiny.gpt2(), lora=LORA, precision="bf16")
    assert {parameter.dtype for parameter in load_model(config, start, {}).parameters()} == {torch.bfloat16}


def test_a_classifier_without_pad_token_gets_one_of_its_own(tmp_path: Path) -> None:
    _, start, _ = prepared(tmp_path, tiny.SEQUENCE, tiny.gpt2(num_labels=len(tiny.LABELS)))
    tokenizer = start.settings.processor
    model_config = AutoConfig.from_pretrained(start.start)
    assert tokenizer.pad_token_id == model_config.pad_token_id
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert model_config.vocab_size == len(tokenizer) == tiny.VOCABULARY + 1
    assert not any(tokenizer.pad_token_id in row for row in start.train["input_ids"])


@pytest.mark.parametrize(
    ("task", "model"),
    [
        (tiny.SEQUENCE, tiny.gpt2(num_labels=len(tiny.LABELS))),
        (tiny.SEQUENCE, tiny.bert()),
        (tiny.CAUSAL_LM, tiny.gpt2()),
        (tiny.CAUSAL_LM, tiny.llama()),
    ],
    ids=["gpt2 classifies", "bert classifies", "gpt2", "llama"],
)
def test_padding_changes_no_loss(task: Any, model: Any, tmp_path: Path) -> None:
    config, start, _ = prepared(tmp_path, task, model)
    made = load_model(config, start, {}).eval()

    def loss(rows: list[int]) -> float:
        batch = task_of(task).collate(start.train[rows], [1] * len(rows), start.settings)
        logits = made(**batch.features).logits
        return float(task_of(task).loss_sum(*task_of(task).aligned(logits, batch.labels)))

    rows = list(range(len(start.train)))
    assert len(set(start.train["length"])) > 3
    with torch.no_grad():
        assert loss(rows) == pytest.approx(sum(loss([row]) for row in rows), rel=1e-5)


def test_a_metric_that_does_not_fit_the_task_is_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    with pytest.raises(InvalidError, match=r"evaluate\.metrics: perplexity does not fit task SequenceClassification"):
        prepare(another_run(config, metrics=("perplexity",)), paths)


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    for file in (tmp_path / "model").glob("*token*"):
        file.unlink()
    with pytest.raises(InvalidError, match=r"model\.uri: .* has no usable tokenizer"):
        prepare(another_run(config), paths)


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InvalidError, match=r"model\.uri: .* cannot be loaded"):
        prepare(another_run(config), paths)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    other = tiny.AUTO_CLASSES[tiny.CAUSAL_LM].from_config(tiny.llama())
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model" / "model.safetensors")
    with pytest.raises(InvalidError, match=r"model\.uri: the weights of .* have none of the names"):
        prepare(another_run(config), paths)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    AutoConfig.from_pretrained(tmp_path / "model", num_hidden_layers=3).save_pretrained(tmp_path / "model")
    with pytest.raises(InvalidError, match=r"model\.uri: the weights of .* lack bert\.encoder\.layer\.2\."):
        prepare(another_run(config), paths)


def test_a_part_of_a_larger_model_that_cannot_be_loaded_alone_is_refused(tmp_path: Path) -> None:
    """The text part of a Mllama model loads as a language model, but not any more once it is saved alone."""
    whole = small_config("mllama", tiny.VOCABULARY)
    base = tiny.save_model(tmp_path / "model", tiny.CAUSAL_LM, whole)
    whole.save_pretrained(base)
    rows = tiny.make_rows(tmp_path, tiny.CAUSAL_LM, 12)
    config = tiny.run_config(tiny.CAUSAL_LM, base, rows)
    with pytest.raises(InvalidError) as refused:
        prepare(config, tiny.paths_in(tmp_path))
    assert str(refused.value) == (
        f"model.uri: {config.model.uri} is of type mllama, of which task CausalLM trains the part mllama_text_model, "
        "and transformers cannot load that part again when it is saved alone; use another model"
    )


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    absent = another_run(config, model=contract.Source(uri="workspace://nowhere"))
    with pytest.raises(InvalidError, match=r"model\.uri: workspace://nowhere is not a folder"):
        prepare(absent, paths)


def test_attempts_of_a_run_share_what_the_first_has_prepared(tmp_path: Path) -> None:
    config, start, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert(), body_only=True)
    before = {path: path.stat().st_mtime_ns for path in start.start.iterdir()}
    (tmp_path / "model" / "model.safetensors").unlink()
    prepare(config.model_copy(update={"attempt": 2}), paths)
    assert {path: path.stat().st_mtime_ns for path in start.start.iterdir()} == before


def test_what_an_attempt_has_half_prepared_is_prepared_anew(tmp_path: Path) -> None:
    config, start, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    weights = start.start / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    prepare(config.model_copy(update={"attempt": 2}), paths)
    assert weights.read_bytes() == whole


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config, _, paths = prepared(tmp_path, tiny.SEQUENCE, tiny.bert())
    (paths.workspace / "file").touch()
    with pytest.raises(InvalidError, match=r"storage: .* cannot be written .* uid \d+, gid \d+"):
        prepare(config.model_copy(update={"folder": "file/runs/1"}), paths)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        ("CHATML", ["<|im_end|>"]),
        ("LLAMA3", ["<|eot_id|>"]),
        ("PHI3", ["<|end|>"]),
        ("GLM4", ["</s>", "<|user|>", "<|observation|>"]),
        ("NO_END", ["</s>"]),
        ("GEMMA", ["<end_of_turn>"]),
        ("GPT_OSS", ["<|return|>"]),
    ],
)
@pytest.mark.parametrize("own", [7, [7, 8], None])
def test_generation_stops_at_the_end_of_a_turn_too(template: str, ends: list[str], own: Any) -> None:
    model = AutoModelForCausalLM.from_config(tiny.llama())
    model.generation_config.eos_token_id = own
    tokenizer = chat_templates.tokenizer(getattr(chat_templates, template))
    task_of(tiny.CAUSAL_LM).adapt(model, tokenizer, ["id", "messages"])
    own_ends = [] if own is None else [own] if isinstance(own, int) else own
    assert model.generation_config.eos_token_id == own_ends + tokenizer.convert_tokens_to_ids(ends)


def test_a_tool_call_may_end_with_a_token_of_its_own() -> None:
    calling = chat_templates.CHATML.replace("<|im_end|>", "{{ '<|call|>' if m.tool_calls else '<|im_end|>' }}")
    model, tokenizer = AutoModelForCausalLM.from_config(tiny.llama()), chat_templates.tokenizer(calling)
    task_of(tiny.CAUSAL_LM).adapt(model, tokenizer, ["messages"])
    assert model.generation_config.eos_token_id == [2, *tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|call|>"])]


def test_generation_stops_at_the_end_of_a_text_and_what_is_known_stays() -> None:
    model, tokenizer = AutoModelForCausalLM.from_config(tiny.llama()), chat_templates.tokenizer(None)
    task_of(tiny.CAUSAL_LM).adapt(model, tokenizer, ["text"])
    assert model.generation_config.eos_token_id == [2, tokenizer.eos_token_id]
    task_of(tiny.CAUSAL_LM).adapt(model, tiny.tokenizer(pad=True), ["text"])
    assert model.generation_config.eos_token_id == [2, tokenizer.eos_token_id], "2 is <end>"


def test_the_start_checkpoint_says_where_a_turn_ends(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "model", tiny.CAUSAL_LM, tiny.llama())
    tokenizer = chat_templates.tokenizer(chat_templates.CHATML)
    tokenizer.save_pretrained(base)
    answer = {"role": "assistant", "content": "good day"}
    files = [
        tiny.write_rows(tmp_path / f"{hello}.jsonl", [{"chat": [{"role": "user", "content": hello}, answer]}] * 12)
        for hello in ("hello", "good morning")
    ]
    columns = contract.Columns(messages="chat")
    config = tiny.run_config(tiny.CAUSAL_LM, base, *files, columns=columns, lora=LORA)
    paths = tiny.paths_in(tmp_path)
    prepare(config, paths)
    start = Prepared.load(config, paths)
    ends = GenerationConfig.from_pretrained(start.start).eos_token_id
    assert ends == [2, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    labels = [token for token in start.train[0]["labels"] if token >= 0]
    assert tokenizer.decode(labels) == "good day<|im_end|>"
