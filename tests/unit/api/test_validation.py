"""The table of specs, validated by pydantic. `tests/cluster/test_validation.py` validates it with a real API server."""

import pytest
from support.spec_table import CASES, Case

from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.api.quantity import is_quantity, parse_quantity


def test_the_table_is_large_and_every_case_has_a_name_of_its_own() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_spec_gets_its_verdict(case: Case) -> None:
    if case.refused is None:
        parse(case.manifest)
        return
    with pytest.raises(InvalidManifestError) as error:
        parse(case.manifest)
    assert case.refused in str(error.value)


@pytest.mark.parametrize(
    ("text", "number"), [("4", 4), (4, 4), ("500m", 0.5), ("1Ki", 1024), ("1e3", 1000), ("1.5G", 1.5e9)]
)
def test_a_quantity_means_a_number(text: str | int, number: float) -> None:
    assert float(parse_quantity(text)) == number


@pytest.mark.parametrize("text", ["", "four", "4 Gi", "1Gib", "--1", "1e", "Gi", "1e999999999", "1e100", "٣"])
def test_anything_else_is_no_quantity(text: str) -> None:
    assert not is_quantity(text)
