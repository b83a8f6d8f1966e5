{{/* Who may do what. The same rules stand in ClusterRoles and in Roles, as watch.namespaces says. */}}

{{/* The operator, wherever it looks after tasks. */}}
{{- define "agentloop.rules.tasks" -}}
- apiGroups: [agentloop.dev]
  resources: [agenttasks]
  # delete: a task whose ttlSecondsAfterSucceeded has run out
  verbs: [get, list, watch, delete]
- apiGroups: [agentloop.dev]
  resources: [agenttasks/status]
  verbs: [patch]
- apiGroups: [agentloop.dev]
  resources: [agenttasks/finalizers]
  # where OwnerReferencesPermissionEnforcement is on, a pod may only then block its task's deletion
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  # why a pod's volume is not there is told nowhere else
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The operator, where it may see the whole cluster. */}}
{{- define "agentloop.rules.nodes" -}}
- apiGroups: [""]
  resources: [nodes]
  # whether every node's runtime mounts images as volumes
  verbs: [list]
{{- end }}

{{/* The operator, in its own namespace. */}}
{{- define "agentloop.rules.self" -}}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ include "agentloop.configMapName" . }}]
  verbs: [get, list, watch]
{{ include "agentloop.rules.lease" . }}
- apiGroups: [events.k8s.io]
  resources: [events]
  # a refused configuration is told here
  verbs: [create, patch]
{{- end }}

{{/* An object that does not exist yet has no name that a rule could see. */}}
{{- define "agentloop.rules.lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "agentloop.leaseName" . }}]
  verbs: [get, update]
{{- end }}

{{/* The Job before an uninstall, wherever the operator looked after tasks. */}}
{{- define "agentloop.rules.release.tasks" -}}
- apiGroups: [agentloop.dev]
  resources: [agenttasks]
  verbs: [get, list]
- apiGroups: [agentloop.dev]
  resources: [agenttasks/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
{{- end }}

{{/* The same Job, in its own namespace: it ends the operator and sees its pods go. */}}
{{- define "agentloop.rules.release.self" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ include "agentloop.fullname" . }}]
  verbs: [get]
- apiGroups: [apps]
  resources: [deployments/scale]
  resourceNames: [{{ include "agentloop.fullname" . }}]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{ include "agentloop.rules.lease" . }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "agentloop.leaseName" . }}]
  # Helm did not make it and will not take it away
  verbs: [delete]
{{- end }}

{{/* include "agentloop.grant" (dict "root" . "name" N "namespace" NS "account" SA "rules" RULES)
     A role of these rules and its binding; cluster-wide where no namespace is given. */}}
{{- define "agentloop.grant" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ if .namespace }}Role{{ else }}ClusterRole{{ end }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "agentloop.labels" .root | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ if .namespace }}RoleBinding{{ else }}ClusterRoleBinding{{ end }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "agentloop.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ if .namespace }}Role{{ else }}ClusterRole{{ end }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
