//! Tests of the control plane at scale: etcd, API server, controllers and scheduler are real, nodes are fake, and on them
//! runs the real worker over sandboxes that answer from a script. Start at `tests/fleet/main.rs`.
