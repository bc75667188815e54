"""Redaction removes every planted credential and leaves ordinary text unchanged."""

from __future__ import annotations

import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.agent.redaction import MASK, MAX_KEY_LINES, KeyBlocks, redact, redactor

ALPHANUMERIC = string.ascii_letters + string.digits
PRINTABLE = "".join(character for character in string.printable if not character.isspace())


def chars(alphabet: str, least: int, most: int = 60) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most)


TOKENS = st.one_of(
    st.builds("hf_{}".format, chars(ALPHANUMERIC, 20)),
    st.builds("gh{}_{}".format, st.sampled_from("opsur"), chars(ALPHANUMERIC, 36)),
    st.builds("github_pat_{}".format, chars(ALPHANUMERIC + "_", 30)),
    st.builds("glpat-{}".format, chars(ALPHANUMERIC + "_-", 20)),
    st.builds("{}{}".format, st.sampled_from(["AKIA", "ASIA"]), chars(string.ascii_uppercase + string.digits, 16, 16)),
    st.builds("sk-{}".format, chars(ALPHANUMERIC, 40)),
    st.builds("sk-proj-aB1{}".format, chars(ALPHANUMERIC + "_-", 20)),
    st.builds("nvapi-{}".format, chars(ALPHANUMERIC, 40)),
    st.builds("{}{}".format, st.sampled_from(["api_org_", "npm_", "dckr_pat_", "sk_live_"]), chars(ALPHANUMERIC, 27)),
    st.builds("pypi-AgE{}".format, chars(ALPHANUMERIC + "_-", 20)),
    st.builds("xoxb-{}".format, chars(string.digits + "-", 12)),
    st.builds("eyJ{}.eyJ{}.{}".format, *[chars(ALPHANUMERIC + "_-", 20)] * 3),
)
BEFORE = st.sampled_from(["", " ", "\n", '"', "'", "(", ": ", "=", ",", "/", "ü", "😀", "it was "])
AFTER = st.sampled_from(["", " ", "\n", '"', "'", ")", ": ", "=", ",", "/", "ü", "😀", " was refused"])
NAMES = st.one_of(
    st.sampled_from(
        ["token", "password", "secret", "pwd", "pass", "api_key", "api-key", "access_key", "credential", "apiKey"]
    ),
    st.builds(
        "{}_{}".format,
        st.sampled_from(["HF", "WANDB", "my", "AWS_SECRET_ACCESS"]),
        st.sampled_from(["TOKEN", "KEY", "PASSWORD", "SECRET"]),
    ),
)
SCHEMES = ["Authorization: Bearer", "Authorization: Basic", '"authorization": "Bearer']
VALUES = chars(PRINTABLE.translate({ord(quote): None for quote in "\"'*"}), 0).map("Zq7{}".format)
"""Secret values. They begin like no other text of the tests."""
GENERATED = chars(ALPHANUMERIC, 14).map("Zq7{}".format)


@given(TOKENS, BEFORE, AFTER)
def test_no_token_that_says_what_it_is_survives(token: str, before: str, after: str) -> None:
    assert token[8:] not in redact(before + token + after)


@given(NAMES, VALUES, st.sampled_from(["", "export ", "run --", "{", "?a=b&"]), st.sampled_from(["", " next", "\n"]))
def test_no_value_behind_a_word_for_a_secret_survives(name: str, value: str, before: str, after: str) -> None:
    assert value not in redact(f"{before}{name}={value}{after}")


@given(NAMES, st.sampled_from(['"', "'"]), chars(ALPHANUMERIC + " ,;&=:/", 1).map("Zq7{}".format))
def test_no_quoted_value_survives(name: str, quote: str, value: str) -> None:
    assert value not in redact(f"{{{quote}{name}{quote}: {quote}{value}{quote}, {quote}a{quote}: 1}}")
    assert value not in redact(f"call({name}={quote}{value}{quote}, a=1)")


@given(NAMES, chars(ALPHANUMERIC + " ,;&=:/'\"\\\n", 1).map("Zq7{}".format), st.integers(1, 3))
def test_no_value_in_json_within_json_survives(name: str, value: str, depth: int) -> None:
    said = json.dumps({name: value})
    for _ in range(depth):
        said = json.dumps(said)
    assert "Zq7" not in redact(said)


