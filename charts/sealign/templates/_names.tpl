{{/* Names, labels and the values that several templates share. */}}

{{/* The name that objects begin with: the release's, or release and chart where the release is called otherwise. */}}
{{- define "sealign.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sealign.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: sealign
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: sealign
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What selects the operator's pods; never changes, for a Deployment's selector cannot. */}}
{{- define "sealign.operator.selector" -}}
app.kubernetes.io/name: sealign
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "sealign.operator.account" -}}
{{- .Values.serviceAccounts.operator.name | default (printf "%s-operator" (include "sealign.fullname" .)) -}}
{{- end -}}

{{/* Prefix of the accounts of the zones. */}}
{{- define "sealign.prefix" -}}
{{- .Values.serviceAccounts.prefix | default (include "sealign.fullname" .) -}}
{{- end -}}

{{- define "sealign.rankService" -}}
{{- printf "%s-ranks" (include "sealign.prefix" .) -}}
{{- end -}}

{{/* Trust zones of produced pods, as a JSON list. */}}
{{- define "sealign.zones" -}}
["resolve","runner","sandbox","forest","trainer","server","report"]
{{- end -}}

{{/* The repository of an image, without tag and digest. */}}
{{- define "sealign.repository" -}}
{{- with .image.registry -}}{{ . | trimSuffix "/" }}/{{- end -}}{{ .image.repository }}
{{- end -}}

{{/* An image reference: by digest where there is one, else by tag, else by the version of the application. */}}
{{- define "sealign.image" -}}
{{- include "sealign.repository" . -}}
{{- if .image.digest -}}@{{ .image.digest }}{{- else -}}:{{ .image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* Name of the Secret that holds the storage credentials; empty with workload identity. */}}
{{- define "sealign.storeSecret" -}}
{{- if .Values.store.credentials.existingSecret -}}
{{- .Values.store.credentials.existingSecret -}}
{{- else if .Values.store.credentials.create -}}
{{- printf "%s-store" (include "sealign.prefix" .) -}}
{{- end -}}
{{- end -}}

{{/* Patterns of images that sandboxes may run, as a JSON list; empty where any is allowed. */}}
{{- define "sealign.sandboxImages" -}}
{{- with .Values.sandboxes.allowedImages -}}
{{- append . $.Values.sandboxes.pythonImage | uniq | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* A CEL expression that is true where the image `c.image` matches one of a list of patterns. */}}
{{- define "sealign.imageMatches" -}}
{{- $parts := list -}}
{{- range . -}}{{- $parts = append $parts (printf "c.image.matches(r'^%s$')" (regexQuoteMeta . | replace "\\*" ".*")) -}}{{- end -}}
{{- join " || " $parts -}}
{{- end -}}

{{/* What the operator calls its installation: JSON of the environment variable SEALIGN_INSTALLATION. */}}
{{- define "sealign.installation" -}}
{{- $image := include "sealign.image" (dict "image" .Values.image "root" .) -}}
{{- $installation := dict
  "namespaces" (.Values.namespaces | sortAlpha)
  "workerImage" $image
  "sandboxImage" $image
  "trainerImage" (include "sealign.image" (dict "image" .Values.trainerImage "root" .))
  "serviceAccountPrefix" (include "sealign.prefix" .)
  "rankService" (include "sealign.rankService" .)
  "userNamespaces" .Values.sandboxes.userNamespaces
  "workerStartSeconds" (.Values.rounds.workerStartSeconds | int64)
  "workerRoundSeconds" (.Values.rounds.workerRoundSeconds | int64)
  "barrenWaitSeconds" (.Values.rounds.barrenWaitSeconds | int64)
  "isSerial" .Values.rounds.serialSteps
-}}
{{- with include "sealign.storeSecret" . -}}{{- $_ := set $installation "storeSecret" . -}}{{- end -}}
{{- with .Values.sandboxes.runtimeClassName -}}{{- $_ := set $installation "runtimeClassName" . -}}{{- end -}}
{{- $installation | toJson -}}
{{- end -}}

{{/* The pod's part of Pod Security `restricted`. */}}
{{- define "sealign.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sealign.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
