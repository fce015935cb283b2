//! Names and keys: functions of an object's name and UID, so that deciding twice names the same thing.

use kube::core::DynamicObject;
use sealign_manifest::{Digest, ObjectKeys};

use crate::Kind;

/// Longest Job name: a pod's host name is the Job's name, a dash and the index, and may have 63 characters.
pub const JOB_NAME_MAX: usize = 52;
/// Longest name of a custom resource that another may refer to.
pub const OBJECT_NAME_MAX: usize = 63;
/// Digits of a UID that make a name unique among objects of one name.
const UID_DIGITS: usize = 8;

/// The first hexadecimal digits of a UID.
pub fn short_uid(uid: &str) -> String {
    uid.chars().filter(char::is_ascii_hexdigit).take(UID_DIGITS).collect()
}

/// The store prefix of an object: `<artifacts.path, else namespace>/<plural>/<name>-<8 hex of its UID>`.
pub fn keys(kind: Kind, object: &DynamicObject) -> ObjectKeys {
    let path = object.data.pointer("/spec/artifacts/path").and_then(serde_json::Value::as_str);
    let root = path.or(object.metadata.namespace.as_deref()).unwrap_or("default");
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let uid = short_uid(object.metadata.uid.as_deref().unwrap_or_default());
    ObjectKeys::new(format!("{root}/{}/{name}-{uid}", kind.plural()))
}

/// Name of a Job: `<kind>-<owner, cut>-<8 hex of its UID>-<part>-r<round>`, at most [`JOB_NAME_MAX`] characters.
pub fn job(kind: Kind, owner: &str, uid: &str, part: &str, round: u32) -> String {
    let tail = format!("-{}-{}-r{round}", short_uid(uid), shortened(part, 24));
    let room = JOB_NAME_MAX.saturating_sub(kind.short().len() + 1 + tail.len());
    // Names of custom resources may hold dots, Jobs' pods' host names may not.
    let owner: String = owner.chars().map(|c| if c == '.' { '-' } else { c }).take(room).collect::<String>();
    format!("{}-{}{tail}", kind.short(), owner.trim_end_matches('-'))
}

/// Name of a child resource: `<owner>-<suffix>`; an owner name that leaves no room is cut and told apart by its digest.
pub fn child(owner: &str, suffix: &str) -> String {
    let plain = format!("{owner}-{suffix}");
    if plain.len() <= OBJECT_NAME_MAX {
        return plain;
    }
    let digest = Digest::of_bytes(owner.as_bytes());
    let tail = format!("-{}-{suffix}", digest.short(UID_DIGITS));
    let cut: String = owner.chars().take(OBJECT_NAME_MAX.saturating_sub(tail.len())).collect();
    format!("{}{tail}", cut.trim_end_matches('-'))
}

/// `text` where it is short enough, else its beginning and a digest of the whole.
fn shortened(text: &str, length_max: usize) -> String {
    if text.len() <= length_max {
        return text.to_owned();
    }
    let digest = Digest::of_bytes(text.as_bytes());
    let cut: String = text.chars().take(length_max.saturating_sub(7)).collect();
    format!("{}-{}", cut.trim_end_matches('-'), digest.short(6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const UID: &str = "1a2b3c4d-0000-4000-8000-000000000001";

    #[test]
    fn a_job_name_says_whose_it_is_and_stays_short() {
        assert_eq!(
            job(Kind::RolloutCampaign, "first", UID, "rollout-g0001", 2),
            "rcamp-first-1a2b3c4d-rollout-g0001-r2"
        );
        let long = job(Kind::TrajectoryForest, &"very-long.".repeat(7), UID, &"p".repeat(60), 4_000_000);
        assert!(long.len() <= JOB_NAME_MAX, "{long}");
        assert!(long.contains("-1a2b3c4d-") && !long.contains('.'), "{long}");
    }

    #[test]
    fn long_parts_that_differ_at_their_end_give_different_names() {
        let name = |part: &str| job(Kind::RolloutCampaign, "c", UID, part, 0);
        let stem = "serve-a-policy-with-a-long-name";
        assert_ne!(name(&format!("{stem}-1")), name(&format!("{stem}-2")));
    }

    #[test]
    fn child_names_are_plain_where_they_fit_and_distinct_where_they_do_not() {
        assert_eq!(child("run", "forest-0"), "run-forest-0");
        let (one, other) = (child(&"a".repeat(63), "forest-0"), child(&"a".repeat(62), "forest-0"));
        assert!(one.len() <= OBJECT_NAME_MAX && other.len() <= OBJECT_NAME_MAX);
        assert_ne!(one, other);
    }

    #[test]
    fn keys_name_the_object_and_not_its_successor() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet",
            "metadata": { "name": "t", "namespace": "demo", "uid": UID }, "spec": {},
        }))
        .unwrap();
        assert_eq!(keys(Kind::TaskSet, &object).prefix(), "demo/tasksets/t-1a2b3c4d");
        let mut elsewhere = object;
        elsewhere.data["spec"]["artifacts"] = json!({ "path": "team/x" });
        assert_eq!(keys(Kind::TaskSet, &elsewhere).prefix(), "team/x/tasksets/t-1a2b3c4d");
    }
}
