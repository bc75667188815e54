"""Explains the eviction of a pod that exceeded its own limits, which would happen again with the same limits.

A pod that is evicted because its node runs short of something has the condition DisruptionTarget instead. The messages
are those of pkg/kubelet/eviction/helpers.go in kubernetes/kubernetes, the same in Kubernetes 1.28 to 1.36.
"""

from __future__ import annotations

import re

from finetune_operator.constants import VOLUMES
from finetune_operator.core.observed.foreign import Fields, text

_WORKSPACE, _CONFIG, _SCRATCH, _SHARED_MEMORY = VOLUMES
_VOLUME = re.compile(r'Usage of EmptyDir volume "([a-z0-9-]{1,63})" exceeds the limit "(\w{1,30})"')
_DISK = re.compile(
    r"Pod ephemeral local storage usage exceeds the total limit of containers (\w{1,30})"
    r'|Container [a-z0-9-]{1,63} exceeded its local ephemeral storage limit "(\w{1,30})"'
)


def own_excess(status: Fields) -> str | None:
    """Return what a pod used too much of and the field that allows more, as the end of a sentence about the pod.

    `status` is that of the API's object. Return None if the pod was not evicted, or for another reason.
    """
    message = text(status.get("message"))
    if text(status.get("reason")) != "Evicted" or message is None:
        return None
    if found := _VOLUME.search(message):
        volume, limit = found.groups()
        if volume == _SHARED_MEMORY:
            return f"wrote more than {limit} to /dev/shm; raise resources.sharedMemory"
        if volume != _SCRATCH:
            return f"wrote more than {limit} to its volume {volume}; raise the sizeLimit of it in podTemplate.volumes"
    if (found := found or _DISK.search(message)) is None:
        return None
    return f"wrote more than {found[found.lastindex or 0]} to its node's disk; raise resources.scratch"
