{{/* Parts of NetworkPolicies. */}}

{{/* Who may scrape. */}}
{{- define "sealign.network.prometheus" -}}
{{- if .Values.networkPolicy.prometheus.from -}}
{{ toYaml .Values.networkPolicy.prometheus.from }}
{{- else -}}
- namespaceSelector: {}
{{- end -}}
{{- end -}}

{{/* The egress rule for DNS. */}}
{{- define "sealign.network.dns" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The egress rule for a destination: {to, ports}. No peers, no rule: an empty `to` would mean everybody. */}}
{{- define "sealign.network.outside" -}}
{{- if .to -}}
- to:
    {{- toYaml .to | nindent 4 }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end -}}
{{- end -}}