@given(NAMES.filter(lambda name: name not in ("pwd", "pass")), VALUES, st.sampled_from(["", " --next", "\n"]))
def test_no_value_of_an_option_survives(name: str, value: str, after: str) -> None:
    assert value not in redact(f"run --{name} {value}{after}")


@given(st.sampled_from(["key", "sort_key", "my key"]), st.sampled_from(["=", ": ", '="', "': '"]), GENERATED)
def test_no_generated_value_behind_a_key_of_any_kind_survives(name: str, between: str, value: str) -> None:
    assert value not in redact(f"{name}{between}{value}' and so on")


@given(st.sampled_from(["Bearer", "bearer"]), st.sampled_from([" ", "  "]), GENERATED)
def test_no_generated_value_of_a_bearer_survives(word: str, between: str, value: str) -> None:
    assert value not in redact(f"sent {word}{between}{value} to the hub")


@given(st.sampled_from(SCHEMES), chars(ALPHANUMERIC + "._~+/=-", 8))
def test_no_credential_of_a_request_survives(word: str, value: str) -> None:
    assert value not in redact(f"sent {word} {value} to the hub")


@given(
    st.sampled_from(["https", "http", "s3", "git+ssh", "postgresql"]),
    chars(ALPHANUMERIC, 1),
    chars(ALPHANUMERIC + "%!$&*+,;=:@-._~", 3),
)
def test_no_credential_of_a_url_survives_and_its_host_does(scheme: str, user: str, password: str) -> None:
    shown = redact(f"from {scheme}://{user}:{password}@hub.example:8080/models/bert?x=1 it came")
    assert shown == f"from {scheme}://***@hub.example:8080/models/bert?x=1 it came"
    assert "alone" not in redact(f"{scheme}://alonealonealonealone@hub.example/")


@given(chars(PRINTABLE, 8), BEFORE, AFTER)
def test_no_secret_of_the_environment_survives(value: str, before: str, after: str) -> None:
    assert value not in redactor({"MY_TOKEN": value})(before + value + after).replace(MASK, "")


MARKS = st.sampled_from(
    [*"=:;\"'\\ .-/@5", "://", " --", "must", "key", "Cookie: ", "a=", "Bearer ", "Authorization: "]
)


@given(st.one_of(st.text(), st.lists(st.one_of(TOKENS, VALUES, NAMES, BEFORE, AFTER, MARKS)).map("".join)))
def test_redacting_twice_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


WORDS = st.one_of(
    *map(
        st.from_regex,
        [
            r"\A(/[a-z0-9._-]{1,12}){1,5}\Z",  # paths
            r"\A(sha256:)?[0-9a-f]{64}\Z",
            r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z",
            r"\A(hf|workspace|pvc|file|https)://[a-z0-9-]{1,12}/[A-Za-z0-9._-]{1,15}\Z",
            r"\A[a-z]{2,10}-[a-z]{2,10}/[A-Za-z]{2,10}-[0-9]{1,3}[bB]-[a-z]{2,10}\Z",  # names on the hub
            r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z",
            r"\A(step|loss|epoch|lr|max_tokens|pad_token_id)=[0-9.e-]{1,8}\Z",
        ],
    ),
    st.floats().map(str),
    st.sampled_from(["Rank", "was killed by", "(SIGKILL);", "3/30,", "loss:", "the tokenizer has no pad token."]),
)


