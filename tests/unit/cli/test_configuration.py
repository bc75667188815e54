"""The operator's configuration file: its values are applied, and an error names its key."""

from pathlib import Path

import pytest

from finetune_operator.cli.configuration import lease_name, read_settings
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
        ("leaseName: ''", ["leaseName", "at least 1 character"]),
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


@pytest.mark.parametrize("namespaces", [None, ["legal"]])
def test_the_lease_is_the_one_that_the_file_names(tmp_path: Path, namespaces: list[str] | None) -> None:
    assert lease_name(written(tmp_path, "leaseName: mine"), namespaces) == "mine"


def test_without_a_name_operators_of_the_same_namespaces_share_a_lease(tmp_path: Path) -> None:
    assert lease_name(None, None) == lease_name(written(tmp_path, "{}"), []) == "finetune-operator"
    assert lease_name(None, ["legal", "shop"]) == lease_name(None, ["shop", "legal", "shop"])
    names = {lease_name(None, namespaces) for namespaces in (None, ["legal"], ["shop"], ["legal", "shop"])}
    assert len(names) == 4
    assert all(name.startswith("finetune-operator") and len(name) < 64 for name in names)
