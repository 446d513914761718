{{- /* The names of all objects contain the release name. */ -}}

{{- define "task-operator.selector" -}}
app.kubernetes.io/name: task-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "task-operator.labels" -}}
{{ include "task-operator.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | toString | trunc 63 | trimAll "-._" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "task-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "task-operator.rules" -}}
{{- /* Permissions of the operator in a namespace that it watches. The kinds are those of
       task_operator.kube.kinds.KINDS; a test compares the two lists. */ -}}
- apiGroups: [taskservice.dev]
  resources: [taskservices]
  verbs: [get, list, watch]
- apiGroups: [taskservice.dev]
  resources: [taskservices/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [serviceaccounts, configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# patch: to set the deletion cost before a scale-down; delete: to replace a drained pod that was not removed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# list: to find out why the volumes of a pod cannot be mounted.
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