@given(st.lists(WORDS).map(" ".join))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "sentence",
    [
        "model.uri: hf://org/name does not exist on the hub or is not yours to read; "
        "correct it, or put a token in the secret that model.secretName names",
        'CreateContainerConfigError: secret "hub" not found',
        "CreateContainerConfigError: couldn't find key HF_TOKEN in Secret legal/hub",
        "KeyError: 'text'",
        "dataset.columns.text: column key: not in the data",
        "pad_token=<pad> eos_token=</s> pad_token_id=0 max_tokens=512 tokens: 1234, 686 tokens/s",
        "TypeError: __init__() got an unexpected keyword argument 'token'",
        "size mismatch for attn.key.weight: torch.Size([64]), monkey=3, keys=['a', 'b']",
        "https://hub.example/a@b/c?mail=a@b.example",
        "Bearer of bad news",
        "sk-learn, task-specific, hf_hub_download, ghp_, AKIA, eyJ",
        "default/bert-sk-sentiment-classification/runs/1-2a27535b/output",
        "sk-learn-comparison-baseline-1",
        "0/3 nodes are available: 3 node(s) had untolerated taint {key=nvidia.com/gpu: present}",
        "taint(s) key: nvidia.com/gpu-a100-80gb",
        "Missing key: encoder.layer.0.attention.weight",
        "Missing key: customer_id_2024_final_v1",
        "KeyError: key=labels",
        "sort key=lambda x: x; primary key=id; num_key=4",
        '{"key": "text", "token": 17}',
        "token=5",
        "max_token=512, new_token = 3. sep-token=x",
        "token=None",
        "run --max-token 512 --pad-token <pad>",
        "the option --token is required, --password must be set, --token --password",
        "password: must be set",
        "secret: not found",
        "a bearer certificate",
        "non-existent secret key: config-v1.json",
        "PWD=/workspace/output",
        "a cookie: none; Set-Cookie: missing",
    ],
)
def test_sentences_that_speak_of_secrets_are_unchanged(sentence: str) -> None:
    assert redact(sentence) == sentence


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('{\\"token\\": \\"s3cr3t\\"}', '{\\"token\\": \\"***\\"}'),
        ('{\\"password\\":\\"a\\\\\\"b\\",\\"n\\":1}', '{\\"password\\":\\"***\\",\\"n\\":1}'),
        ("train --token X --epochs 3", "train --token *** --epochs 3"),
        ("train --hf-token abc", "train --hf-token ***"),
        ("train --password X", "train --password ***"),
        ("train --password 12345", "train --password ***"),
        ("train --api-key X", "train --api-key ***"),
        ("train --api-key=X", "train --api-key=***"),
        ("Command '['train', '--token', 'abc']'", "Command '['train', '--token', '***']'"),
        ("pwd=hunter2", "pwd=***"),
        ("DB_PASS=hunter2", "DB_PASS=***"),
        ('{"pwd": "hunter2"}', '{"pwd": "***"}'),
        ("password: hunter2", "password: ***"),
        ("password:  swordfish", "password:  ***"),
        ("password=must", "password=***"),
        ("password=5", "password=***"),
        ("Bearer  abcdefghijklmnop", "Bearer  ***"),
        ("Bearer s3cr3tvalue", "Bearer ***"),
        ("Authorization:  Bearer abc", "Authorization:  ***"),
        ('Cookie: session=abc; id="d e"; x=y', "Cookie: ***"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': '***'}"),
        ("curl -H 'Cookie: session=abc; id=d' x", "curl -H 'Cookie: ***' x"),
        ("Set-Cookie: sid=abc; HttpOnly\nnext", "Set-Cookie: ***\nnext"),
        ("{'Set-Cookie': 'sid=abc; HttpOnly', 'a': 1}", "{'Set-Cookie': '***', 'a': 1}"),
        ("api_org_ABCDEFGHIJKLMNOPQRSTUVWXYZ", "***"),
        ("npm_abcdefghijklmnopqrstuvwxyz0123456789", "***"),
        ("pypi-AgEIcHlwaS5vcmcabcdefghijkl", "***"),
        ("dckr_pat_abcdefghijklmnopqrstuv", "***"),
        ("sk_live_abcdefghijkl rk_live_abcdefghijkl", "*** ***"),
        ("nvapi-abcdefghijklmnopqrstuvwxyz", "***"),
        ("sk-0123456789abcdef0123456789abcdef", "***"),
        ("sk-ant-api03-aB1_cdefghijklmnop-qrstuv", "***"),
        ("x-api-key: 0123456789abcdef0123", "x-api-key: ***"),
        ("key: 0123456789abcdef0123", "key: ***"),
        ("MASTER_KEY=abc", "MASTER_KEY=***"),
    ],
)
def test_credentials_in_every_form_are_replaced(said: str, shown: str) -> None:
    assert redact(said) == shown
    assert redact(shown) == shown


def test_a_private_key_is_replaced_as_a_whole() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADAN\nbm90IGEga2V5\n-----END RSA PRIVATE KEY-----"
    assert redact(f"read {key} from disk") == "read *** from disk"
    assert redact(f"read {key[:50]}") == "read ***"


BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
BEGIN = "-----BEGIN RSA PRIVATE KEY-----"
END = "-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([f"read {BEGIN}", BODY, "bm90==", f"{END} on disk", BODY], ["read ***", "***", "***", "*** on disk", BODY]),
        ([BEGIN, "Proc-Type: 4,ENCRYPTED", "DEK-Info: AES, 0A", "", f"{BODY}\r", END, "x"], ["***"] * 6 + ["x"]),
        ([BEGIN, f"INFO: {BODY}", f"INFO: {END}", "x"], ["***", "***", "***", "x"]),
        ([f"{BEGIN}{BODY}{END}", "x"], ["***", "x"]),
        ([BEGIN, f"{END} {BEGIN}", BODY, END, "x"], ["***", "*** ***", "***", "***", "x"]),
        ([f"no key: not {BEGIN}", "it is not one; token=5"], ["no key: not ***", "it is not one; token=5"]),
        ([BEGIN, "rank 3: password=x"], ["***", "rank 3: password=***"]),
        ([BEGIN, *["x"] * (MAX_KEY_LINES + 1)], ["***"] * (MAX_KEY_LINES + 1) + ["x"]),
    ],
)  # fmt: skip
def test_no_line_of_a_private_key_survives(lines: list[str], shown: list[str]) -> None:
    assert list(map(KeyBlocks(redact), lines)) == shown


@pytest.mark.parametrize("unit", [BEGIN, END, f"{BEGIN}{END}", " ", "A" * 31 + " ", "A"])
def test_a_hostile_line_within_a_key_takes_no_longer_than_its_length(unit: str) -> None:
    known = KeyBlocks(redact)
    known(BEGIN)
    begun = time.process_time()
    known(unit * (64 * 1024 // len(unit)) + "!")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "aws_secret_access_id", "DB_PASSWORD", "WANDB_API_KEY", "DB_PASSWD", "DB_PASS", "PASS_1", "PASS",
     "HUB_CREDENTIAL", "MY_CREDENTIALS", "MYSQL_PWD"],
)  # fmt: skip
def test_values_of_variables_that_look_like_secrets_are_replaced(name: str) -> None:
    assert redactor({name: "s3cr.t+x"})("it is s3cr.t+x, s3crxt+x") == "it is ***, s3crxt+x"


def test_short_values_and_other_variables_are_left_alone() -> None:
    known = redactor(
        {
            "TOKENIZERS_PARALLELISM": "false",
            "HOME": "/root/somewhere",
            "PATH": "/usr/bin",
            "PWD": "/workspace",
            "COMPASS": "northwest",
        }
    )
    assert (
        known("false in /root/somewhere, /usr/bin /workspace northwest")
        == "false in /root/somewhere, /usr/bin /workspace northwest"
    )


def test_a_secret_within_another_and_each_line_of_a_long_one_are_replaced() -> None:
    known = redactor({"A_KEY": "abcdefgh", "B_KEY": "abcdefghij", "C_KEY": "-----BEGIN-----\nMIIEvQIBADAN\n"})
    assert known("abcdefghij MIIEvQIBADAN") == "*** ***"


@pytest.mark.parametrize(
    "unit",
    ["a.", "-eyJ", "password ", "token:", "key: ", "://", "a://", "sk-", "-----BEGIN PRIVATE KEY-----", "secret='",
     "authorization:", "bearer ", "A", '"token"', 'token":"', "hf_", "password=", "token: a",
     "_sk-", "sk-a", "nvapi-", "--token ", "--a-a-a-", "cookie: ", "cookie: a=", 'cookie: a="', '\\"', '"token\\": \\"',
     'key\\\\"', "key=", "key: a1", "key=aA1", "bearer a", "pass=", "token=5", "password: must ", "\\", "token  "],
)  # fmt: skip
def test_a_hostile_line_takes_no_longer_than_its_length(unit: str) -> None:
    line = unit * (64 * 1024 // len(unit))
    begun = time.process_time()
    redact(line)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("ends", [("key: ", ".a"), ("bearer ", "!"), ("--token ", " "), ('\\"key\\": \\"', "/a")])
def test_a_hostile_value_takes_no_longer_than_its_length(ends: tuple[str, str]) -> None:
    begun = time.process_time()
    redact(ends[0] + "a1" * (32 * 1024) + ends[1])
    assert time.process_time() - begun < 5


def test_json_stays_json() -> None:
    said = '{"token": "abc", "password":"x y", "user": "me"}'
    assert redact(said) == '{"token": "***", "password":"***", "user": "me"}'
