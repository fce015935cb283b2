//! Collective communication between the processes of a run.
//!
//! Every process calls the same operations in the same order. A process alone is a group of one whose operations do
//! nothing, so that callers need no second path.

use std::ffi::{c_int, c_long};
use std::time::Duration;

use tch::{Device, Kind, Tensor};
use thiserror::Error;

use super::shim::{GlooAddress, Handle};
use super::world::World;

/// A collective operation failed; usually because another process has ended.
#[derive(Debug, Error)]
#[error("rank {rank} cannot {action} with the other {} processes: {reason}; look for the process that ended first", size - 1)]
pub struct CollectiveError {
    /// This process.
    pub rank: usize,
    /// Processes of the group.
    pub size: usize,
    /// What was tried.
    pub action: &'static str,
    /// The backend's reason.
    pub reason: String,
}

/// NCCL's library; libtorch's CUDA half has opened it already.
const NCCL: &str = "libnccl.so.2";

/// The processes of a run.
#[derive(Debug)]
pub struct Group {
    rank: usize,
    size: usize,
    /// `None` in a group of one.
    handle: Option<Handle>,
    /// The group that the handle's communicator was made over, closed after it: Gloo beneath NCCL, for tensors on the CPU.
    bootstrap: Option<Handle>,
    /// Number of this process on its machine.
    local_rank: usize,
}

fn c(number: usize) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

impl Group {
    /// The group of a process that is alone.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, handle: None, bootstrap: None, local_rank: 0 }
    }

    /// Meets the other processes and connects to them over Gloo. Waits for all of them until `timeout`, which also bounds
    /// every operation, so it must exceed the slowest process's way to its next operation.
    pub fn gloo(world: &World, timeout: Duration) -> Result<Self, CollectiveError> {
        let local = matches!(world.master_address.as_str(), "127.0.0.1" | "localhost" | "::1");
        let address = GlooAddress {
            host: &world.master_address,
            port: world.master_port,
            device: if local { "127.0.0.1" } else { "" },
            rank: c(world.rank),
            size: c(world.size),
            timeout_ms: c_long::try_from(timeout.as_millis()).unwrap_or(c_long::MAX),
        };
        let group = Self {
            rank: world.rank,
            size: world.size,
            handle: None,
            bootstrap: None,
            local_rank: world.local_rank,
        };
        let handle = Handle::gloo(&address).map_err(|reason| group.error("meet", reason))?;
        Ok(Self { handle: Some(handle), ..group })
    }

    /// The group for tensors on `device`: over NCCL for GPUs, as it is for the CPU.
    ///
    /// # Errors
    /// As [`Group::nccl`].
    pub fn on(self, device: Device) -> Result<Self, CollectiveError> {
        match device {
            Device::Cuda(index) => self.nccl(NCCL, index),
            _ => Ok(self),
        }
    }

    /// A second communicator, over NCCL's library (a name or a path), for tensors on the GPU number `device`. The Gloo group
    /// carries NCCL's identifier to all processes, stays open beneath, and goes on to carry what is on the CPU.
    ///
    /// # Errors
    /// When the library is missing or a process cannot be reached.
    pub fn nccl(self, library: &str, device: usize) -> Result<Self, CollectiveError> {
        let Some(bootstrap) = &self.handle else { return Ok(self) };
        let opened = Handle::nccl(library, bootstrap, [c(self.rank), c(self.size), c(device)])
            .map_err(|reason| self.error("open NCCL", reason))?;
        Ok(Self { handle: Some(opened), bootstrap: self.handle, ..self })
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of this process on its machine: the index of its device.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// True in the process that writes.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    pub(crate) fn error(&self, action: &'static str, reason: String) -> CollectiveError {
        CollectiveError { rank: self.rank, size: self.size, action, reason }
    }

    fn call(
        &self,
        action: &'static str,
        tensor: &Tensor,
        operation: impl FnOnce(&Handle) -> Result<(), String>,
    ) -> Result<(), CollectiveError> {
        let beneath = self.bootstrap.as_ref().filter(|_| tensor.device() == Device::Cpu);
        let handle = beneath.or(self.handle.as_ref());
        handle.map_or(Ok(()), operation).map_err(|reason| self.error(action, reason))
    }

    /// Replaces a contiguous tensor by the sum over all processes; every process gets the same bits.
    pub fn sum(&self, tensor: &Tensor) -> Result<(), CollectiveError> {
        self.call("add up", tensor, |handle| handle.all_reduce(tensor))
    }

    /// Replaces numbers by their sums over all processes.
    pub fn sum_numbers(&self, numbers: &mut [f64]) -> Result<(), CollectiveError> {
        if self.size == 1 || numbers.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(numbers);
        self.sum(&tensor)?;
        let count = numbers.len();
        tensor.copy_data(numbers, count);
        Ok(())
    }

    /// Replaces a contiguous tensor by that of process `root`.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.call("share", tensor, |handle| handle.broadcast(tensor, c(root)))
    }

    /// Replaces bytes by those of process 0, whatever their number.
    pub fn broadcast_bytes(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        if self.size == 1 {
            return Ok(bytes);
        }
        let length = Tensor::from_slice(&[i64::try_from(bytes.len()).unwrap_or(i64::MAX)]);
        self.broadcast(&length, 0)?;
        let length = length.int64_value(&[0]);
        let tensor = if self.leads() {
            Tensor::from_slice(&bytes)
        } else {
            Tensor::zeros([length], (Kind::Uint8, Device::Cpu))
        };
        if length > 0 {
            self.broadcast(&tensor, 0)?;
        }
        let mut received = vec![0; usize::try_from(length).unwrap_or(0)];
        let count = received.len();
        tensor.copy_data(&mut received, count);
        Ok(received)
    }

    /// Fills `whole` with the parts of all processes in order; `whole` is `size` times as long as `part`.
    pub fn gather(&self, whole: &Tensor, part: &Tensor) -> Result<(), CollectiveError> {
        if self.size == 1 {
            whole.shallow_clone().copy_(part);
        }
        self.call("gather", part, |handle| handle.all_gather(whole, part))
    }

    /// Fills `part` with this process's piece of the sum of `whole` over all processes.
    pub fn scatter_sum(&self, part: &Tensor, whole: &Tensor) -> Result<(), CollectiveError> {
        if self.size == 1 {
            part.shallow_clone().copy_(whole);
        }
        self.call("add up and spread", part, |handle| handle.reduce_scatter(part, whole))
    }

    /// Returns when every process has come here.
    pub fn wait_for_all(&self) -> Result<(), CollectiveError> {
        self.sum_numbers(&mut [1.0])
    }
}
