//! Deterministic simulation of the control plane and the runner under faults.
