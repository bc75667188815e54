"""Builds the process that stands for a pod's container on this machine: its command, environment and folders.

Nothing is mounted and there is no DNS, so paths and names are replaced in the command and the environment. An argument
or value that is a mount path, or lies below one, becomes the local path. The DNS name of a pod behind a headless
Service becomes that pod's address. In all else, values are computed as a kubelet does.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.local.driver import SECRETS
from finetune_operator.protocol import CONFIGMAPS, SERVICES, Object, Resource

Peek = Callable[[Resource, str, str], Object | None]
Claims = Mapping[str, Path]
"""The folders that stand for claims, by the names of the claims."""

DEFAULT_TERMINATION_MESSAGE_PATH = "/dev/termination-log"
SHARED_MEMORY = "/dev/shm"
"""The mount path that is not replaced, because the machine has one itself."""
REFERENCE = re.compile(r"\$(\$)?\(([-._A-Za-z][-._A-Za-z0-9]*)\)")
SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class CannotStartError(Exception):
    """The container cannot start yet, or ever; `reason` is the reason that a kubelet would report."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Container:
    """The process to start for a container."""

    command: list[str]
    env: dict[str, str]
    directory: Path
    termination_message: Path


def _unsupported(what: str) -> CannotStartError:
    return CannotStartError("CreateContainerConfigError", f"a local run has no {what}")


def build(pod: Object, folder: Path, ip: str, peers: Iterable[Object], peek: Peek, claims: Claims) -> Container:
    """Create the folders and files of the pod below `folder`, and return the process to start.

    `peers` are pods with their addresses in status.podIP. Raises CannotStartError.
    """
    spec = pod["spec"]
    if spec.get("initContainers"):
        raise _unsupported("podTemplate.initContainers")
    if "workingDir" in spec["containers"][0]:
        raise _unsupported("workingDir")
    if len(spec["containers"]) != 1:
        raise _unsupported("pods of several containers")
    (container,) = spec["containers"]
    folder.mkdir(parents=True, exist_ok=True)
    paths = Paths(pod, container, folder, peek, claims)
    names = _addresses(pod, peers, peek)
    env = _environment(pod, container, ip, peek)
    words = [_expand(word, env) for word in [*(container.get("command") or []), *(container.get("args") or [])]]
    if not words:
        raise _unsupported("images: the container needs a command")
    first, *others = map(paths.local, words)
    return Container(
        command=[sys.executable if first == "python3" else first, *others],
        env={**os.environ, **{name: names(paths.local(value)) for name, value in env.items()}},
        directory=folder,
        termination_message=paths.termination_message,
    )


class Paths:
    """Maps the paths of a container to paths on this machine."""

    def __init__(self, pod: Object, container: Object, folder: Path, peek: Peek, claims: Claims) -> None:
        volumes = {
            v["name"]: _volume(pod, v, folder / "volumes", peek, claims) for v in pod["spec"].get("volumes") or []
        }
        self._mounts: dict[str, Path] = {}
        for mount in container.get("volumeMounts") or []:
            path = mount["mountPath"].rstrip("/")
            source = volumes[mount["name"]] / mount.get("subPath", "")
            if path != SHARED_MEMORY:
                self._mounts[path] = source
            if mount.get("subPath") and not source.exists():
                source.mkdir(parents=True)
        wanted = container.get("terminationMessagePath", DEFAULT_TERMINATION_MESSAGE_PATH)
        if self.local(wanted) == wanted:
            self._mounts[wanted] = folder / "termination-log"
        self.termination_message = Path(self.local(wanted))

    def local(self, text: str) -> str:
        """Return the local path if the text is a mount path or lies below one, otherwise the text itself.

        The longest mount path takes precedence.
        """
        for path, source in sorted(self._mounts.items(), key=lambda item: -len(item[0])):
            if text == path or text.startswith(path + "/"):
                return f"{source}{text[len(path) :]}"
        return text


