{{- define "cytoserve.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "cytoserve.selector" -}}
app.kubernetes.io/name: cytoserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cytoserve.labels" -}}
{{ include "cytoserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "cytoserve.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "cytoserve.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A probe by gRPC's own health service, which needs no key. Kubernetes cannot ask it over TLS, so
there the port must do: it opens when the models are loaded. */}}
{{- define "cytoserve.probe" -}}
{{- if .Values.access.tlsSecret -}}
tcpSocket: {port: grpc}
{{- else -}}
grpc: {port: 8001}
{{- end -}}
{{- end -}}
