//! Rules that several kinds share, one a file.

pub mod child;
pub mod reference;
pub mod report_rate;
pub mod suspension;
pub mod throughput;
