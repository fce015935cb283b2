//! libtorch's CUDA flash attention, whose forward pass tch leaves out. Never run on a machine without a GPU.
#![expect(unsafe_code, reason = "calls into the C++")]

use std::ffi::{c_char, c_int, c_void};

use tch::Tensor;

use super::kernel::Saved;
use crate::native;

unsafe extern "C" {
    fn sealign_flash_forward(
        inputs: *const *mut c_void,
        causal: c_int,
        outputs: *mut *mut c_void,
    ) -> *mut c_char;
    fn sealign_flash_backward(
        inputs: *const *mut c_void,
        causal: c_int,
        outputs: *mut *mut c_void,
    ) -> *mut c_char;
}

/// Output and log-sum-exp, as [`super::kernel::forward`].
pub fn forward(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> (Tensor, Tensor) {
    let inputs = [query, key, value].map(native::pointer);
    let mut outputs = [std::ptr::null_mut(); 2];
    // SAFETY: the shim reads three tensors that outlive the call and writes two pointers.
    let done = native::check(unsafe {
        sealign_flash_forward(inputs.as_ptr(), c_int::from(causal), outputs.as_mut_ptr())
    });
    // As tch does with every operation that cannot be done: the shapes are the program's own.
    assert!(done.is_ok(), "flash attention: {done:?}");
    // SAFETY: the shim has made these tensors for us.
    let [out, lse] = outputs.map(|made| unsafe { native::tensor(made) });
    (out, lse)
}

/// Gradients of queries, keys and values, as [`super::kernel::backward`].
pub fn backward(saved: &Saved<'_>) -> (Tensor, Tensor, Tensor) {
    let Saved { grad_out, query, key, value, out, lse, causal } = saved;
    let inputs = [*grad_out, *query, *key, *value, *out, *lse].map(native::pointer);
    let mut outputs = [std::ptr::null_mut(); 3];
    // SAFETY: the shim reads six tensors that outlive the call and writes three pointers.
    let done = native::check(unsafe {
        sealign_flash_backward(inputs.as_ptr(), c_int::from(*causal), outputs.as_mut_ptr())
    });
    assert!(done.is_ok(), "flash attention: {done:?}");
    // SAFETY: the shim has made these tensors for us.
    let [grad_query, grad_key, grad_value] = outputs.map(|made| unsafe { native::tensor(made) });
    (grad_query, grad_key, grad_value)
}
