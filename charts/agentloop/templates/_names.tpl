{{/* Names and labels of objects. */}}

{{- define "agentloop.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* At most 46 characters: the longest suffix has 13, and names of Services and values of labels have at most 63. */}}
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

{{/* The name of the Job before an uninstall, and of its ServiceAccount and roles. */}}
{{- define "agentloop.uninstallName" -}}
{{ include "agentloop.fullname" . }}-release
{{- end }}

{{/* Whether the Job before an uninstall is rendered. If a user applies the output of "helm template", it is a Job like any
     other and would run immediately. So it is left out if Helm is not connected to a cluster. The condition is an API
     that every API server has, but that is missing in the built-in list which "helm template" uses. */}}
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

{{/* Labels that never change between versions of the chart. Selectors of pods add the component. */}}
{{- define "agentloop.selector" -}}
app.kubernetes.io/name: {{ include "agentloop.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agentloop.controllerSelector" -}}
{{ include "agentloop.selector" . }}
app.kubernetes.io/component: controller
{{- end }}
