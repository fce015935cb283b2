//! A model server of a campaign.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use sealign_plan::config::{CONFIG_VARIABLE, WorkerConfig};

use super::{Bucket, JobError, bucket, fetch};
use crate::serve::{EngineOptions, ServeOptions};

/// Environment variable that names the file for the server's address (embedded runs).
pub const ADDRESS_FILE_VARIABLE: &str = "SEALIGN_ADDRESS_FILE";
/// Port of a server in a pod of its own.
const POD_PORT: u16 = 8000;

/// The options of the server that the environment describes, its model fetched into `scratch`.
pub fn options(scratch: &Path) -> Result<ServeOptions, JobError> {
    let WorkerConfig::Serve(serve) = bucket::configuration()? else {
        return Err(JobError::Environment {
            variable: CONFIG_VARIABLE,
            problem: "is not the configuration of a model server".to_owned(),
        });
    };
    let bucket = Bucket::from_environment()?;
    let model = fetch::model(&bucket, &serve.model, scratch)?;
    let address_file = std::env::var_os(ADDRESS_FILE_VARIABLE).map(PathBuf::from);
    // Embedded, many servers share one machine, and nothing outside it may reach them.
    let listen = if address_file.is_some() {
        SocketAddr::from(([127, 0, 0, 1], 0))
    } else {
        SocketAddr::from(([0, 0, 0, 0], POD_PORT))
    };
    let context = usize::try_from(serve.context_tokens).ok();
    let batch_max = usize::try_from(serve.max_batch).unwrap_or(1).max(1);
    Ok(ServeOptions {
        model,
        name: Some("model".to_owned()),
        listen,
        address_file,
        context,
        engine: EngineOptions { batch_max, ..EngineOptions::default() },
    })
}
