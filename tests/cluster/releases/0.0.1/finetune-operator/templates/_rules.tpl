{{/* What the operator does, and nothing else: a test compares this with the audit log of an API server. */}}
{{- define "finetune-operator.rules" -}}
# It reads FineTuneJobs and writes their status; never their spec or metadata.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
# Children are made and never changed; the garbage collector deletes them by their owner.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Can several nodes mount the claim?
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
# It tells what it does, and reads why the Job controller was refused a pod.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end -}}