def _volume(pod: Object, volume: Object, folder: Path, peek: Peek, claims: Claims) -> Path:
    path: Path = folder / volume["name"]
    if "emptyDir" in volume:
        path.mkdir(parents=True, exist_ok=True)
        return path
    if "persistentVolumeClaim" in volume:
        claim = volume["persistentVolumeClaim"]["claimName"]
        source = claims.get(claim)
        if source is None:
            raise CannotStartError("ContainerCreating", f'persistentvolumeclaim "{claim}" not found')
        source.mkdir(parents=True, exist_ok=True)
        return source
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        config = peek(CONFIGMAPS, pod["metadata"]["namespace"], name)
        if config is None:
            why = f'MountVolume.SetUp failed for volume "{volume["name"]}": configmap "{name}" not found'
            raise CannotStartError("ContainerCreating", why)
        path.mkdir(parents=True, exist_ok=True)
        for key, text in config.get("data", {}).items():
            (path / key).write_text(text)
        return path
    raise _unsupported(f"volumes of that kind: {volume['name']} (it has configMap, emptyDir, persistentVolumeClaim)")


def _environment(pod: Object, container: Object, ip: str, peek: Peek) -> dict[str, str]:
    """Return the container's variables, including those that a kubelet or a container runtime adds."""
    if container.get("envFrom"):
        raise _unsupported("envFrom")
    env = {"HOSTNAME": pod["spec"].get("hostname", pod["metadata"]["name"])}
    for variable in container.get("env") or []:
        if "valueFrom" not in variable:
            env[variable["name"]] = _expand(variable.get("value", ""), env)
        elif (value := _value_from(pod, variable["valueFrom"], ip, peek)) is not None:
            env[variable["name"]] = value
    return env


def _value_from(pod: Object, source: Object, ip: str, peek: Peek) -> str | None:
    if "fieldRef" in source:
        return _field(pod, source["fieldRef"]["fieldPath"], ip)
    if "secretKeyRef" in source:
        return _key(pod, SECRETS, source["secretKeyRef"], peek)
    if "configMapKeyRef" in source:
        return _key(pod, CONFIGMAPS, source["configMapKeyRef"], peek)
    raise _unsupported(f"env values from {', '.join(source)}")


def _field(pod: Object, path: str, ip: str) -> str:
    meta = pod["metadata"]
    if found := SUBSCRIPT.fullmatch(path):
        return str((meta.get(found[1]) or {}).get(found[2], ""))
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "status.podIP": ip,
        "status.hostIP": ip,
    }
    if path not in fields:
        raise _unsupported(f"env values from the field {path}")
    return str(fields[path])


def _key(pod: Object, resource: Resource, reference: Object, peek: Peek) -> str | None:
    name, key = reference["name"], reference["key"]
    obj = peek(resource, pod["metadata"]["namespace"], name)
    plain = {**(obj or {}).get("data", {})}
    if resource == SECRETS:
        plain = {k: base64.b64decode(v).decode() for k, v in plain.items()} | (obj or {}).get("stringData", {})
    if key in plain:
        return str(plain[key])
    if reference.get("optional"):
        return None
    kind = resource.kind.lower()
    missing = f'{kind} "{name}" not found' if obj is None else f"couldn't find key {key} in {resource.kind} {name}"
    raise CannotStartError("CreateContainerConfigError", missing)


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Replace $(NAME) by the value of a known variable, and $$(NAME) by $(NAME), as a kubelet does."""

    def replacement(found: re.Match[str]) -> str:
        return found[0][1:] if found[1] else env.get(found[2], found[0])

    return REFERENCE.sub(replacement, text)


def _addresses(pod: Object, peers: Iterable[Object], peek: Peek) -> Callable[[str], str]:
    """Return a function that replaces the DNS names of pods behind headless Services by their addresses."""
    namespace = pod["metadata"]["namespace"]
    known: dict[str, str] = {}
    for peer in peers:
        host, subdomain = peer["spec"].get("hostname"), peer["spec"].get("subdomain")
        if not host or not subdomain or peer["metadata"]["namespace"] != namespace:
            continue
        service = peek(SERVICES, namespace, subdomain)
        selector = (service or {}).get("spec", {}).get("selector") or {}
        labels = peer["metadata"].get("labels") or {}
        if selector and all(labels.get(key) == value for key, value in selector.items()):
            known[f"{host}.{subdomain}"] = peer["status"]["podIP"]

    def replace(text: str) -> str:
        for name, address in known.items():
            rest = rf"(\.{re.escape(namespace)}(\.svc(\.cluster\.local)?)?)?"
            text = re.sub(rf"(?<![-.\w]){re.escape(name)}{rest}(?![-.\w])", address, text)
        return text

    return replace
