"""The Grafana dashboards, written down once and briefly; `generate.py` writes the JSON that the chart ships.

Classic dashboards (not the newer resource form, which sidecars do not load). Each has a stable uid, a data source variable, and
a namespace and a name variable where objects are shown. Panels flow from left to right on Grafana's grid of 24 columns.
"""

import json

GRID = 24
OURS = 'controller=~"tasksets|rolloutcampaigns|trajectoryforests|alignmentruns|benchmarks"'
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(kind, title, *queries, unit="short", width=8, height=7, note="", **options):
    """A panel: its type, its title, and (expression, legend) a line. `options` go into the panel's defaults or options."""
    is_instant = kind in ("stat", "table", "bargauge")
    targets = [
        {
            "datasource": DATA_SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "refId": chr(ord("A") + number),
            "instant": is_instant,
            "range": not is_instant,
            **({"format": "table"} if kind == "table" else {}),
        }
        for number, (expression, legend) in enumerate(queries)
    ]
    defaults = {"unit": unit, "min": 0} | options.get("defaults", {})
    defaults = {key: value for key, value in defaults.items() if value is not None}
    return {
        "type": kind,
        "title": title,
        "description": note,
        "datasource": DATA_SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": options.get("overrides", [])},
        "options": LOOKS[kind] | options.get("options", {}),
        **({"transformations": options["transformations"]} if "transformations" in options else {}),
        "gridPos": {"w": width, "h": height},
    }


LOOKS = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    },
    "bargauge": {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}


def quantile(share, buckets, label):
    """The time within which `share` of the observations of a histogram ended, a value of `label` each."""
    return f"histogram_quantile({share}, sum by (le, {label}) (rate({buckets}[$__rate_interval])))"


def lines(title, *queries, **options):
    """Curves over time."""
    return panel("timeseries", title, *queries, **options)


def stacked(title, *queries, **options):
    """Curves over time, one upon the other."""
    custom = {"custom": {"stacking": {"mode": "normal"}, "fillOpacity": 40, "lineWidth": 1}}
    return panel("timeseries", title, *queries, defaults=custom, **options)


def number(title, expression, legend="", **options):
    """One number, or one a series."""
    return panel("stat", title, (expression, legend), **({"width": 4, "height": 4} | options))


def bars(title, *queries, **options):
    """Horizontal bars, one a series."""
    return panel("bargauge", title, *queries, **options)


def conditions(kind, types, width=24):
    """The table of conditions of a kind's objects."""
    hidden = {name: True for name in ("Time", "Value", "__name__", "kind", "job", "instance", "pod", "container", "endpoint", "service")}
    expression = f'sealign_resource_condition{{kind="{kind}",namespace=~"$namespace",name=~"$name",type=~"{types}"}} == 1'
    return panel(
        "table",
        "Conditions",
        (expression, ""),
        width=width,
        note="What each object says of itself; kubectl describe shows reason and message.",
        transformations=[{"id": "organize", "options": {"excludeByName": hidden}}],
    )


