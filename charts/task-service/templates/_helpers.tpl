{{- /* Names, labels and credentials. Every object is named after the release, which is also the name of the TaskService. */ -}}

{{- define "task-service.selector" -}}
{{- /* Fixed from the start: a Deployment's selector cannot change. Call with (dict "root" $ "component" NAME). */ -}}
app.kubernetes.io/name: task-service
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- if eq .component "worker" }}
taskservice.dev/pool: default
{{- end }}
{{- end }}

{{- define "task-service.podLabels" -}}
{{ include "task-service.selector" . }}
app.kubernetes.io/part-of: task-service
{{- if has .component (list "api" "worker" "migration") }}
app.kubernetes.io/version: {{ include "task-service.version" .root | trunc 63 | trimAll "-._" | quote }}
{{- end }}
{{- end }}

{{- define "task-service.labels" -}}
{{ include "task-service.podLabels" . }}
app.kubernetes.io/managed-by: {{ ternary "task-operator" .root.Release.Service (not (empty .root.Values.operator.namespace)) }}
{{- end }}

{{- define "task-service.version" -}}
{{- /* A tag such as 2 comes from `--set` as a number. */ -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if kindIs "string" $tag }}{{ $tag }}{{ else }}{{ int64 $tag }}{{ end }}
{{- end }}

{{- define "task-service.image" -}}
{{- $image := .Values.image -}}
{{- if and $image.digest $image.tag -}}
{{ $image.repository }}:{{ include "task-service.version" . }}@{{ $image.digest }}
{{- else if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ include "task-service.version" . }}
{{- end }}
{{- end }}

{{- define "task-service.databaseSecret" -}}
{{- /* Name and key of the Secret with the database's URL, as YAML: a given one, else the chart's own. */ -}}
{{- if .Values.database.secretRef }}
name: {{ .Values.database.secretRef.name }}
key: {{ .Values.database.secretRef.key | default "url" }}
{{- else if .Values.secret.create }}
name: {{ .Release.Name }}-credentials
key: database-url
{{- else }}
name: {{ .Release.Name }}-postgresql
key: url
{{- end }}
{{- end }}

{{- define "task-service.redisSecret" -}}
{{- /* The same for Redis; empty when it has none. */ -}}
{{- if .Values.redis.secretRef }}
name: {{ .Values.redis.secretRef.name }}
key: {{ .Values.redis.secretRef.key | default "url" }}
{{- else if and .Values.secret.create .Values.secret.redisUrl }}
name: {{ .Release.Name }}-credentials
key: redis-url
{{- end }}
{{- end }}

{{- define "task-service.settings" -}}
{{- /* The environment variables that API and workers share, as YAML. Numbers come from JSON as floats: no 1e+06. */ -}}
{{- with .Values.settings -}}
ENVIRONMENT: {{ .environment | quote }}
LOG_LEVEL: {{ .logLevel | quote }}
LOG_FORMAT: {{ .logFormat | quote }}
DEFAULT_HANDLER: {{ .defaultHandler | quote }}
CONVERSATIONS_MIN_SECONDS: {{ .conversationsMinSeconds | quote }}
CONVERSATIONS_MAX_SECONDS: {{ .conversationsMaxSeconds | quote }}
HEARTBEAT_SECONDS: {{ int64 .heartbeatSeconds | quote }}
LEASE_SECONDS: {{ int64 .leaseSeconds | quote }}
DEFAULT_MAX_ATTEMPTS: {{ int64 .maxAttempts | quote }}
MAX_BODY_BYTES: {{ int64 .maxBodyBytes | quote }}
{{- end }}
{{- if .Values.valkey.enabled }}
REDIS_URL: redis://{{ .Release.Name }}-valkey:6379/0
{{- end }}
{{- end }}

{{- define "task-service.configName" -}}
{{- /* The content is part of the name: what changes reaches new pods only, never old ones before the migration. */ -}}
{{ .Release.Name }}-config-{{ include "task-service.settings" . | fromYaml | toJson | sha256sum | trunc 10 }}
{{- end }}
