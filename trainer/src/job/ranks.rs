//! The ranks of a training step: the pods of its Indexed Job, one process each.
//!
//! A pod knows its number by the Job controller and where the first one is by the operator. Only the first one reads
//! checkpoints, reports, and writes the model; all of them read model and data.

use std::time::Duration;

use sealign_plan::config::INDEX_VARIABLE;

use super::JobError;
use crate::dist::world::WorldError;
use crate::dist::{Group, World};

/// Meets the other pods of the Job; a group of one where there is no other.
pub fn meet(timeout: Duration) -> Result<Group, JobError> {
    Ok(match world(|name| std::env::var(name).ok())? {
        Some(world) => {
            println!("rank {} of {} meets the others at {}", world.rank, world.size, world.master_address);
            Group::gloo(&world, timeout)?
        }
        None => Group::alone(),
    })
}

/// The pod's variables in torchrun's words.
fn world(get: impl Fn(&str) -> Option<String>) -> Result<Option<World>, WorldError> {
    World::read(|name| match name {
        "WORLD_SIZE" => get("NNODES"),
        "RANK" => get(INDEX_VARIABLE),
        "LOCAL_RANK" => Some("0".to_owned()),
        "LOCAL_WORLD_SIZE" => Some("1".to_owned()),
        other => get(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_index_is_its_rank_and_the_jobs_nodes_are_the_world() {
        let variables = [
            ("NNODES", "2"),
            ("JOB_COMPLETION_INDEX", "1"),
            ("MASTER_ADDR", "align-x-dpo-0-r0-0.sealign-ranks"),
            ("MASTER_PORT", "29500"),
        ];
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let found = world(get).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_size, found.master_port), (1, 2, 1, 29_500));
        assert_eq!(world(|name| (name == "NNODES").then(|| "1".to_owned())), Ok(None));
    }
}
