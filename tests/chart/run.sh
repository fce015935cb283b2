#!/usr/bin/env bash
# Checks the chart: generated files, lint, unit tests, schema, Kubernetes' own schemas, alert rules, dashboards, and that chart
# and code agree. Says at the end what it could not run and why.
#
# Usage: run.sh        Programs that are missing are built by tests/cluster/binaries.sh, once: Kubernetes takes minutes. Without
# Go, root or disk for that, and with SEALIGN_CHART_NO_BUILD, some checks are skipped; with SEALIGN_CLUSTER_REQUIRED that fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
chart=$root/charts/sealign
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm PYTHONDONTWRITEBYTECODE=1

skipped=() failed=() passed=0

# check NAME PROGRAM... -- COMMAND...: runs the command, or says which of the programs is missing.
check() {
	local name=$1 program
	shift
	while [[ $1 != -- ]]; do
		program=$1
		shift
		if ! command -v "$program" >/dev/null; then
			skipped+=("$name (no $program)")
			while [[ $1 != -- ]]; do shift; done
			return
		fi
	done
	shift
	if "$@" >"$work/out" 2>&1; then
		passed=$((passed + 1))
		echo "ok    $name: $(tail -n 1 "$work/out")"
	else
		failed+=("$name")
		echo "FAIL  $name"
		sed 's/^/      /' "$work/out"
	fi
}

# Builds what the checks run, where it can be built; what is missing is then told check by check.
programs() {
	local builder=$root/tests/cluster/binaries.sh groups=(kube helm helm-unittest kubeconform) group found
	"$root/tests/cluster/packages.sh" chart || true
	[[ -n ${SEALIGN_CHART_NO_BUILD:-} ]] || "$builder" "${groups[@]}" || true
	for group in "${groups[@]}"; do
		if found=$("$builder" --path "$group" 2>/dev/null); then PATH=$found:$PATH; fi
	done
}

lint() {
	local values
	for values in "$here"/values/*.yaml; do
		helm lint --strict "$chart" --values "$values" || return 1
	done
	echo "$(ls "$here"/values | wc -l) sets of values"
}

# Renders every set of values, with what is kept for `helm test` and without.
render() {
	local values
	for values in "$here"/values/*.yaml; do
		helm template sealign "$chart" --namespace sealign-system --values "$values" >"$work/rendered-$(basename "$values")"
	done
}

# Our definitions as JSON, one a line. Helm is the YAML parser that is at hand.
definitions() {
	mkdir -p "$work/convert/templates"
	cp -r "$root/crds/yaml" "$work/convert/files"
	echo '{"apiVersion": "v2", "name": "convert", "version": "0.0.0"}' >"$work/convert/Chart.yaml"
	cat >"$work/convert/templates/all.yaml" <<-'TEMPLATE'
		{{ range $path, $_ := .Files.Glob "files/*.yaml" }}
		---
		{{ $.Files.Get $path | fromYaml | toJson }}
		{{ end }}
	TEMPLATE
	helm template convert "$work/convert" >"$work/definitions"
}

conform() {
	local module
	module=$(cd "$root/tests/cluster/go/kube" && GOFLAGS=-mod=readonly go list -m -f '{{.Dir}}' k8s.io/kubernetes) || return 1
	definitions || return 1
	python3 "$here/schemas.py" "$module" "$work/definitions" "$work/schemas" || return 1
	render || return 1
	# The Prometheus operator's kinds have no schema here; their content is checked by promtool and by unit tests.
	local conform=(kubeconform -strict -summary -skip "ServiceMonitor,PodMonitor,PrometheusRule"
		-schema-location "$work/schemas/{{.ResourceKind}}{{.KindSuffix}}.json")
	# A check that cannot fail checks nothing: a misspelt field has to be refused.
	sed 's/replicas:/replicsa:/' "$work/rendered-defaults.yaml" >"$work/wrong.yaml"
	if "${conform[@]}" "$work/wrong.yaml" >/dev/null; then
		echo "a misspelt field was not refused"
		return 1
	fi
	"${conform[@]}" "$work"/rendered-*.yaml "$root"/manifests/*.yaml
}

rules() {
	cp "$chart"/rules/*.yaml "$here"/rules/*.test.yaml "$work"
	promtool check rules "$chart"/rules/*.yaml || return 1
	local tests
	for tests in "$work"/*.test.yaml; do promtool test rules "$tests" || return 1; done
	python3 "$here/alerts.py" "$chart/rules" "$here/rules" "$root/docs/observability.md"
}

unit() {
	helm-unittest --strict "$chart" | sed 's/\x1b\[[0-9;]*m//g' >"$work/unit" || {
		cat "$work/unit"
		return 1
	}
	grep -E '^Tests:' "$work/unit"
}

programs
check "generated files are current" python3 -- python3 "$root/charts/generate.py" --check
check "helm lint" helm -- lint
check "helm-unittest" helm-unittest -- unit
check "values.schema.json refuses" helm python3 -- python3 "$here/refusals.py" "$chart"
check "kubeconform" helm kubeconform go python3 -- conform
check "alert rules" promtool python3 -- rules
check "metrics of dashboards and rules" python3 -- python3 "$here/metrics.py" "$root"
check "queries of dashboards parse" promtool python3 -- python3 "$here/queries.py" "$chart/dashboards"
check "chart and code agree" helm python3 -- python3 "$here/contract.py" "$root"
check "admission policies on a real API server" helm kubectl kube-apiserver etcd openssl python3 -- python3 "$here/admission.py" "$chart"

for name in "${skipped[@]}"; do echo "skipped: $name"; done
echo "test-chart: $passed passed, ${#failed[@]} failed, ${#skipped[@]} skipped"
[[ ${#failed[@]} -eq 0 && (${#skipped[@]} -eq 0 || -z ${SEALIGN_CLUSTER_REQUIRED:-}) ]]
