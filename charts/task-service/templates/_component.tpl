{{- /* A Deployment, an autoscaler and a PodDisruptionBudget, for the API and for the workers. Call with
       (dict "root" $ "component" "api|worker" "values" .Values.api|worker). */ -}}

{{- define "task-service.deployment" -}}
{{- $selector := include "task-service.selector" . | fromYaml -}}
{{- $labels := include "task-service.podLabels" . | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "task-service.labels" . | nindent 4 }}
spec:
  {{- if and (not .values.autoscaling.enabled) (hasKey .values "replicas") }}
  replicas: {{ int64 .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  # Longer than the startup probes wait for the migration.
  progressDeadlineSeconds: 2100
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 25%
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- toYaml $selector | nindent 6 }}
  template:
    metadata:
      labels:
        {{- merge (deepCopy $labels) .values.podLabels | toYaml | nindent 8 }}
      {{- with .values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "task-service.podBase" .root | nindent 6 }}
      terminationGracePeriodSeconds: {{ int64 .values.terminationGracePeriodSeconds }}
      {{- with include "task-service.scheduling" . }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .values.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- range . }}
        - {{- merge (deepCopy .) (dict "labelSelector" (dict "matchLabels" $selector)) | toYaml | nindent 10 }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "task-service.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [{{ .component }}]
          securityContext:
            {{- include "task-service.containerSecurity" . | nindent 12 }}
          ports:
            {{- if eq .component "api" }}
            - name: http
              containerPort: 8000
            {{- end }}
            - name: management
              containerPort: 8081
          envFrom:
            - configMapRef:
                name: {{ include "task-service.configName" .root }}
          env:
            {{- include "task-service.componentEnv" . | trim | nindent 12 }}
          {{- include "task-service.probes" . | nindent 10 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            {{- include "task-service.mounts" .root | nindent 12 }}
            {{- if eq .component "api" }}
            {{- include "task-service.authMount" .root | nindent 12 }}
            {{- end }}
            - name: trust
              mountPath: /etc/task-service/trust
              readOnly: true
      volumes:
        {{- include "task-service.volumes" .root | nindent 8 }}
        {{- if eq .component "api" }}
        {{- include "task-service.authVolume" .root | nindent 8 }}
        {{- end }}
        - name: trust
          configMap:
            name: {{ .root.Release.Name }}-trust
{{- end }}

{{- define "task-service.componentEnv" -}}
{{- $grace := int64 .values.terminationGracePeriodSeconds -}}
{{- range $name, $path := dict "POD_NAME" "metadata.name" "POD_UID" "metadata.uid" "POD_NAMESPACE" "metadata.namespace" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
- name: CONTAINER_NAME
  value: {{ .component }}
- name: VERSION
  value: {{ include "task-service.version" .root | quote }}
- name: RUNTIME_DIR
  value: /tmp/task-service
- name: TRUSTED_ISSUERS_FILE
  value: /etc/task-service/trust/trusted-issuers.json
{{ include "task-service.credentialEnv" .root }}
{{- if eq .component "api" }}
{{- include "task-service.authEnv" .root }}
{{- end }}
# Five seconds before the kubelet kills the container. The API's preStop sleep takes another five.
- name: SHUTDOWN_SECONDS
  value: {{ ternary (sub $grace 10) (sub $grace 5) (eq .component "api") | quote }}
{{- if eq .component "api" }}
# By then the Service sends no new clients. For these seconds, responses close persistent connections.
- name: DRAIN_SECONDS
  value: "3"
{{- end }}
{{- if eq .component "worker" }}
- name: WORKER_QUEUES
  value: {{ join "," .values.queues | quote }}
- name: WORKER_CONCURRENCY
  value: {{ int64 .values.concurrency | quote }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "task-service.probes" -}}
{{- /* The startup probe waits half an hour for a migrated database. The liveness probe tolerates more than three
       leases: a disconnected worker must detect that itself before the kubelet restarts it. */ -}}
{{- $leases := int64 (mul 3 (int64 .root.Values.settings.leaseSeconds)) -}}
startupProbe:
  httpGet:
    path: /startupz
    port: management
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 1800
readinessProbe:
  httpGet:
    path: /readyz
    port: management
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet:
    path: /livez
    port: management
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: {{ add 2 (div $leases 10) }}
{{- if eq .component "api" }}
# The Service removes the pod from its endpoints before the pod stops accepting connections.
lifecycle:
  preStop:
    sleep:
      seconds: 5
{{- end }}
{{- end }}

{{- define "task-service.autoscaler" -}}
{{- with .values.autoscaling }}
{{- if .enabled -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $.root.Release.Name }}-{{ $.component }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "task-service.labels" $ | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $.root.Release.Name }}-{{ $.component }}
  minReplicas: {{ int64 (.minReplicas | default 1) }}
  maxReplicas: {{ int64 .maxReplicas }}
  metrics:
    - type: ContainerResource
      containerResource:
        name: cpu
        container: {{ $.component }}
        target:
          type: Utilization
          averageUtilization: {{ int64 .targetCPUUtilizationPercentage }}
{{- end }}
{{- end }}
{{- end }}

{{- define "task-service.disruptionBudget" -}}
{{- with .values.podDisruptionBudget }}
{{- if .enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $.root.Release.Name }}-{{ $.component }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "task-service.labels" $ | nindent 4 }}
spec:
  {{- if hasKey . "minAvailable" }}
  minAvailable: {{ include "task-service.intOrString" .minAvailable }}
  {{- else }}
  maxUnavailable: {{ include "task-service.intOrString" (ternary .maxUnavailable 1 (hasKey . "maxUnavailable")) }}
  {{- end }}
  # A pod that is not ready must not block a node drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "task-service.selector" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "task-service.intOrString" -}}
{{- if kindIs "string" . }}{{ . | quote }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}
