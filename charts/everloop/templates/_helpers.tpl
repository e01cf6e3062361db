{{- define "everloop.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "everloop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: everloop
{{ include "everloop.selector" . }}
{{- end -}}

{{- define "everloop.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Image of a role: (list root "ray"). A role's own `image` wins over registry, name and tag. */}}
{{- define "everloop.image" -}}
{{- $root := index . 0 -}}{{- $role := index . 1 -}}
{{- $own := index $root.Values.images.overrides $role | default "" -}}
{{- if $own -}}{{ $own }}{{- else -}}
{{ printf "%s/%s:%s" $root.Values.images.registry $role ($root.Values.images.tag | default $root.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- define "everloop.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "everloop.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What each pod of ours says about itself. */}}
{{- define "everloop.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "everloop.podSecurity" . | nindent 2 }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "everloop.secret" -}}
{{- .Values.secrets.existingSecret | default (printf "%s-secrets" (include "everloop.name" .)) -}}
{{- end -}}

{{- define "everloop.minioUrl" -}}
http://{{ include "everloop.name" . }}-minio:9000
{{- end -}}

{{- define "everloop.storage" -}}
{{- if .Values.storage.uri -}}{{ .Values.storage.uri }}
{{- else if .Values.minio.enabled -}}s3://{{ .Values.minio.bucket }}/{{ .Values.storage.prefix }}?endpoint_override={{ include "everloop.minioUrl" . }}
{{- else -}}{{ fail "storage.uri: needed when minio.enabled is false" }}
{{- end -}}
{{- end -}}

{{/* "yes" if each step of a run gets storage credentials of its own. */}}
{{- define "everloop.brokered" -}}
{{- if and .Values.storage.stepCredentials (or .Values.minio.enabled (contains "endpoint_override" .Values.storage.uri)) -}}yes{{- end -}}
{{- end -}}

{{/* For whoever drives runs: signs what it writes into the audit log, and lets it ask for those credentials. */}}
{{- define "everloop.driverEnv" -}}
{{ include "everloop.secretEnv" (list . "EVERLOOP_AUDIT_KEY" "audit-key") }}
{{- if include "everloop.brokered" . }}
{{ include "everloop.secretEnv" (list . "EVERLOOP_BROKER_ACCESS_KEY" "storage-access-key") }}
{{ include "everloop.secretEnv" (list . "EVERLOOP_BROKER_SECRET_KEY" "storage-secret-key") }}
{{- end }}
{{- end -}}

{{- define "everloop.trackingUri" -}}
{{- if .Values.mlflow.externalUri -}}{{ .Values.mlflow.externalUri }}
{{- else if .Values.mlflow.enabled -}}http://{{ include "everloop.name" . }}-mlflow:5000
{{- end -}}
{{- end -}}

{{- define "everloop.cluster" -}}{{ include "everloop.name" . }}-ray{{- end -}}
{{- define "everloop.head" -}}{{ include "everloop.cluster" . }}-head-svc{{- end -}}
{{- define "everloop.endpoint" -}}http://{{ include "everloop.name" . }}-serve:8000{{- end -}}

{{- define "everloop.headPriority" -}}
{{- $head := .Values.ray.head -}}
{{- if $head.priorityClassName -}}{{ $head.priorityClassName }}
{{- else if $head.priorityClass.create -}}{{ .Release.Namespace }}-{{ include "everloop.name" . }}-head
{{- end -}}
{{- end -}}

{{- define "everloop.secretEnv" -}}
{{- $root := index . 0 -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "everloop.secret" $root }}
      key: {{ index . 2 }}
{{- end -}}

{{/* What the code of the loop reads, on every node. */}}
{{- define "everloop.loopEnv" -}}
- name: EVERLOOP_STORAGE
  value: {{ include "everloop.storage" . | quote }}
- name: EVERLOOP_ENDPOINT
  value: {{ include "everloop.endpoint" . | quote }}
{{- with (include "everloop.trackingUri" .) }}
- name: MLFLOW_TRACKING_URI
  value: {{ . | quote }}
{{- end }}
{{ include "everloop.secretEnv" (list . "AWS_ACCESS_KEY_ID" "storage-access-key") }}
{{ include "everloop.secretEnv" (list . "AWS_SECRET_ACCESS_KEY" "storage-secret-key") }}
{{- with .Values.storage.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Probes: (dict "path" "port" ...). Time-outs are long: a slow answer is no dead process. */}}
{{- define "everloop.probes" -}}
startupProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 10
  failureThreshold: {{ .startup | default 60 }}
readinessProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
livenessProbe:
  {{- if .live }}
  httpGet: {path: {{ .live }}, port: {{ .port }}}
  {{- else }}
  tcpSocket: {port: {{ .port }}}
  {{- end }}
  periodSeconds: 20
  timeoutSeconds: 15
  failureThreshold: 6
{{- end -}}

{{- define "everloop.scrape" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: {{ .path | default "/metrics" | quote }}
{{- end -}}

{{/* A claim that outlives the release: (dict "root" $ "component" "minio" "persistence" .Values.minio.persistence). */}}
{{- define "everloop.claim" -}}
{{- if not .persistence.existingClaim }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "everloop.name" .root }}-{{ .component }}
  labels:
    {{- include "everloop.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with .persistence.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .persistence.size }}
{{- end }}
{{- end -}}

{{- define "everloop.claimName" -}}
{{- .persistence.existingClaim | default (printf "%s-%s" (include "everloop.name" .root) .component) -}}
{{- end -}}

{{- define "everloop.configChecksum" -}}
{{- toJson (dict "triggers" .Values.triggers "alertmanager" .Values.alertmanager "n8n" .Values.n8n "storage" .Values.storage) | sha256sum | trunc 16 -}}
{{- end -}}

{{- define "everloop.rayContainer" -}}
image: {{ include "everloop.image" (list . .Values.ray.image) }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- include "everloop.containerSecurity" . | nindent 2 }}
env:
  {{- include "everloop.loopEnv" . | nindent 2 }}
  {{- include "everloop.driftEnv" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: shared-mem, mountPath: /dev/shm}
  {{- include "everloop.driftMount" . | nindent 2 }}
  {{- if .isHead }}
  - {name: config, mountPath: /etc/everloop, readOnly: true}
  {{- end }}
lifecycle:
  preStop:
    exec:
      # Time for the Service and the router to stop sending here before Ray is told to end.
      command: [/bin/sh, -c, "sleep {{ .Values.ray.drainSeconds }}"]
{{- end -}}

{{- define "everloop.rayVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .Values.ray.tmpSize }}}
- name: shared-mem
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.ray.sharedMemorySize }}}
{{- if .Values.drift.enabled }}
- name: drift
  emptyDir: {sizeLimit: {{ .Values.drift.size }}}
{{- end }}
{{- end -}}

{{/* alibi-detect: a step starts it as a process of its own, so it must lie in the same container. */}}
{{- define "everloop.driftInit" -}}
{{- if .Values.drift.enabled }}
initContainers:
  - name: drift
    image: {{ include "everloop.image" (list . "drift") }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    # With its times, by which Python knows that what it compiled still holds; without the folder itself, which is not its own.
    command: [sh, -c, "cp -r --preserve=timestamps /opt/drift/* /copy/"]
    securityContext:
      {{- include "everloop.containerSecurity" . | nindent 6 }}
    resources:
      {{- toYaml .Values.drift.resources | nindent 6 }}
    volumeMounts:
      - {name: drift, mountPath: /copy}
{{- end }}
{{- end -}}

{{- define "everloop.driftEnv" -}}
{{- if .Values.drift.enabled -}}
- {name: EVERLOOP_ALIBI_PYTHON, value: /opt/drift/bin/python3}
- {name: NUMBA_CACHE_DIR, value: /tmp/numba}
{{- end -}}
{{- end -}}

{{- define "everloop.driftMount" -}}
{{- if .Values.drift.enabled -}}
- {name: drift, mountPath: /opt/drift, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "everloop.headConfig" -}}
- name: config
  secret:
    secretName: {{ include "everloop.secret" . }}
    defaultMode: 0440
    items:
      - {key: reconcile.toml, path: reconcile.toml}
      - {key: principals.toml, path: principals.toml}
      - {key: python, path: python, mode: 0550}
{{- end -}}

{{- define "everloop.airflowContainer" -}}
image: {{ include "everloop.image" (list . "airflow") }}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  {{- include "everloop.containerSecurity" . | nindent 2 }}
env:
  - {name: AIRFLOW__API__PORT, value: "8080"}
  - {name: AIRFLOW__API__WORKERS, value: "1"}
  - {name: EVERLOOP_CRON, value: {{ .Values.airflow.cron | quote }}}
  - {name: AIRFLOW__CORE__EXECUTION_API_SERVER_URL, value: "http://127.0.0.1:8080/execution/"}
  - {name: AIRFLOW__CORE__PARALLELISM, value: {{ .Values.airflow.parallelism | quote }}}
  - {name: AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS, value: "admin:admin"}
  - {name: AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE, value: /tmp/passwords.json}
  - {name: AIRFLOW__LOGGING__BASE_LOG_FOLDER, value: /data/logs}
  - {name: AIRFLOW__SECRETS__BACKEND, value: airflow.secrets.local_filesystem.LocalFilesystemBackend}
  - name: AIRFLOW__SECRETS__BACKEND_KWARGS
    value: '{"connections_file_path": "/etc/everloop/connections.json", "variables_file_path": "/etc/everloop/variables.json"}'
  - name: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN
    {{- if .Values.airflow.databaseSecret }}
    valueFrom:
      secretKeyRef: {name: {{ .Values.airflow.databaseSecret }}, key: uri}
    {{- else }}
    value: sqlite:////data/airflow.db
    {{- end }}
  {{- include "everloop.secretEnv" (list . "AIRFLOW__CORE__FERNET_KEY" "airflow-fernet-key") | nindent 2 }}
  {{- include "everloop.secretEnv" (list . "AIRFLOW__API_AUTH__JWT_SECRET" "airflow-jwt") | nindent 2 }}
resources:
  {{- toYaml .Values.airflow.resources | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  - {name: config, mountPath: /etc/everloop, readOnly: true}
{{- end -}}
