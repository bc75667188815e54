{{/* The operator's configuration file. */}}
{{- define "finetune-operator.configuration" -}}
leaseName: {{ include "finetune-operator.leaseName" . | quote }}
trainerImage: {{ include "finetune-operator.image" (list . .Values.trainer.image) | quote }}
storageClaimName: {{ .Values.storage.claimName | quote }}
allowRemoteCode: {{ .Values.trust.remoteCode }}
allowPickleWeights: {{ .Values.trust.pickleWeights }}
{{- if .Values.jobNetworkPolicy.enabled }}
networkPolicy:
  egress:
    {{- toYaml (.Values.jobNetworkPolicy.egress | default list) | nindent 4 }}
  operator:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .Release.Namespace | quote }}
    # Of any release: policies are never changed, and a job may outlive the release that it has begun under.
    podSelector:
      matchLabels:
        app.kubernetes.io/name: {{ .Chart.Name | quote }}
{{- end }}
{{- end -}}
