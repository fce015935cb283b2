//! Lets the program find libtorch where `scripts/libtorch.sh` linked it, without an environment variable.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-link-arg=-Wl,-rpath,{root}/../.torch/lib");
    println!("cargo:rerun-if-changed=build.rs");
}
