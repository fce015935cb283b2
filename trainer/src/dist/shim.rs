//! The Rust side of `native/collectives.cpp` and of the places of gradients. Nothing here decides anything.
#![expect(unsafe_code, reason = "calls into C++")]

use std::ffi::{c_char, c_int, c_long, c_void};

use tch::Tensor;

use crate::native::{c_text, check, pointer};

unsafe extern "C" {
    fn sealign_gloo_open(
        host: *const c_char,
        port: c_int,
        device: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: c_long,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn sealign_nccl_open(
        path: *const c_char,
        bootstrap: *mut c_void,
        rank: c_int,
        size: c_int,
        device: c_int,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn sealign_group_close(group: *mut c_void);
    fn sealign_all_reduce(group: *mut c_void, tensor: *mut c_void) -> *mut c_char;
    fn sealign_broadcast(group: *mut c_void, tensor: *mut c_void, root: c_int) -> *mut c_char;
    fn sealign_all_gather(group: *mut c_void, output: *mut c_void, input: *mut c_void) -> *mut c_char;
    fn sealign_reduce_scatter(group: *mut c_void, output: *mut c_void, input: *mut c_void) -> *mut c_char;
    fn sealign_set_gradient(parameter: *mut c_void, gradient: *mut c_void) -> *mut c_char;
}

/// A communicator that lives in C++.
#[derive(Debug)]
pub(super) struct Handle(*mut c_void);

// SAFETY: the handle is used by one thread at a time (`&self` methods of a type that is not `Sync`), and neither c10d nor
// NCCL binds a communicator to the thread that made it.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from an open call and is closed once.
        unsafe { sealign_group_close(self.0) }
    }
}

/// Where and as whom to join a Gloo group.
pub(super) struct GlooAddress<'world> {
    pub host: &'world str,
    pub port: u16,
    /// Address of this process for its peers; empty takes the host's name.
    pub device: &'world str,
    pub rank: c_int,
    pub size: c_int,
    pub timeout_ms: c_long,
}

impl Handle {
    pub(super) fn gloo(address: &GlooAddress<'_>) -> Result<Self, String> {
        let (host, device) = (c_text(address.host)?, c_text(address.device)?);
        let mut out = std::ptr::null_mut();
        // SAFETY: both texts outlive the call and `out` is valid for writing.
        check(unsafe {
            sealign_gloo_open(
                host.as_ptr(),
                c_int::from(address.port),
                device.as_ptr(),
                address.rank,
                address.size,
                address.timeout_ms,
                &raw mut out,
            )
        })?;
        Ok(Self(out))
    }

    /// `place` is rank, number of processes, and index of this process's device.
    pub(super) fn nccl(path: &str, bootstrap: &Self, place: [c_int; 3]) -> Result<Self, String> {
        let [rank, size, device] = place;
        let path = c_text(path)?;
        let mut out = std::ptr::null_mut();
        // SAFETY: as above; the bootstrap handle is open.
        check(unsafe { sealign_nccl_open(path.as_ptr(), bootstrap.0, rank, size, device, &raw mut out) })?;
        Ok(Self(out))
    }

    pub(super) fn all_reduce(&self, tensor: &Tensor) -> Result<(), String> {
        // SAFETY: the handle is open and tch's pointer is a `torch::Tensor` that outlives the call.
        check(unsafe { sealign_all_reduce(self.0, pointer(tensor)) })
    }

    pub(super) fn broadcast(&self, tensor: &Tensor, root: c_int) -> Result<(), String> {
        // SAFETY: as for `all_reduce`.
        check(unsafe { sealign_broadcast(self.0, pointer(tensor), root) })
    }

    pub(super) fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<(), String> {
        // SAFETY: as for `all_reduce`.
        check(unsafe { sealign_all_gather(self.0, pointer(output), pointer(input)) })
    }

    pub(super) fn reduce_scatter(&self, output: &Tensor, input: &Tensor) -> Result<(), String> {
        // SAFETY: as for `all_reduce`.
        check(unsafe { sealign_reduce_scatter(self.0, pointer(output), pointer(input)) })
    }
}

/// Makes `gradient` the place where autograd adds the gradient of `parameter`; `None` takes it away.
pub(super) fn set_gradient(parameter: &Tensor, gradient: Option<&Tensor>) {
    let gradient = gradient.map_or(std::ptr::null_mut(), pointer);
    // SAFETY: both are tensors that outlive the call. It cannot fail: assigning a gradient only swaps a reference.
    let _ = check(unsafe { sealign_set_gradient(pointer(parameter), gradient) });
}
