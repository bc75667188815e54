"""Tests that a real API server's schema and CEL refuse the same specs as pydantic, with the same messages."""

import json

from support.kubectl import Kubectl
from support.spec_table import CASES

from finetune_operator.api.parse import InvalidManifestError, parse


def test_the_api_server_gives_every_spec_pydantic_s_verdict(kubectl: Kubectl) -> None:
    differences = []
    for case in CASES:
        manifest = {**case.manifest, "metadata": {"name": case.manifest["metadata"]["name"]}}
        done = kubectl.run(
            "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(manifest), check=False
        )
        accepted = done.returncode == 0
        if accepted != (case.refused is None):
            differences.append(f"{case.name}: {'accepted' if accepted else done.stderr}")
        elif case.refused and case.refused not in done.stderr:
            differences.append(f"{case.name}: refused, but without the rule's sentence: {done.stderr}")
    assert not differences, "\n".join(differences)


def test_a_stored_job_has_the_defaults_that_pydantic_has(kubectl: Kubectl) -> None:
    for case in (case for case in CASES if case.refused is None):
        manifest = {**case.manifest, "metadata": {"name": case.manifest["metadata"]["name"]}}
        done = kubectl.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(manifest))
        stored = json.loads(done.stdout)
        try:
            ours, theirs = parse(case.manifest).spec, parse(stored).spec
        except InvalidManifestError as error:
            raise AssertionError(f"{case.name}: {error}") from error
        assert ours == theirs, case.name
        assert stored["status"] == {"observedGeneration": -1, "ledgerDropped": 0}
