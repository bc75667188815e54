"""Tests fuzzed specs with a real API server's dry-run: it accepts exactly what pydantic accepts."""

import json

from fuzz.amount import OBJECTS, drawn
from fuzz.mutations import Object, fuzzed
from support.kubectl import Kubectl

from finetune_operator.api.parse import InvalidManifestError, parse
from finetune_operator.cli.manifest import ManifestError, load_manifests

COMPARED = 200


STRICTER = ("is nested more than", "is empty; give it a value")
"""Parts of errors that the API server may not report: its schema has no depth limit, and replaces null by a default."""


def is_taken(text: str) -> bool | None:
    """Return the verdict of `finetune validate` on a manifest, or None if the API server may decide either way."""
    try:
        parse(*load_manifests(text, "fuzzed"))
    except ManifestError:
        return False
    except InvalidManifestError as error:
        return None if all(any(word in told for word in STRICTER) for told in error.sentences) else False
    return True


def is_written(manifest: Object) -> bool:
    """Return whether JSON can express the manifest, and it is short enough for kubectl."""
    try:
        return len(json.dumps(manifest, allow_nan=False)) < 20_000
    except (ValueError, RecursionError):
        return False


def test_the_api_server_gives_fuzzed_specs_pydantic_s_verdict(kubectl: Kubectl) -> None:
    specs = [{**found, "metadata": {"name": "clauses"}} for found in drawn(fuzzed(), COMPARED * 2 / OBJECTS)]
    objects = [found for found in specs if is_written(found)][:COMPARED]
    assert len(objects) > COMPARED * 0.8
    differences = []
    for manifest in objects:
        text = json.dumps(manifest)
        done = kubectl.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text, check=False)
        if is_taken(text) not in (None, done.returncode == 0):
            differences.append(f"{text[:900]}\n  {done.stderr[:300] or 'is taken'}")
    assert not differences, f"{len(differences)} differ:\n" + "\n".join(differences)
