//! Compiles the C++ of `native` against libtorch's headers, and lets the program find libtorch where
//! `scripts/libtorch.sh` linked it, without an environment variable.

use std::path::Path;

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg=-Wl,-rpath,{root}/../.torch/lib");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/native");
    // torch-sys tells where the libraries are; the headers lie beside them.
    let library = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let include = Path::new(&library).parent().map(|home| home.join("include")).unwrap_or_default();
    cc::Build::new()
        .cpp(true)
        .files(["src/native/collectives.cpp", "src/native/tensors.cpp"])
        .include("src/native/gloo_declarations")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .opt_level(1)
        .warnings(false)
        .compile("sealign_native");
    println!("cargo:rustc-link-lib=dylib=dl");
}
