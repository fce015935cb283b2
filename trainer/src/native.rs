//! What crosses the border to our C++: tensors, error texts, and the CUDA half of libtorch.
#![expect(unsafe_code, reason = "calls into the C++")]

use std::ffi::{CStr, CString, c_char, c_void};

use tch::Tensor;

unsafe extern "C" {
    fn sealign_open_library(path: *const c_char) -> *mut c_char;
    fn sealign_free_text(message: *mut c_char);
}

/// Turns the shim's message, if there is one, into an error.
pub fn check(message: *mut c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns a zero-terminated copy that is ours until it is freed here.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        sealign_free_text(message);
        text
    };
    // libtorch appends a stack trace of its own code.
    Err(text.split("\nException raised from").next().unwrap_or_default().trim().to_owned())
}

/// A text for C.
pub fn c_text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

/// The tensor as the shim knows it.
pub fn pointer(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

/// A tensor that the shim has made.
///
/// # Safety
/// The pointer is one that the shim allocated and gave away, and is used once.
pub unsafe fn tensor(made: *mut c_void) -> Tensor {
    // SAFETY: as the caller promises.
    unsafe { Tensor::from_ptr(made.cast()) }
}

/// Opens a library with its symbols for all. libtorch's CUDA half registers itself when it is opened; the program is not linked
/// to it, so that one program serves machines with and without GPUs.
pub fn open_library(path: &str) -> Result<(), String> {
    let path = c_text(path)?;
    // SAFETY: the text outlives the call.
    check(unsafe { sealign_open_library(path.as_ptr()) })
}
