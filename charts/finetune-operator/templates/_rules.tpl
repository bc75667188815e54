{{/* What the operator does, and nothing else: a test compares this with the audit log of an API server. */}}
{{- define "finetune-operator.rules" -}}
# It reads FineTuneJobs and writes their status; never their spec or metadata.
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
# Children are made and never changed. A Job goes before the next attempt; all go after ttlSecondsAfterFinished, or by
# the garbage collector with their owner. All are watched: one that somebody deletes while it is needed is made again.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, delete]
{{- if .Values.jobNetworkPolicy.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, delete]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Are the claims of the next attempt there, and can its nodes mount them?
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

{{/* Of the Lease by which one operator leads. Who may create objects may not be limited to a name. */}}
{{- define "finetune-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "finetune-operator.leaseName" . | quote }}]
  verbs: [get, update]
{{- end -}}
