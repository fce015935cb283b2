//! `sealign-bed`: a cluster to play with, until Ctrl-C.

use clap::Parser;
use sealign_cluster_tests::{Bed, BedOptions, install};
/// Brings a real Kubernetes cluster up on this machine and keeps it until Ctrl-C.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// Real nodes.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Fake nodes, played by kwok.
    #[arg(long, default_value_t = 0)]
    fake_nodes: u16,
    /// Without the project's own images: nothing has to be built first.
    #[arg(long)]
    bare: bool,
    /// With the trainer's image.
    #[arg(long)]
    trainer: bool,
    /// With the operator installed for objects of the namespace `default`.
    #[arg(long)]
    install: bool,
    /// Without enforcement of NetworkPolicies.
    #[arg(long)]
    no_policies: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = BedOptions {
        nodes: arguments.nodes.clamp(1, 9),
        fake_nodes: arguments.fake_nodes,
        policies: !arguments.no_policies,
        images: !arguments.bare,
        trainer: arguments.trainer,
    };
    let bed = Bed::start(&options)?;
    if arguments.install {
        install::install(&bed, &["default"])?;
    }
    println!("up after {:.1} s; the logs: {}", bed.age().as_secs_f64(), bed.place().folder().display());
    for (name, value) in bed.bucket().variables() {
        println!("export {name}={value}");
    }
    println!("export KUBECONFIG={}", bed.session().kubeconfig().display());
    println!("Ctrl-C ends it.");
    // The bed goes with the signal that ends this process.
    loop {
        std::thread::park();
    }
}
