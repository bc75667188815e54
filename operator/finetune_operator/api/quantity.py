"""Parsing of Kubernetes quantities such as 500m, 4 or 16Gi, so that the operator can compare them."""

from __future__ import annotations

import re
from decimal import Decimal

_PATTERN = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?")
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def parse_quantity(text: int | str) -> Decimal:
    """Return the number that a quantity stands for.

    The grammar is that of k8s.io/apimachinery/pkg/api/resource, but an exponent has at most two digits, because both
    implementations would expand 1e999999999 to all its digits. Raises ValueError for any other text.
    """
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix, exponent = match.groups()
    if exponent is not None:
        return Decimal(number).scaleb(int(exponent))
    return Decimal(number) * _SUFFIXES.get(suffix, Decimal(1))


def is_quantity(text: int | str) -> bool:
    """Return whether `parse_quantity` accepts a value."""
    try:
        parse_quantity(text)
    except ValueError:
        return False
    return True
