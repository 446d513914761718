{{- /* Every object carries the release's name. */ -}}

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
{{- /* What the operator does in a namespace that it serves. The kinds are those of task_operator.kube.kinds.KINDS; a test holds
       the two lists together. */ -}}
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
# patch: the deletion cost before a scale-down; delete: a drained pod that the scale-down left over.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# list: why a pod's volumes cannot be mounted.
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
