"""Tokenizers with chat templates like those of well-known models, and the text that a conversation supervises."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune_trainer.tasks.chat import Chat

SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]",
    "[/INST]", "[TOOL_CALLS]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|observation|>",
    "<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>", "<|message|>",
)  # fmt: skip
CORPUS = [
    "what is the weather in Vienna ? it is sunny and warm . good day hello again assistant user system tool model",
    'the answer is {"city": "Vienna"} and {"name": "look", "arguments": {}} <tool_call> <think> one two three four',
]
PROMPT = "{% if add_generation_prompt %}"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    + PROMPT
    + "<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    + PROMPT
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] {{ m.tool_calls | tojson }}{{ eos_token }}"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}" + PROMPT + "<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    + PROMPT
    + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
"""This template writes the end-of-text token after a conversation, but not before an answer is generated."""
GLM4 = (
    "{% for m in messages %}<|{{ 'observation' if m['role'] == 'tool' else m['role'] }}|>\n{{ m['content'] }}"
    "{% endfor %}" + PROMPT + "<|assistant|>\n{% endif %}"
)
"""This template ends no turn: the model stops at the token that begins the next turn."""
END_BEFORE_USER = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{% if not loop.first %}{{ eos_token }}{% endif %}"
    "User: {{ m['content'] }}\n{% else %}Bot: {{ m['content'] }}{% endif %}{% endfor %}" + PROMPT + "Bot: {% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + PROMPT + "assistant: {% endif %}"
END_BY_TEXT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ##\n{% endfor %}" + PROMPT + "assistant: {% endif %}"
)
QWEN3 = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}"
    '{% for call in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    + PROMPT
    + "<|im_start|>assistant\n{% endif %}"
)
"""This template writes reasoning only after the last question, and always in the last answer."""
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{% for call in m.tool_calls or [] %}"
    "{{ call.function.name + '\n' + call.function.arguments }}{% endfor %}{{ m.content or '' }}{{ eos_token }}"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}" + PROMPT + "<|assistant|>{% endif %}"
)
"""This template concatenates a tool call's arguments, which must be a text."""
GPT_OSS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}<|start|>assistant"
    "<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>"
    "{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}<|start|>{{ m.role }}<|message|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}" + PROMPT + "<|start|>assistant{% endif %}"
)
"""This template ends the last turn differently from earlier turns, and reasoning as it ends those earlier turns."""
IN_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    + PROMPT
    + "<|im_start|>assistant\n{% endif %}"
)
"""A template as in multimodal models: it writes nothing of a content that is a plain text."""
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}"
    "\n{% endfor %}" + PROMPT + "<|im_start|>assistant\n{% endif %}"
)


@cache
def _byte_level() -> str:
    """Return a tokenizer like those of Llama 3 and Qwen."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    return str(made.to_str())


@cache
def _sentence_piece() -> str:
    """Return a tokenizer like those of Llama 2 and Mistral.

    It adds a blank before a text and falls back to bytes.
    """
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=pieces))
    saved = json.loads(made.to_str())
    saved["added_tokens"] = saved["added_tokens"][:1]  # byte tokens are ordinary tokens
    return json.dumps(saved)


@cache
def _without_blanks() -> str:
    """Return a tokenizer that drops blanks and line breaks."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return str(made.to_str())


KINDS = {"byte level": _byte_level, "sentence piece": _sentence_piece, "without blanks": _without_blanks}


def tokenizer(template: str | None, kind: str = "byte level", **special: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with all special tokens of the templates above; its `eos_token` is </s>."""
    made = Tokenizer.from_str(KINDS[kind]())
    named: Any = {"bos_token": "<s>", "eos_token": "</s>", **special}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    fast.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast.chat_template = template
    return fast


def answers(made: Any, conversation: Any, chat: Chat | None = None) -> list[str]:
    """Return the text of each run of supervised tokens."""
    messages = conversation if isinstance(conversation, dict) else {"messages": conversation}
    ids, learned = (chat or Chat(made)).supervised(messages, "rows.jsonl:1")
    runs: list[list[int]] = []
    for place, (token, counts) in enumerate(zip(ids, learned, strict=True)):
        if counts and not (place and learned[place - 1]):
            runs.append([])
        if counts:
            runs[-1].append(token)
    return [made.decode(run) for run in runs]
