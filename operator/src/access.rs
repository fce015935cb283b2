//! What the operator may do, as it does it: the one list that roles are written from. `sealign-operator access` prints it, and a
//! test against a real API server compares it with what was asked.

use sealign_reconcile::port::Kind;

/// Where a grant has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In every namespace, or for resources that have none.
    Cluster,
    /// In each enabled namespace; in every one where all are.
    Enabled,
    /// In the operator's own namespace.
    Own,
}

/// Verbs on resources of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Resource, with its subresource behind a slash.
    pub resource: String,
    /// Verbs, sorted.
    pub verbs: Vec<&'static str>,
    /// Where.
    pub scope: Scope,
}

/// Our own kinds that other kinds of ours own.
const CHILDREN: [Kind; 3] = [Kind::RolloutCampaign, Kind::TrajectoryForest, Kind::Benchmark];
/// API group of our own kinds.
const GROUP: &str = "sealign.dev";

/// Everything that the operator asks of an API server.
pub fn grants() -> Vec<Grant> {
    let grant = |group, resource: &str, verbs: &[&'static str], scope| Grant {
        group,
        resource: resource.to_owned(),
        verbs: verbs.to_vec(),
        scope,
    };
    let mut all = Vec::new();
    for kind in Kind::OURS {
        // Seen everywhere, so that an object in a namespace that is not enabled is told so.
        all.push(grant(GROUP, kind.plural(), &["get", "list", "watch"], Scope::Cluster));
        all.push(grant(GROUP, &format!("{}/status", kind.plural()), &["update"], Scope::Cluster));
        // Asked for by clusters that check who may hold up an owner's deletion (admission `OwnerReferencesPermissionEnforcement`).
        all.push(grant(GROUP, &format!("{}/finalizers", kind.plural()), &["update"], Scope::Enabled));
    }
    for kind in CHILDREN {
        all.push(grant(GROUP, kind.plural(), &["create"], Scope::Enabled));
    }
    all.push(grant("batch", "jobs", &["create", "delete", "get", "list", "watch"], Scope::Enabled));
    all.push(grant("", "resourcequotas", &["list"], Scope::Enabled));
    all.push(grant("events.k8s.io", "events", &["create", "patch"], Scope::Cluster));
    all.push(grant("node.k8s.io", "runtimeclasses", &["get"], Scope::Cluster));
    all.push(grant("coordination.k8s.io", "leases", &["create", "get", "patch"], Scope::Own));
    all
}

/// The list as lines of scope, group, resource and verbs, separated by tabs.
pub fn table() -> String {
    let line = |grant: Grant| {
        let Grant { group, resource, verbs, scope } = grant;
        let group = if group.is_empty() { "core" } else { group };
        format!("{scope:?}\t{group}\t{resource}\t{}\n", verbs.join(","))
    };
    grants().into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_reach_beyond_our_own_work_is_not_asked_for() {
        for grant in grants() {
            for forbidden in ["pods", "secrets", "configmaps", "roles", "serviceaccounts", "nodes"] {
                assert!(!grant.resource.starts_with(forbidden), "{grant:?}");
            }
            assert!(!grant.verbs.contains(&"*") && grant.verbs.is_sorted(), "{grant:?}");
        }
    }

    #[test]
    fn the_table_has_a_line_a_grant() {
        assert_eq!(table().lines().count(), grants().len());
        assert!(table().contains("Enabled\tbatch\tjobs\tcreate,delete,get,list,watch\n"));
    }
}
