{{- /* Parts that the pods of API, workers, migration and test share. */ -}}

{{- define "task-service.podSecurity" -}}
{{- /* The restricted Pod Security Standard. Call with the user id. */ -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "task-service.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "task-service.podBase" -}}
{{- /* Identity and pull secrets. Service links would set variables such as REDIS_PORT. Call with the root. */ -}}
serviceAccountName: {{ .Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "task-service.podSecurity" 10001 | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "task-service.scheduling" -}}
{{- /* Call with (dict "root" $ "component" NAME "values" VALUES). */ -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "task-service.credentialEnv" -}}
- name: DATABASE_URL_FILE
  value: /etc/task-service/database/url
{{- if include "task-service.redisSecret" . | trim }}
- name: REDIS_URL_FILE
  value: /etc/task-service/redis/url
{{- end }}
{{- end }}

{{- define "task-service.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: database
  mountPath: /etc/task-service/database
  readOnly: true
{{- if include "task-service.redisSecret" . | trim }}
- name: redis
  mountPath: /etc/task-service/redis
  readOnly: true
{{- end }}
{{- end }}

{{- define "task-service.volumes" -}}
{{- /* Credentials are files with mode 0440 (288). The kubelet updates them, so a rotation needs no restart. */ -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- range $name, $secret := dict "database" (include "task-service.databaseSecret" . | fromYaml) "redis" (include "task-service.redisSecret" . | fromYaml) }}
{{- if $secret }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret.name }}
    defaultMode: 288
    items:
      - key: {{ $secret.key | quote }}
        path: url
{{- end }}
{{- end }}
{{- end }}

{{- /* The Secret that signs tokens; only the pods of the API have it. */ -}}
{{- define "task-service.authEnv" -}}
{{- with include "task-service.authSecret" . | fromYaml }}
- name: SECRET_KEY_FILE
  value: /etc/task-service/auth/secret-key
- name: ADMIN_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .adminUsername | quote }}
      optional: true
- name: ADMIN_PASSWORD_FILE
  value: /etc/task-service/auth/admin-password
{{- end }}
{{- end }}

{{- define "task-service.authMount" -}}
{{- if include "task-service.authSecret" . | trim }}
- name: auth
  mountPath: /etc/task-service/auth
  readOnly: true
{{- end }}
{{- end }}

{{- define "task-service.authVolume" -}}
{{- /* The same Secret twice, because the signing key is required and the administrator is optional. */ -}}
{{- with include "task-service.authSecret" . | fromYaml }}
- name: auth
  projected:
    defaultMode: 288
    sources:
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .secretKey | quote }}
              path: secret-key
      - secret:
          name: {{ .name }}
          optional: true
          items:
            - key: {{ .adminPassword | quote }}
              path: admin-password
{{- end }}
{{- end }}
