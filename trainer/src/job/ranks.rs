//! The ranks of a training step: one process on the CPU of each pod of its Indexed Job, or one for each of its GPUs.
//!
//! A pod knows its number by the Job controller and where the first one is by the operator. With several GPUs its first process
//! is a launcher that starts one for each and ends them all when one fails. Only the first rank of all reads checkpoints,
//! reports, and writes the model; all of them read model and data.

use std::process::Command;
use std::time::Duration;

use sealign_plan::config::{INDEX_VARIABLE, METRICS_PORT_VARIABLE};

use super::JobError;
use crate::dist::launch::{self, Launch, LaunchError};
use crate::dist::world::WorldError;
use crate::dist::{Group, World};
use crate::placement::Placement;
use crate::process;
use crate::train::settings::StageSettings;

/// Runs one process for each GPU of this pod, where it has several and this process is not one of them. Whether it did.
///
/// # Errors
/// When one of the processes fails.
pub fn launch() -> Result<bool, JobError> {
    let Some(launch) = launcher(|name| std::env::var(name).ok())? else { return Ok(false) };
    let program = std::env::current_exe().map_err(|source| LaunchError::Start { rank: 0, source })?;
    let make = || {
        let mut process = Command::new(&program);
        process.arg("step");
        process
    };
    launch.run(make, process::stop_flag())?;
    Ok(true)
}

fn launcher(get: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>, WorldError> {
    let number = |name: &'static str, default: &str| -> Result<usize, WorldError> {
        let value = get(name).unwrap_or_else(|| default.to_owned());
        value.parse().map_err(|_| WorldError::Invalid { name, value, expected: "a whole number" })
    };
    let local_size = number("NPROC_PER_NODE", "1")?;
    if local_size <= 1 || get(launch::LAUNCHER).is_some() {
        return Ok(None);
    }
    let port = number("MASTER_PORT", "0")?;
    Ok(Some(Launch {
        local_size,
        machines: number("NNODES", "1")?,
        machine: number(INDEX_VARIABLE, "0")?,
        master_address: get("MASTER_ADDR").unwrap_or_else(|| "127.0.0.1".to_owned()),
        master_port: u16::try_from(port).unwrap_or(0),
    }))
}

/// Meets the other ranks; a group of one where there is no other.
///
/// # Errors
/// When the variables do not make a group, the others do not come, or the GPU is not there.
pub fn meet(settings: &StageSettings) -> Result<Group, JobError> {
    let get = |name: &str| std::env::var(name).ok();
    let is_launched = get(launch::LAUNCHER).is_some();
    let world = if is_launched { World::read(get)? } else { world(get)? };
    let Some(world) = world else { return Ok(Group::alone()) };
    if is_launched {
        launch::follow_launcher();
    }
    println!("rank {} of {} meets the others at {}", world.rank, world.size, world.master_address);
    let placement = Placement::find(settings.device, settings.precision, world.local_rank)
        .map_err(crate::train::RunError::from)?;
    let timeout = Duration::from_secs(settings.collective_timeout_seconds);
    Ok(Group::gloo(&world, timeout)?.on(placement.device)?)
}

/// Port on which this process shows its figures: the operator names it to a pod, whose first process has it.
///
/// # Errors
/// When it is no port.
pub fn metrics_port() -> Result<Option<u16>, JobError> {
    metrics_port_of(|name| std::env::var(name).ok())
}

fn metrics_port_of(get: impl Fn(&str) -> Option<String>) -> Result<Option<u16>, JobError> {
    let is_first = get("LOCAL_RANK").is_none_or(|rank| rank == "0");
    let Some(port) = get(METRICS_PORT_VARIABLE).filter(|_| is_first) else { return Ok(None) };
    let invalid =
        |_| JobError::Environment { variable: METRICS_PORT_VARIABLE, problem: "is no port".to_owned() };
    port.parse().map(Some).map_err(invalid)
}

/// The pod's variables in torchrun's words, where its only process is a rank.
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

    #[test]
    fn only_the_first_process_of_a_pod_shows_figures_and_only_where_it_is_asked_to() {
        let port = |rank: Option<&str>, port: Option<&str>| {
            metrics_port_of(|name| match name {
                "LOCAL_RANK" => rank.map(str::to_owned),
                METRICS_PORT_VARIABLE => port.map(str::to_owned),
                _ => None,
            })
        };
        assert_eq!(port(None, Some("8081")).unwrap(), Some(8081));
        assert_eq!(port(Some("0"), Some("8081")).unwrap(), Some(8081));
        assert_eq!(port(Some("1"), Some("8081")).unwrap(), None);
        assert_eq!(port(None, None).unwrap(), None);
        assert!(port(None, Some("90000")).unwrap_err().to_string().contains("is no port"));
    }

    #[test]
    fn a_pod_with_several_gpus_starts_a_process_for_each_and_those_start_none() {
        let pod = [
            ("NNODES", "2"),
            ("NPROC_PER_NODE", "8"),
            ("JOB_COMPLETION_INDEX", "1"),
            ("MASTER_ADDR", "align-x-dpo-0-r0-0.sealign-ranks"),
            ("MASTER_PORT", "29500"),
        ];
        let get = |name: &str| pod.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let found = launcher(get).unwrap().unwrap();
        assert_eq!((found.local_size, found.machines, found.machine, found.master_port), (8, 2, 1, 29_500));
        let launched = |name: &str| if name == launch::LAUNCHER { Some("7".to_owned()) } else { get(name) };
        assert!(launcher(launched).unwrap().is_none());
        let single = |name: &str| if name == "NPROC_PER_NODE" { Some("1".to_owned()) } else { get(name) };
        assert!(launcher(single).unwrap().is_none());
    }
}
