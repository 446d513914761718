{{- /* Rules over several values, which a JSON schema cannot express. They have the messages of the rules of the
       TaskService. One error lists every violation. */ -}}
{{- define "task-service.validate" -}}
{{- $errors := list -}}
{{- $v := .Values -}}
{{- if gt (len .Release.Name) 40 }}
{{- $errors = append $errors "metadata.name must have at most 40 characters (it is the release's name)" }}
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name) }}
{{- $errors = append $errors "metadata.name must start with a letter and contain only a-z, 0-9 and - (it is the release's name)" }}
{{- end }}
{{- range $name, $c := dict "api" $v.api "worker" $v.worker }}
{{- if and $c.autoscaling.enabled (not $c.autoscaling.maxReplicas) }}
{{- $errors = append $errors (printf "%s.autoscaling: maxReplicas is required when enabled" $name) }}
{{- end }}
{{- if and $c.autoscaling.maxReplicas (gt (int64 ($c.autoscaling.minReplicas | default 1)) (int64 $c.autoscaling.maxReplicas)) }}
{{- $errors = append $errors (printf "%s.autoscaling: minReplicas must not be greater than maxReplicas" $name) }}
{{- end }}
{{- if and (hasKey $c.podDisruptionBudget "minAvailable") (hasKey $c.podDisruptionBudget "maxUnavailable") }}
{{- $errors = append $errors (printf "%s.podDisruptionBudget: minAvailable and maxUnavailable exclude each other" $name) }}
{{- end }}
{{- range $c.extraEnv }}
{{- if eq (hasKey . "value") (hasKey . "valueFrom") }}
{{- $errors = append $errors (printf "%s.extraEnv: exactly one of value and valueFrom must be set (%s)" $name .name) }}
{{- end }}
{{- if and .valueFrom (eq (hasKey .valueFrom "secretKeyRef") (hasKey .valueFrom "configMapKeyRef")) }}
{{- $errors = append $errors (printf "%s.extraEnv: valueFrom must have exactly one of secretKeyRef and configMapKeyRef (%s)" $name .name) }}
{{- end }}
{{- if has .name ($.Files.Get "files/reserved-env.txt" | splitList "\n") }}
{{- $errors = append $errors (printf "%s.extraEnv: name is reserved: the chart sets this variable (%s)" $name .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $v.settings }}
{{- if gt (mul 3 (int64 .heartbeatSeconds)) (int64 .leaseSeconds) }}
{{- $errors = append $errors "settings: heartbeatSeconds must be at most a third of leaseSeconds" }}
{{- end }}
{{- if gt (float64 .conversationsMinSeconds) (float64 .conversationsMaxSeconds) }}
{{- $errors = append $errors "settings: conversationsMinSeconds must not be greater than conversationsMaxSeconds" }}
{{- end }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- $errors = append $errors "ingress: hosts must name at least one host when enabled" }}
{{- end }}
{{- $created := ternary $v.secret dict $v.secret.create }}
{{- $databases := 0 }}
{{- range list $v.database.secretRef $created.databaseUrl $v.postgresql.enabled }}
{{- if . }}{{ $databases = add1 $databases }}{{ end }}
{{- end }}
{{- if and $created (eq (int $databases) 0) }}
{{- $errors = append $errors "secret.databaseUrl: required when secret.create is true and no other value sets a database" }}
{{- else if ne (int $databases) 1 }}
{{- $errors = append $errors "database.secretRef: set exactly one of database.secretRef, secret.databaseUrl (with secret.create) and postgresql.enabled" }}
{{- end }}
{{- if not (or $v.auth.secretRef $created.secretKey (and (eq $v.auth.mode "open") (eq $v.settings.environment "development"))) }}
{{- $errors = append $errors "auth: secretRef is required unless mode is open and settings.environment is development: name a Secret with the key secret-key (openssl rand -hex 32), or set secret.create and secret.secretKey" }}
{{- end }}
{{- if and $v.auth.secretRef $created.secretKey }}
{{- $errors = append $errors "auth.secretRef: set only one of auth.secretRef and secret.secretKey" }}
{{- end }}
{{- if and $created.secretKey (lt (len $created.secretKey) 32) }}
{{- $errors = append $errors "secret.secretKey: must have at least 32 characters (openssl rand -hex 32)" }}
{{- end }}
{{- if ne (empty $created.adminUsername) (empty $created.adminPassword) }}
{{- $errors = append $errors "secret.adminPassword: set both secret.adminUsername and secret.adminPassword, or neither" }}
{{- end }}
{{- if and $created.adminUsername (not $created.secretKey) }}
{{- $errors = append $errors "secret.adminUsername: requires secret.secretKey; if you manage the Secret yourself, add the administrator's keys to it" }}
{{- end }}
{{- if and (eq $v.auth.mode "open") (eq $v.settings.environment "production") }}
{{- $errors = append $errors "auth: mode must not be open when settings.environment is production (its default): name another environment, or set mode to required" }}
{{- end }}
{{- range $v.auth.issuers }}
{{- if eq (hasKey . "role") (hasKey . "roles") }}
{{- $errors = append $errors (printf "auth.issuers: exactly one of role and roles must be set (%s)" .issuer) }}
{{- end }}
{{- if eq (hasKey . "jwks") (hasKey . "jwksUri") }}
{{- $errors = append $errors (printf "auth.issuers: exactly one of jwks and jwksUri must be set (%s)" .issuer) }}
{{- end }}
{{- end }}
{{- if and $v.settings.otel.enabled (not $v.settings.otel.endpoint) }}
{{- $errors = append $errors "settings.otel: endpoint is required when enabled" }}
{{- end }}
{{- if and $v.postgresql.enabled (not $v.postgresql.password) }}
{{- $errors = append $errors "postgresql.password: required when postgresql.enabled; there is no default" }}
{{- end }}
{{- if and $v.valkey.enabled (or $v.redis.secretRef $created.redisUrl) }}
{{- $errors = append $errors "redis.secretRef: set only one of redis.secretRef, secret.redisUrl and valkey.enabled" }}
{{- end }}
{{- if $errors }}
{{- fail (printf "\n\n%s\n" (join "\n" $errors)) }}
{{- end }}
{{- end }}
