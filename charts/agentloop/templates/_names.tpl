{{/* What objects are called, and the labels they bear. */}}

{{- define "agentloop.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* At most 46 characters: the longest suffix has 13, and labels and Services end at 63. */}}
{{- define "agentloop.fullname" -}}
{{- $name := include "agentloop.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "agentloop.configMapName" -}}
{{ .Values.config.existingConfigMap | default (printf "%s-config" (include "agentloop.fullname" .)) }}
{{- end }}

{{- define "agentloop.leaseName" -}}
{{ include "agentloop.fullname" . }}
{{- end }}

{{- define "agentloop.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "agentloop.fullname" .) }}
{{- end }}

{{/* Of the Job before an uninstall: its own name, ServiceAccount and roles. */}}
{{- define "agentloop.releaseName" -}}
{{ include "agentloop.fullname" . }}-release
{{- end }}

{{/* Whether the Job before an uninstall is made. To whoever renders the chart and applies the result, it is a Job like any
     other, and would run at once: so it is left out where Helm does not talk to a cluster. No API server is without
     this API, and Helm's own list of what clusters have, which "helm template" goes by, does not hold it. */}}
{{- define "agentloop.hasUninstallJob" -}}
{{- $job := .Values.uninstallJob -}}
{{- if or (eq $job "always") (and (eq $job "auto") (.Capabilities.APIVersions.Has "apiregistration.k8s.io/v1")) -}}
yes
{{- end -}}
{{- end }}

{{- define "agentloop.labels" -}}
{{ include "agentloop.selector" . }}
app.kubernetes.io/part-of: agentloop
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What never changes between releases of the chart. The component is added by who selects pods. */}}
{{- define "agentloop.selector" -}}
app.kubernetes.io/name: {{ include "agentloop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agentloop.controllerSelector" -}}
{{ include "agentloop.selector" . }}
app.kubernetes.io/component: controller
{{- end }}
