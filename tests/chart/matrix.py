"""Combinations of values with which the chart must render a valid release."""

from __future__ import annotations

from typing import Any

EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "tuner",
    "image": {"repository": "finetune/operator", "tag": "9.9", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "trainer": {"image": {"repository": "finetune/trainer", "digest": "sha256:" + "0" * 64}},
    "imageRegistry": "mirror.example:5000/ops",
    "storage": {
        "claimName": "models",
        "claims": [
            {"namespace": "legal", "size": "100Gi"},
            {"namespace": "shop", "size": "1Ti", "storageClassName": "nfs", "accessModes": ["ReadWriteOnce"]},
        ],
    },
    "jobNetworkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]},
    "trust": {"remoteCode": True, "pickleWeights": True},
    "serviceAccount": {"annotations": {"example.com/role": "tuner"}},
    "podLabels": {
        "team": "ml",
        "app.kubernetes.io/name": "another",
        "app.kubernetes.io/managed-by": "finetune-operator",
    },
    "podAnnotations": {"example.com/scrape": "true", "finetune.dev/config-hash": "none"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
    "http": {"port": 9090},
    "service": {"annotations": {"example.com/zone": "a"}},
    "serviceMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "prometheus"}},
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": 0},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "apiServerPorts": [6443],
        "apiServerCIDRs": ["192.0.2.1/32", "2001:db8::1/128"],
    },
}

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "everything, namespaced": {**EVERYTHING, "scope": "namespaced", "watchNamespaces": ["legal", "shop"]},
    "own namespace": {"scope": "namespaced"},
    "one other namespace": {"scope": "namespaced", "watchNamespaces": ["legal"]},
    "stopped": {"replicas": 0},
    "several": {"replicas": 3},
    "without the definition": {"crds": {"install": False}},
    "with a definition that goes": {"crds": {"keep": False}},
    "an account of the user's": {"serviceAccount": {"create": False, "name": "mine"}},
    "an account by name": {"serviceAccount": {"name": "tuner"}},
    "without roles": {"rbac": {"create": False, "aggregate": False}},
    "without aggregated roles": {"rbac": {"aggregate": False}},
    "without a service": {"service": {"enabled": False}},
    "an image by digest": {"image": {"digest": "sha256:" + "a" * 64}},
    "without limits": {"resources": {"limits": None}},
    "guarded": {"networkPolicy": {"enabled": True}, "podDisruptionBudget": {"enabled": True}},
    "guarded, own namespace": {"networkPolicy": {"enabled": True}, "scope": "namespaced"},
    "jobs without policies": {"jobNetworkPolicy": {"enabled": False}},
    "jobs without any egress": {"jobNetworkPolicy": {"egress": []}},
    "monitored": {"serviceMonitor": {"enabled": True}},
}