def row(title):
    """A heading."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": GRID, "h": 1}}


def placed(panels):
    """Panels with ids and positions, from left to right and from top to bottom."""
    x = y = tallest = 0
    for number_, one in enumerate(panels, start=1):
        size = one["gridPos"]
        if x + size["w"] > GRID:
            x, y, tallest = 0, y + tallest, 0
        one["id"], one["gridPos"] = number_, {"x": x, "y": y, **size}
        x, tallest = x + size["w"], max(tallest, size["h"])
    return panels


def variable(name, label, query):
    """A variable of the values that `query` has."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATA_SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid, title, note, panels, kind=None):
    """A dashboard; with `kind`, over objects of that kind."""
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}}
    ]
    if kind:
        of_kind = f'sealign_resource_condition{{kind="{kind}"}}'
        variables.append(variable("namespace", "Namespace", f"label_values({of_kind}, namespace)"))
        of_kind = f'sealign_resource_condition{{kind="{kind}",namespace=~"$namespace"}}'
        variables.append(variable("name", kind, f"label_values({of_kind}, name)"))
    link = {"title": "SEAlign", "type": "dashboards", "tags": ["sealign"], "asDropdown": True, "includeVars": False, "keepTime": True}
    return {
        "uid": f"sealign-{uid}",
        "title": f"SEAlign / {title}",
        "description": note,
        "tags": ["sealign"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": []},
        "links": [link],
        "panels": placed(panels),
    }


OBJECT = 'namespace=~"$namespace",name=~"$name"'
RUNNER = 'namespace=~"$namespace",owner_name=~"$name"'
# Pods of trainers, which do not know the name of their run.
PODS = 'namespace=~"$namespace"'


def campaigns():
    """What runners do: attempts, gradings, sandboxes, models, store."""
    attempts = f"sealign_campaign_outcomes{{{OBJECT}}}"
    requests = f"sealign_runner_model_requests_total{{{RUNNER}}}"
    seconds = f"sealign_runner_model_request_seconds_bucket{{{RUNNER}}}"
    return dashboard(
        "campaigns",
        "Campaigns",
        "Attempts of policies at tasks, in sandboxes, and their grading. Work is what statuses say; the rest comes from runners and ends with them.",
        [
            row("Work"),
            number("Recorded attempts", f"sum(sealign_campaign_attempts_recorded{{{OBJECT}}})"),
            number("of planned", f"sum(sealign_campaign_attempts_recorded{{{OBJECT}}}) / sum(sealign_campaign_attempts{{{OBJECT}}})", unit="percentunit"),
            number("Resolved", f'sum({attempts[:-1]},outcome="Resolved"}}) / sum({attempts})', unit="percentunit"),
            number("Lost to infrastructure", f'(sum({attempts[:-1]},outcome="Infra"}}) or vector(0)) / sum({attempts})', unit="percentunit", note="In no rate of the model."),
            number("Attempts a minute", f"sum(sealign_campaign_attempts_per_minute{{{OBJECT}}})"),
            number("Until the end", f"max(sealign_campaign_eta_seconds{{{OBJECT}}})", unit="s"),
            stacked("Attempts by outcome", (f"sum by (outcome) ({attempts})", "{{outcome}}"), width=12),
            bars("Outcomes", (f"sort_desc(sum by (outcome) ({attempts}))", "{{outcome}}"), width=6),
            lines("Tokens", (f"sealign_campaign_tokens{{{OBJECT}}}", "{{namespace}}/{{name}}"), width=6, note="Of all tries, those that infrastructure failed included."),
            lines("Recorded of planned", (f"sealign_campaign_attempts_recorded{{{OBJECT}}} / sealign_campaign_attempts{{{OBJECT}}}", "{{namespace}}/{{name}}"), unit="percentunit"),
            lines("Gradings", (f"sum(sealign_campaign_gradings_recorded{{{OBJECT}}})", "recorded"), (f"sum(sealign_runner_gradings_known{{{RUNNER}}})", "known to be needed")),
            lines("Task sets", ("sealign_taskset_tasks", "{{namespace}}/{{name}} tasks"), ("sealign_taskset_healthy", "{{namespace}}/{{name}} healthy"), ("sealign_taskset_quarantined", "{{namespace}}/{{name}} put aside")),
            row("Sandboxes"),
            stacked("Pods", (f"sum by (phase) (sealign_runner_pods{{{RUNNER}}})", "{{phase}}"), width=12, note="Waiting pods pull images or find no node."),
            lines("At work", (f"sum by (owner_kind, owner_name) (sealign_runner_in_flight{{{RUNNER}}})", "{{owner_kind}} {{owner_name}}"), note="Attempts and gradings. Running pods that are not at work wait for the runner."),
            number("Runners not ready", f"count(sealign_runner_ready{{{RUNNER}}} == 0) or vector(0)", height=7, note="/readyz of the pod says why."),
            row("Models"),
            lines("Tokens a second", (f"sum by (policy, direction) (rate(sealign_runner_tokens_total{{{RUNNER}}}[$__rate_interval]))", "{{policy}} {{direction}}")),
            stacked("Requests a second by result", (f"sum by (policy, result) (rate({requests}[$__rate_interval]))", "{{policy}} {{result}}"), unit="reqps"),
            lines("Time of a request", (quantile(0.5, seconds, "policy"), "{{policy}} half"), (quantile(0.95, seconds, "policy"), "{{policy}} 95 of 100"), unit="s", note="Waits for a model that throttles are part of it."),
            row("Store and process"),
            stacked("Store requests a second", (f"sum by (operation) (rate(sealign_runner_store_requests_total{{{RUNNER}}}[$__rate_interval]))", "{{operation}}"), unit="reqps"),
            lines("Store requests that fail", (f"sum by (operation) (rate(sealign_runner_store_errors_total{{{RUNNER}}}[$__rate_interval])) or vector(0)", "{{operation}}"), unit="reqps"),
            lines("Memory of runners", (f"process_resident_memory_bytes{{{RUNNER}}}", "{{owner_kind}} {{owner_name}}"), unit="bytes"),
            conditions("RolloutCampaign", "Succeeded|Finished|Suspended|BudgetExhausted|ImagePullFailing|Unschedulable"),
        ],
        kind="RolloutCampaign",
    )


def control_plane():
    """The operator itself."""
    total = f"controller_runtime_reconcile_total{{{OURS}}}"
    buckets = f"controller_runtime_reconcile_time_seconds_bucket{{{OURS}}}"
    ours = "and on (job, instance) sealign_build_info"
    return dashboard(
        "control-plane",
        "Control plane",
        "The operator: who leads, how often and how long it looks, what it writes, what it uses.",
        [
            number("Replicas", "count(sealign_build_info)"),
            number("Leaders", f"sum(leader_election_master_status {ours})"),
            number("Objects", "count(count by (kind, namespace, name) (sealign_resource_condition))"),
            number("Under way", 'count(sealign_resource_condition{type="Succeeded",status="Unknown"} == 1) or vector(0)'),
            number("Failed", 'count(sealign_resource_condition{type="Succeeded",status="False"} == 1) or vector(0)'),
            number("Reconciles that fail", f"(sum(rate(controller_runtime_reconcile_errors_total{{{OURS}}}[$__rate_interval])) or vector(0)) / sum(rate({total}[$__rate_interval]))", unit="percentunit"),
            stacked("Reconciles a second", (f"sum by (controller, result) (rate({total}[$__rate_interval]))", "{{controller}} {{result}}"), unit="ops"),
            lines("Time of a reconcile, 99 of 100", (quantile(0.99, buckets, "controller"), "{{controller}}"), unit="s"),
            lines("Time of a reconcile, half", (quantile(0.5, buckets, "controller"), "{{controller}}"), unit="s"),
            lines("Workers in use", (f"controller_runtime_active_workers{{{OURS}}} / controller_runtime_max_concurrent_reconciles{{{OURS}}}", "{{controller}}"), unit="percentunit"),
            stacked("Writes a second", ("sum by (controller) (rate(sealign_commands_total[$__rate_interval]))", "{{controller}} commands"), ("sum by (controller) (rate(sealign_status_writes_total[$__rate_interval]))", "{{controller}} statuses"), unit="wps", note="Idle means none: a finished object costs nothing."),
            stacked("API requests a second", (f"sum by (code) (rate(rest_client_requests_total[$__rate_interval]) {ours})", "{{code}}"), unit="reqps"),
            lines("Time of an API request, 99 of 100", ("histogram_quantile(0.99, sum by (le, verb) (rate(rest_client_request_duration_seconds_bucket[$__rate_interval]) and on (job, instance) sealign_build_info))", "{{verb}}"), unit="s"),
            stacked("API requests by what they touch", ("sum by (verb, resource) (rate(sealign_api_requests_total[$__rate_interval]))", "{{verb}} {{resource}}"), unit="reqps"),
            lines("Lease", (f"max by (instance) (leader_election_master_status {ours})", "{{instance}}")),
            lines("Memory", (f"process_resident_memory_bytes {ours}", "{{instance}}"), unit="bytes"),
            lines("Processor", (f"rate(process_cpu_seconds_total[$__rate_interval]) {ours}", "{{instance}}"), unit="short"),
            lines("Open files", (f"process_open_fds {ours}", "{{instance}}")),
            panel(
                "table",
                "Objects by condition",
                ("count by (kind, type, status) (sealign_resource_condition == 1)", ""),
                width=16,
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": "objects"}}}],
            ),
            panel(
                "table",
                "Versions",
                ("count by (version) (sealign_build_info)", ""),
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": {"Value": "replicas"}}}],
            ),
        ],
    )


def forests():
    """Forests: what was read, kept and taken."""
    name = "{{namespace}}/{{name}}"
    return dashboard(
        "forests",
        "Forests",
        "Trajectories merged into trees, and the pairs that they give.",
        [
            number("Trajectories", f"sum(sealign_forest_trajectories{{{OBJECT}}})"),
            number("Successful", f"sum(sealign_forest_trajectories_successful{{{OBJECT}}})"),
            number("Nodes", f"sum(sealign_forest_nodes{{{OBJECT}}})"),
            number("Critical pairs", f"sum(sealign_forest_critical_pairs{{{OBJECT}}})"),
            number("on a single path", f"sum(sealign_forest_single_path_pairs{{{OBJECT}}}) / sum(sealign_forest_critical_pairs{{{OBJECT}}})", unit="percentunit", note="Pairs one of whose sides was seen once. A second pass at the deciding nodes gives them evidence."),
            number("SFT examples", f"sum(sealign_forest_sft_examples{{{OBJECT}}})"),
            bars("Trajectories", (f"sealign_forest_trajectories{{{OBJECT}}}", name), width=12),
            bars("Successful trajectories", (f"sealign_forest_trajectories_successful{{{OBJECT}}}", name), width=12),
            bars("Nodes", (f"sealign_forest_nodes{{{OBJECT}}}", name)),
            bars("Critical pairs", (f"sealign_forest_critical_pairs{{{OBJECT}}}", name)),
            bars("SFT examples", (f"sealign_forest_sft_examples{{{OBJECT}}}", name)),
            conditions("TrajectoryForest", "Succeeded|Finished"),
        ],
        kind="TrajectoryForest",
    )


def alignment():
    """Training."""
    name, pod = "{{namespace}}/{{name}}", "{{pod}}"
    free = {"defaults": {"min": None}}
    return dashboard(
        "alignment",
        "Alignment",
        "Runs of SFT and DPO: losses, reward margins, speed, and what benchmarks say before and after.",
        [
            number("Runs under way", f'count(sealign_resource_condition{{kind="AlignmentRun",type="Succeeded",status="Unknown",{OBJECT}}} == 1) or vector(0)', width=6),
            number("Promoted", f'count(sealign_resource_condition{{kind="AlignmentRun",type="Promoted",status="True",{OBJECT}}} == 1) or vector(0)', width=6, note="Runs whose model won its paired test."),
            number("Loss", f"sealign_training_loss{{{OBJECT}}}", name, width=6, **free),
            number("Tokens a second", f"sum(sealign_training_tokens_per_second{{{OBJECT}}})", width=6),
            lines("Loss of the step at work", (f"sealign_training_loss{{{OBJECT}}}", name), width=12, note="SFT: cross entropy a token. DPO: starts near 0.693.", **free),
            lines("Reward margin (DPO)", (f"sealign_training_reward_margin{{{OBJECT}}}", name), width=12, note="Should rise from 0.", **free),
            lines("Tokens a second", (f"sealign_training_tokens_per_second{{{OBJECT}}}", name), width=12),
            bars("Benchmarks of the runs", ('sealign_benchmark_resolved_percent{namespace=~"$namespace"}', name), unit="percent", width=12, note="Named <run>-<benchmark>-base, -sft and -dpo.", defaults={"max": 100}),
            lines("Gradient norm", (f"sealign_trainer_gradient_norm{{{PODS}}}", pod), width=8, note="Before clipping, of the first rank of a training. Spikes that stay: a lower learning rate.", **free),
            lines("Rows that sharing saves", (f"1 - sealign_trainer_rows{{{PODS}}} / sealign_trainer_linear_rows{{{PODS}}}", pod), unit="percentunit", width=8, note="Prefixes of the last step that are computed once instead of once an example."),
            lines("Largest memory", (f"sealign_trainer_peak_memory_bytes{{{PODS}}}", pod), unit="bytes", width=8, note="Resident, of the first rank."),
            conditions("AlignmentRun", "Succeeded|Finished|Suspended|Promoted"),
        ],
        kind="AlignmentRun",
    )


def benchmark():
    """Rates of benchmarks."""
    name = "{{namespace}}/{{name}}"
    return dashboard(
        "benchmark",
        "Benchmark",
        "Models and predictions, measured. Intervals and paired tests are in the reports: a graph cannot carry them.",
        [
            number("Tasks", f"sum(sealign_benchmark_tasks{{{OBJECT}}})", width=6),
            number("Resolved", f"sum(sealign_benchmark_resolved{{{OBJECT}}})", width=6),
            number("Empty patches", f"sum(sealign_benchmark_empty{{{OBJECT}}})", width=6),
            number("Lost to infrastructure", f"sum(sealign_benchmark_infra{{{OBJECT}}})", width=6, note="In no rate of the model."),
            bars("Resolved", (f"sort_desc(sealign_benchmark_resolved_percent{{{OBJECT}}})", name), unit="percent", width=12, height=9, defaults={"max": 100}),
            bars("Empty patches", (f"sort_desc(sealign_benchmark_empty{{{OBJECT}}} / sealign_benchmark_tasks{{{OBJECT}}})", name), unit="percentunit", width=12, height=9, defaults={"max": 1}),
            lines("Resolved over time", (f"sealign_benchmark_resolved{{{OBJECT}}} / sealign_benchmark_tasks{{{OBJECT}}}", name), unit="percentunit", width=12),
            lines("Attempts under way", (f"sealign_campaign_attempts_recorded{{{OBJECT}}} / sealign_campaign_attempts{{{OBJECT}}}", name), unit="percentunit", width=12, note="The campaign of a benchmark has its name."),
            conditions("Benchmark", "Succeeded|Finished|Suspended"),
        ],
        kind="Benchmark",
    )


def documents() -> dict[str, str]:
    """File name and JSON of every dashboard."""
    made = {
        "campaigns.json": campaigns(),
        "forests.json": forests(),
        "alignment.json": alignment(),
        "benchmark.json": benchmark(),
        "control-plane.json": control_plane(),
    }
    return {name: json.dumps(document, indent=1) + "\n" for name, document in made.items()}
