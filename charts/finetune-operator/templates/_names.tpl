{{/* The name of all objects within the release's namespace. A Service's has no dots and begins with a letter, which a
release's need not. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- $name = .Release.Name -}}
{{- else if hasPrefix (printf "%s-" .Release.Name) .Chart.Name -}}
{{- /* The release `finetune` is not named finetune twice. */ -}}
{{- $name = .Chart.Name -}}
{{- end -}}
{{- $name = replace "." "-" $name -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- $name = printf "r%s" $name -}}
{{- end -}}
{{- trunc 50 $name | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of objects outside of namespaces, where releases in two namespaces must not meet: neither part has a dot. */}}
{{- define "finetune-operator.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "finetune-operator.fullname" .) -}}
{{- end -}}

{{/* Of the Lease in the release's namespace: operators of one release never work at once. No full name has a dot, so the
releases in one namespace that watch all namespaces share one, and no other does. */}}
{{- define "finetune-operator.leaseName" -}}
{{- eq .Values.scope "cluster" | ternary "finetune-operator.cluster" (include "finetune-operator.fullname" .) -}}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "finetune-operator.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: is empty, but serviceAccount.create is false; name the service account to use" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* By what the Deployment, the Service and the others find the operator's pod. */}}
{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{/* The image of (list $ .Values.image): repository:tag, or repository@digest, below imageRegistry if there is one. */}}
{{- define "finetune-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with $root.Values.imageRegistry -}}
{{- $repository = printf "%s/%s" . $image.repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A JSON list of the namespaces that are watched; empty: all. */}}
{{- define "finetune-operator.namespaces" -}}
{{- if eq .Values.scope "namespaced" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toJson -}}
{{- else if .Values.watchNamespaces -}}
{{- fail "watchNamespaces: is set, but scope is cluster, which watches all namespaces; set scope: namespaced or remove it" -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}
