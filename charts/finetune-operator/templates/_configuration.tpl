{{/* The operator's configuration file. */}}
{{- define "finetune-operator.configuration" -}}
trainerImage: {{ include "finetune-operator.image" (list . .Values.trainer.image) | quote }}
storageClaimName: {{ .Values.storage.claimName | quote }}
allowRemoteCode: {{ .Values.trust.remoteCode }}
allowPickleWeights: {{ .Values.trust.pickleWeights }}
{{- if .Values.jobNetworkPolicy.enabled }}
networkPolicy:
  egress:
    {{- toYaml .Values.jobNetworkPolicy.egress | nindent 4 }}
  operator:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .Release.Namespace }}
    podSelector:
      matchLabels:
        {{- include "finetune-operator.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end -}}
