{{/* RBAC rules. ClusterRoles and Roles use the same ones, depending on watch.namespaces. */}}

{{/* The operator, in all namespaces whose tasks it serves. */}}
{{- define "agentloop.rules.tasks" -}}
- apiGroups: [agentloop.dev]
  resources: [agenttasks]
  # delete: tasks whose ttlSecondsAfterSucceeded has expired
  verbs: [get, list, watch, delete]
- apiGroups: [agentloop.dev]
  resources: [agenttasks/status]
  verbs: [patch]
- apiGroups: [agentloop.dev]
  resources: [agenttasks/finalizers]
  # with OwnerReferencesPermissionEnforcement, required for owner references that block the deletion of the owner
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [events]
  # only Events say why the volume of a pod is missing
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The operator, if it serves the whole cluster. */}}
{{- define "agentloop.rules.nodes" -}}
- apiGroups: [""]
  resources: [nodes]
  # whether the runtimes of all nodes support image volumes
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
  # for the Event about a refused configuration
  verbs: [create, patch]
{{- end }}

{{/* create cannot be restricted by name: RBAC does not know the name of an object that does not exist yet. */}}
{{- define "agentloop.rules.lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "agentloop.leaseName" . }}]
  verbs: [get, update]
{{- end }}

{{/* The Job before an uninstall, in all namespaces whose tasks the operator served. */}}
{{- define "agentloop.rules.uninstall.tasks" -}}
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

{{/* The same Job, in its own namespace: it stops the operator and waits until its pods are gone. */}}
{{- define "agentloop.rules.uninstall.self" -}}
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
  # the operator created the Lease, so Helm does not delete it
  verbs: [delete]
{{- end }}

{{/* include "agentloop.grant" (dict "root" . "name" N "namespace" NS "account" SA "rules" RULES)
     A role with these rules, and its binding. Cluster-wide if there is no namespace. */}}
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
