//! The bed's networks: one namespace for the control plane with the LAN's bridge in it, one a node, everything routed and
//! nothing translated. A veth pair leads from this machine into the LAN, so tests reach API server, kubelets, pods and the
//! store by their addresses; nothing listens on the machine itself, and no way leads out of the bed.

use std::process::Command;

use crate::error::Result;
use crate::place::Place;
use crate::process::run;

/// Namespace of the control plane.
pub const CONTROL_PLANE: &str = "cp";

/// Makes the networks of `nodes` nodes.
pub fn make(place: &Place, nodes: u8) -> Result<()> {
    let hub = place.namespace(CONTROL_PLANE);
    let link = place.host_link();
    ip(&format!("netns add {hub}"))?;
    ip(&format!("-n {hub} link set lo up"))?;
    ip(&format!("-n {hub} link add br0 type bridge"))?;
    ip(&format!("-n {hub} addr add {}/24 dev br0", place.address(1)))?;
    ip(&format!("-n {hub} link set br0 up"))?;
    forward(&hub)?;
    ip(&format!("link add {link} type veth peer name host0 netns {hub}"))?;
    ip(&format!("-n {hub} link set host0 master br0 up"))?;
    ip(&format!("addr add {}/24 dev {link}", place.address(254)))?;
    ip(&format!("link set {link} up"))?;
    for node in 1..=nodes {
        add_node(place, &hub, node)?;
    }
    for (node, other) in (1..=nodes).flat_map(|a| (1..=nodes).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        let namespace = place.namespace(&node_name(node));
        ip(&format!(
            "-n {namespace} route add {} via {}",
            place.pod_range(other),
            place.node_address(other)
        ))?;
    }
    Ok(())
}

fn add_node(place: &Place, hub: &str, node: u8) -> Result<()> {
    let namespace = place.namespace(&node_name(node));
    let (address, range) = (place.node_address(node), place.pod_range(node));
    ip(&format!("netns add {namespace}"))?;
    ip(&format!("-n {namespace} link set lo up"))?;
    ip(&format!("-n {hub} link add v{node} type veth peer name eth0 netns {namespace}"))?;
    ip(&format!("-n {hub} link set v{node} master br0 up"))?;
    ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {namespace} link set eth0 up"))?;
    ip(&format!("-n {namespace} route add default via {}", place.address(1)))?;
    forward(&namespace)?;
    ip(&format!("-n {hub} route add {range} via {address}"))?;
    ip(&format!("route add {range} via {address}"))
}

/// Name of a node, and of its namespace's part.
pub fn node_name(node: u8) -> String {
    format!("n{node}")
}

/// A command that runs in the namespace of `part`. Not `ip netns exec`: that hides the control groups.
pub fn inside(place: &Place, part: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", place.namespace(part))).arg(program);
    command
}

fn forward(namespace: &str) -> Result<()> {
    run(Command::new("nsenter").arg(format!("--net=/run/netns/{namespace}")).args([
        "sysctl",
        "-qw",
        "net.ipv4.ip_forward=1",
    ]))
    .map(drop)
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split(' '))).map(drop)
}
