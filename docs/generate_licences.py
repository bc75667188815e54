"""Writes docs/licences.md: the product's dependencies and their licences. `make generate` runs it.

The packages are the direct and indirect dependencies of the installed distribution on this machine's platform. Their
licences come from their metadata, or from `READ` for packages whose metadata name none. A package whose licence is not
in `ALLOWED` ends the program with a message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).with_name("licences.md")
PRODUCT = "finetune-operator"

ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
        "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
        "LicenseRef-NVIDIA-Proprietary",  # for CUDA's libraries, which are only in GPU images and may be redistributed
    }
)  # fmt: skip
"""Licences whose terms apply only to their own files, so that they impose nothing on software that uses them."""
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
SYNONYMS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License 2.0": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}
READ = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # the metadata name packages of the toolkit, but no licence
}
"""Licences of packages whose metadata name none."""

HEAD = """# Licences of the dependencies

<!-- written by `make generate` from the metadata of the installed packages -->

What finetune-operator depends on, in the versions of `constraints.txt`, on Linux with CUDA. finetune-operator itself is
Apache-2.0. What only its tests use is not listed: it is in no image. `make audit` checks this page, and the versions
for known vulnerabilities.

| package | version | licence | in the images |
|---|---|---|---|
"""


class LicenceError(Exception):
    """A package's licence is not known or not allowed. The text names the package and what to do."""


@dataclass(frozen=True)
class Package:
    """A row of the table."""

    name: str
    version: str
    licence: str
    """The licence as an SPDX expression."""
    in_operator: bool


def required(extras: Iterable[str] = ()) -> dict[str, Distribution]:
    """Return all packages that the product needs with these extras, by canonical name, without itself."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = [(PRODUCT, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        found[canonicalize_name(name)] = package = distribution(name)
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    del found[PRODUCT]
    return found


def licence_of(package: Distribution) -> str:
    """Return the licence from the package's metadata, as an SPDX expression. Raises LicenceError."""
    metadata = package.metadata
    name = canonicalize_name(metadata["Name"])
    words = (metadata.get("License") or "").strip()
    classifiers = [text.split(" :: ")[-1] for text in metadata.get_all("Classifier", []) if text.startswith("License")]
    candidates = [READ.get(name, ""), metadata.get("License-Expression") or "", SYNONYMS.get(words, words)]
    candidates += [CLASSIFIERS.get(text, text) for text in classifiers]
    for candidate in candidates:
        if candidate and is_allowed(candidate):
            return candidate
    told = next(filter(None, [candidates[1], words.partition("\n")[0], *classifiers]), "nothing")
    raise LicenceError(
        f"{name}: its metadata say {told!r}, which is not in ALLOWED of {Path(__file__).name}; "
        "replace the package, or add the licence after reading it"
    )


def is_allowed(expression: str) -> bool:
    """Return whether an alternative of an SPDX expression consists only of licences in `ALLOWED`."""
    alternatives = expression.strip("()").split(" OR ")
    return any(all(part.strip("() ") in ALLOWED for part in option.split(" AND ")) for option in alternatives)


def packages() -> list[Package]:
    """Return the packages in the images, sorted by name. Raises LicenceError."""
    operator = required()
    return [
        Package(name, package.version, licence_of(package), name in operator)
        for name, package in sorted(required(["trainer"]).items())
    ]


def page() -> str:
    """Render the whole document."""
    rows = (
        f"| {package.name} | {package.version} | {package.licence} | "
        f"{'operator, trainer' if package.in_operator else 'trainer'} |\n"
        for package in packages()
    )
    return HEAD + "".join(rows)


def main() -> int:
    """Write the page, or with --check only compare it."""
    try:
        text = page()
    except LicenceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != text:
            sys.stderr.write(f"{PAGE.name} is not about what is installed; run `make generate`\n")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
