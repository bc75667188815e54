"""Tests of the tutorials on a cluster, command by command.

The commands of cluster.md copy files into the claim and out of it. The page of each field applies its jobs and follows
them, and its Python uses the results. Two things differ from a user's cluster: the job's namespace is not `default`,
and the pod that copies has an image that the nodes have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docs.pages import ROOT, TUTORIALS, blocks, commands, needs_cluster
from docs.test_tutorials import by_name, run_python
from support.kubectl import Kubectl

CLUSTER_PAGE = ROOT / "docs" / "tutorials" / "cluster.md"
COPYING_IMAGE = os.environ.get("FINETUNE_TEST_IMAGE", "localhost/trainer-test:dev")
"""The image of the pod that copies: any image with tar and sleep."""


@pytest.fixture
def user(kubectl: Kubectl, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user whose kubeconfig has the namespace as its default."""
    config = yaml.safe_load(kubectl.run("config", "view", "--raw", "--minify", "--flatten").stdout)
    config["contexts"][0]["context"]["namespace"] = kubectl.namespace
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    return {**os.environ, "KUBECONFIG": str(file), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def checkout(folder: Path) -> None:
    """Provide the repository's files that the commands use."""
    (folder / "examples").symlink_to(ROOT / "examples")
    claim = folder / "docs" / "tutorials" / "claim.yaml"
    claim.parent.mkdir(parents=True)
    text = (ROOT / claim.relative_to(folder)).read_text()
    assert text.count("image: debian:") == 1
    claim.write_text(text.replace("image: debian:bookworm-slim", f"image: {COPYING_IMAGE}"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", TUTORIALS, ids=by_name)
def test_a_tutorial_leads_to_a_model_on_a_cluster(
    page: Path,
    kubectl: Kubectl,
    workspace: Path,
    operator: subprocess.Popen[bytes],
    user: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    checkout(folder)

    def run(command: str) -> None:
        done = subprocess.run(["bash", "-euc", command], cwd=folder, env=user, capture_output=True, text=True)
        print(f"$ {command}\n{done.stdout}")
        assert done.returncode == 0, f"{command}\n{done.stderr or done.stdout}"

    of_page = commands(page)
    in_the_beginning, at_the_end = (block.splitlines() for block in blocks(CLUSTER_PAGE, "sh"))
    for command in [command for command in of_page if command.startswith("python ")] + in_the_beginning:
        run(command)
    followed = [command for command in of_page if needs_cluster(command)]
    assert followed
    for command in followed:
        run(command)
    names = [command.split()[-1] for command in followed if command.startswith("finetune watch")]
    copying, *rest = at_the_end
    for name in names:
        run(
            copying.replace("contract-clauses", name).replace(
                ":/workspace/default/", f":/workspace/{kubectl.namespace}/"
            )
        )
    for command in rest:
        run(command)
    for block in blocks(page, "python"):
        run_python(block, folder)
