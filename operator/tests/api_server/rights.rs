//! The operator's rights, as roles made from the list in `access`.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use sealign_operator::access::{Grant, Scope, grants};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::server::OPERATOR;

/// Grants the operator exactly what it says it needs, with `enabled` as the only enabled namespace.
pub async fn grant(client: &Client, own: &str, enabled: &str) {
    let subjects = json!([{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": OPERATOR }]);
    create::<ClusterRole>(&Api::all(client.clone()), &role("operator", Scope::Cluster)).await;
    create::<ClusterRoleBinding>(&Api::all(client.clone()), &binding("ClusterRole", &subjects)).await;
    for (namespace, scope) in [(own, Scope::Own), (enabled, Scope::Enabled)] {
        create::<Role>(&Api::namespaced(client.clone(), namespace), &role("operator", scope)).await;
        create::<RoleBinding>(&Api::namespaced(client.clone(), namespace), &binding("Role", &subjects)).await;
    }
}

async fn create<T>(api: &Api<T>, document: &Value)
where
    T: kube::Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(document.clone()).unwrap()).await.unwrap();
}

fn role(name: &str, scope: Scope) -> Value {
    let rule = |grant: Grant| PolicyRule {
        api_groups: Some(vec![grant.group.to_owned()]),
        resources: Some(vec![grant.resource]),
        verbs: grant.verbs.into_iter().map(str::to_owned).collect(),
        ..PolicyRule::default()
    };
    let rules: Vec<_> = grants().into_iter().filter(|grant| grant.scope == scope).map(rule).collect();
    json!({ "metadata": { "name": name }, "rules": rules })
}

fn binding(kind: &str, subjects: &Value) -> Value {
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "operator" });
    json!({ "metadata": { "name": "operator" }, "roleRef": role, "subjects": subjects })
}

/// Verb and resource of everything that the list grants.
pub fn granted() -> BTreeSet<(String, String)> {
    let named = |grant: Grant| {
        let resource = qualified(grant.group, &grant.resource);
        grant.verbs.into_iter().map(move |verb| (verb.to_owned(), resource.clone())).collect::<Vec<_>>()
    };
    grants().into_iter().flat_map(named).collect()
}

/// Verb and resource of what the operator asked for, and what of it was refused, by the audit log.
pub fn asked(audit: &[Value]) -> (BTreeSet<(String, String)>, Vec<String>) {
    let (mut asked, mut refused) = (BTreeSet::new(), Vec::new());
    for event in audit.iter().filter(|event| event["user"]["username"] == OPERATOR) {
        let Some(object) = event.get("objectRef") else { continue };
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            sub => format!("{}/{sub}", text("resource")),
        };
        let verb = event["verb"].as_str().unwrap_or_default().to_owned();
        if event.pointer("/responseStatus/code") == Some(&json!(403)) {
            refused.push(format!("{verb} {resource}: {}", event["requestURI"]));
        }
        asked.insert((verb, qualified(text("apiGroup"), &resource)));
    }
    (asked, refused)
}

fn qualified(group: &str, resource: &str) -> String {
    match (group, resource.split_once('/')) {
        ("", _) => resource.to_owned(),
        (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
        (group, None) => format!("{resource}.{group}"),
    }
}
