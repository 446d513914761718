{{- /* Names, labels and credentials. Names of objects start with the release name, which is also the name of the
       TaskService. */ -}}

{{- define "task-service.selector" -}}
{{- /* Never change it: the selector of a Deployment is immutable. Call with (dict "root" $ "component" NAME). */ -}}
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
{{- /* `--set` parses a tag such as 2 as a number. */ -}}
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
{{- /* Name and key of the Secret with the URL of the database, as YAML: from the values, or the chart's own. */ -}}
{{- if .Values.database.secretRef }}
name: {{ .Values.database.secretRef.name }}
key: {{ .Values.database.secretRef.key | default "url" }}
{{- else if and .Values.secret.create .Values.secret.databaseUrl }}
name: {{ .Release.Name }}-credentials
key: database-url
{{- else }}
name: {{ .Release.Name }}-postgresql
key: url
{{- end }}
{{- end }}

{{- define "task-service.redisSecret" -}}
{{- /* Name and key of the Secret with the URL of Redis; empty without such a Secret. */ -}}
{{- if .Values.redis.secretRef }}
name: {{ .Values.redis.secretRef.name }}
key: {{ .Values.redis.secretRef.key | default "url" }}
{{- else if and .Values.secret.create .Values.secret.redisUrl }}
name: {{ .Release.Name }}-credentials
key: redis-url
{{- end }}
{{- end }}

{{- define "task-service.authSecret" -}}
{{- /* Name and keys of the Secret that signs tokens; empty without such a Secret, as in the mode open. */ -}}
{{- if .Values.auth.secretRef }}
{{- $keys := .Values.auth.secretRef.keys | default dict }}
name: {{ .Values.auth.secretRef.name }}
secretKey: {{ $keys.secretKey | default "secret-key" }}
adminUsername: {{ $keys.adminUsername | default "admin-username" }}
adminPassword: {{ $keys.adminPassword | default "admin-password" }}
{{- else if and .Values.secret.create .Values.secret.secretKey }}
name: {{ .Release.Name }}-credentials
secretKey: secret-key
adminUsername: admin-username
adminPassword: admin-password
{{- end }}
{{- end }}

{{- define "task-service.trust" -}}
{{- /* The file of trusted issuers: the operator's entry, and auth.issuers with the field names of the service. */ -}}
{{- $issuers := .Values.trustedIssuers -}}
{{- range $issuer := .Values.auth.issuers -}}
{{- $entry := omit $issuer "jwksUri" "nameClaim" "namePrefix" -}}
{{- range $value, $field := dict "jwksUri" "jwks_uri" "nameClaim" "name_claim" "namePrefix" "name_prefix" -}}
{{- with get $issuer $value }}{{ $_ := set $entry $field . }}{{ end -}}
{{- end -}}
{{- $issuers = append $issuers $entry -}}
{{- end -}}
{{ dict "issuers" $issuers | toJson }}
{{- end }}

{{- define "task-service.settings" -}}
{{- /* Environment variables that API and workers share, as YAML. JSON numbers are floats; int64 avoids 1e+06. */ -}}
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
MAX_UPLOAD_BYTES: {{ int64 .maxUploadBytes | quote }}
ROOT_COMPATIBILITY: {{ .rootCompatibility | quote }}
DAILY_LOG_CRON: {{ .dailyLog.cron | quote }}
DAILY_LOG_TIME_ZONE: {{ .dailyLog.timeZone | quote }}
{{- with .corsOrigins }}
CORS_ORIGINS: {{ join "," . | quote }}
{{- end }}
{{- with .trustedProxies }}
TRUSTED_PROXIES: {{ join "," . | quote }}
{{- end }}
{{- range $name, $limit := .rateLimits }}
RATE_LIMIT_{{ upper $name }}: {{ $limit | quote }}
{{- end }}
{{- if .otel.enabled }}
OTEL_ENABLED: "true"
OTEL_EXPORTER_ENDPOINT: {{ .otel.endpoint | quote }}
OTEL_SAMPLE_RATIO: {{ .otel.sampleRatio | quote }}
{{- end }}
{{- end }}
AUTH_MODE: {{ .Values.auth.mode | quote }}
{{- if .Values.valkey.enabled }}
REDIS_URL: redis://{{ .Release.Name }}-valkey:6379/0
{{- end }}
{{- end }}

{{- define "task-service.configName" -}}
{{- /* The name contains a hash of the content, so new settings reach new pods only, and no pod before the migration. */ -}}
{{ .Release.Name }}-config-{{ include "task-service.settings" . | fromYaml | toJson | sha256sum | trunc 10 }}
{{- end }}
