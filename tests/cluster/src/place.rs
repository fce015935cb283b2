//! Where a bed lives: a run number, and every name and address range that follows from it.
//!
//! Two beds never meet because their numbers differ, and a number is held by a file lock that ends with its process. What
//! a killed run left behind under a number is cleared by the next run that takes it (see [`crate::sweep`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::{BedError, Result};

/// Beds at once on one machine: each is about 1 GiB of memory.
pub const NUMBERS: u8 = 16;
/// Parent of all beds' folders. Short, because socket paths may have 107 characters.
const PARENT: &str = "/var/tmp/sealign-bed";
/// First octet pair of the LANs, and the first second octet of pod ranges.
const LAN: &str = "10.90";
const PODS_FIRST: u8 = 100;

/// A held run number.
#[derive(Debug)]
pub struct Place {
    number: u8,
    folder: PathBuf,
    /// Held for as long as the place is.
    _lock: Option<File>,
}

impl Place {
    /// Takes the lowest free run number.
    pub fn claim() -> Result<Self> {
        fs::create_dir_all(PARENT).map_err(BedError::file(PARENT))?;
        for number in 0..NUMBERS {
            let path = Path::new(PARENT).join(format!("{number}.lock"));
            let lock = File::create(&path).map_err(BedError::file(&path))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self { _lock: Some(lock), ..Self::named(number) });
            }
        }
        Err(BedError::Full(NUMBERS))
    }

    /// The place of `number` without holding it: for whoever acts in its holder's name.
    pub fn named(number: u8) -> Self {
        Self { number, folder: Path::new(PARENT).join(number.to_string()), _lock: None }
    }

    /// Whether any other bed of this machine is alive.
    pub fn is_alone(&self) -> bool {
        (0..NUMBERS).filter(|number| *number != self.number).all(|number| {
            let path = Path::new(PARENT).join(format!("{number}.lock"));
            File::open(path)
                .map_or(true, |lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
        })
    }

    /// The run number.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The bed's folder: configuration, logs, state. Removed with the bed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What all beds share: packed images, saved kernel settings.
    pub fn shared(&self) -> &Path {
        Path::new(PARENT)
    }

    /// Network namespace of `part` (`cp`, `n1`, ...).
    pub fn namespace(&self, part: &str) -> String {
        format!("sealign{}-{part}", self.number)
    }

    /// The host's interface into the bed.
    pub fn host_link(&self) -> String {
        format!("sealign{}", self.number)
    }

    /// Control group of node `node`, in every hierarchy.
    pub fn control_group(&self, node: u8) -> String {
        format!("sealign{}-n{node}", self.number)
    }

    /// Prefix of all control groups of this bed.
    pub fn control_group_prefix(&self) -> String {
        format!("sealign{}-n", self.number)
    }

    /// Address of `host` in the bed's LAN: 1 is the control plane, 10 + i node i, 254 this machine.
    pub fn address(&self, host: u8) -> String {
        format!("{LAN}.{}.{host}", self.number)
    }

    /// Address of node `node`.
    pub fn node_address(&self, node: u8) -> String {
        self.address(10 + node)
    }

    /// Pod range of node `node`.
    pub fn pod_range(&self, node: u8) -> String {
        format!("10.{}.{node}.0/24", PODS_FIRST + self.number)
    }

    /// Pod range of all nodes.
    pub fn cluster_range(&self) -> String {
        format!("10.{}.0.0/16", PODS_FIRST + self.number)
    }
}
