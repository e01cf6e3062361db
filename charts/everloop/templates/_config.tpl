{{/* Files that hold secrets or digests of them; each is given (list root keys). */}}

{{- define "everloop.principals" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
[[principal]]
kind = "Person"
id = "admin"
roles = ["admin", "operator", "approver", "releaser", "viewer"]
team = {{ $root.Values.triggers.team | quote }}
api_keys = [{{ index $keys "api-key-admin" | sha256sum | quote }}]
{{ range $id := list "n8n" "alertmanager" "minio" "push" "airflow" }}
[[principal]]
kind = "Service"
id = {{ $id | quote }}
roles = [{{ if or (eq $id "airflow") (eq $id "n8n") }}"scheduler", {{ end }}"signaller"]
team = {{ $root.Values.triggers.team | quote }}
api_keys = [{{ index $keys (printf "api-key-%s" $id) | sha256sum | quote }}]
{{ end }}
# Of no team, so that all it may do is read metrics.
[[principal]]
kind = "Service"
id = "prometheus"
roles = ["scheduler"]
team = "-"
api_keys = [{{ index $keys "api-key-prometheus" | sha256sum | quote }}]
{{ end -}}

{{- define "everloop.triggersToml" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
storage = {{ include "everloop.storage" $root | quote }}
host = "0.0.0.0"
port = 8400
public_url = {{ $root.Values.triggers.publicUrl | quote }}
principals = "/etc/everloop/principals.toml"
state = "/tmp/everloop/door"
session_key = {{ index $keys "session-key" | quote }}
{{- range $alias, $rule := $root.Values.triggers.aliases }}

[aliases.{{ $alias }}]
{{- range $key, $value := $rule }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}

[webhook_secrets]
{{- range $id := list "n8n" "alertmanager" "minio" "push" "airflow" }}
"Service::{{ $id }}" = [{{ index $keys (printf "webhook-%s" $id) | quote }}]
{{- end }}
{{ end -}}

{{- define "everloop.alertmanagerYaml" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
route:
  receiver: everloop
  group_by: [alertname, alias]
  group_wait: {{ $root.Values.alertmanager.groupWait }}
  group_interval: {{ $root.Values.alertmanager.groupInterval }}
  repeat_interval: {{ $root.Values.alertmanager.repeatInterval }}
receivers:
  - name: everloop
    webhook_configs:
      - url: http://{{ include "everloop.name" $root }}-triggers:8400/v1/hooks/alertmanager
        send_resolved: true
        http_config:
          authorization:
            type: Bearer
            credentials: {{ index $keys "api-key-alertmanager" }}
{{ end -}}

{{- define "everloop.reconcileToml" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
{{- with $root.Values.triggers.publicUrl }}
public_url = {{ . | quote }}
{{- end }}
principals = "/etc/everloop/principals.toml"
{{- if $root.Values.n8n.enabled }}
{{- $n8n := printf "http://%s-n8n:5678/webhook" (include "everloop.name" $root) }}

[[notify]]
name = "people"
url = "{{ $n8n }}/everloop-notify"
secret = {{ index $keys "webhook-n8n" | quote }}
events = ["*", "!approval.requested"]

[[notify]]
name = "approvers"
url = "{{ $n8n }}/everloop-approve"
secret = {{ index $keys "webhook-n8n" | quote }}
events = ["approval.requested"]
{{- end }}
{{ end -}}

{{- define "everloop.airflowConnections" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
{{- $ray := dict "conn_type" "http" "schema" "http" "host" (include "everloop.head" $root) "port" 8265 "password" (index $keys "auth_token") -}}
{{- $door := dict "conn_type" "http" "schema" "http" "host" (printf "%s-triggers" (include "everloop.name" $root)) "port" 8400 "password" (index $keys "api-key-airflow") -}}
{{ dict "everloop_ray" $ray "everloop_door" $door | toJson }}
{{- end -}}

{{- define "everloop.n8nToml" -}}
{{- $keys := index . 1 -}}
{{- $root := index . 0 -}}
state = "/data"

[server]
host = "0.0.0.0"
public_url = "http://{{ include "everloop.name" $root }}-n8n:5678"
allowed_ranges = {{ $root.Values.n8n.allowedRanges | toJson }}
encryption_key = {{ index $keys "n8n-encryption-key" | quote }}
metrics_key_sha256 = {{ index $keys "api-key-prometheus" | sha256sum | quote }}

[door]
url = "http://{{ include "everloop.name" $root }}-triggers:8400"
api_key = {{ index $keys "api-key-n8n" | quote }}

[webhook]
secret = {{ index $keys "webhook-n8n" | quote }}
{{- range $section, $settings := $root.Values.n8n.settings }}

[{{ $section }}]
{{- range $key, $value := $settings }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{ end -}}

{{/* The interpreter of drivers that are submitted as Ray Jobs: it holds what lets them ask for credentials of each step, and the key
that signs what they write into the audit log. As variables of the head they would reach every worker process. */}}
{{- define "everloop.driverPython" -}}
{{- $keys := index . 1 -}}
#!/bin/sh
export EVERLOOP_AUDIT_KEY='{{ index $keys "audit-key" }}'
{{- if include "everloop.brokered" (index . 0) }}
export EVERLOOP_BROKER_ACCESS_KEY='{{ index $keys "storage-access-key" }}'
export EVERLOOP_BROKER_SECRET_KEY='{{ index $keys "storage-secret-key" }}'
{{- end }}
exec python3 "$@"
{{ end -}}
