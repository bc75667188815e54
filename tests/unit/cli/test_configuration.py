"""The operator's configuration file: what it says holds, and what is wrong in it is told by its key."""

from pathlib import Path

import pytest

from finetune_operator.cli.configuration import read_settings
from finetune_operator.cli.errors import UsageError
from finetune_operator.core.settings import Network, Settings

COMPLETE = """
trainerImage: registry.example/trainer:2
storageClaimName: models
allowRemoteCode: true
allowPickleWeights: true
networkPolicy:
  egress: [{ports: [{port: 443}]}]
  operator: {podSelector: {}}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_every_key_becomes_a_setting(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, COMPLETE), None) == Settings(
        image="registry.example/trainer:2",
        claim="models",
        allow_remote_code=True,
        allow_pickle_weights=True,
        network=Network(({"ports": [{"port": 443}]},), {"podSelector": {}}),
    )


@pytest.mark.parametrize("text", ["", "{}"], ids=["empty", "no keys"])
def test_without_keys_nothing_is_allowed_and_no_policy_is_made(tmp_path: Path, text: str) -> None:
    assert read_settings(written(tmp_path, text), None) == read_settings(None, None)
    assert read_settings(None, None) == Settings(image="finetune-trainer:latest")


def test_the_command_line_s_image_wins(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, COMPLETE), "mine:1").image == "mine:1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainerImages: x", ["trainerImages", "is no key"]),
        ("trainerImage: 3", ["trainerImage", "3 is wrong"]),
        ("trainerImage: ''", ["trainerImage", "at least 1 character"]),
        ("allowRemoteCode: 'yes'", ["allowRemoteCode", "'yes' is wrong", "boolean"]),
        ("networkPolicy: {egress: {}}", ["networkPolicy.egress", "{} is wrong", "list"]),
        ("networkPolicy: {egress: [443]}", ["networkPolicy.egress.0", "443 is wrong"]),
        ("- a", ["the file", "['a'] is wrong"]),
        ("{", ["is not YAML"]),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence_with_its_key(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        read_settings(path, None)
    (sentence,) = raised.value.sentences
    assert path in sentence
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config: .* cannot be read \(No such file"):
        read_settings(str(tmp_path / "none.yaml"), None)
