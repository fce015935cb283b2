//! Configuration, from environment variables that the chart sets.
//!
//! `SEALIGN_STORE` (URL of the store, required), `SEALIGN_INSTALLATION` (JSON of [`Installation`]: images, namespaces, ...),
//! `POD_NAME` and `POD_NAMESPACE` (downward API), `SEALIGN_LISTEN` (address of metrics and health, default `0.0.0.0:8080`),
//! `SEALIGN_LEASE` (name of the Lease, default `sealign-operator`; empty runs without), `SEALIGN_CONCURRENCY` (objects of one
//! kind at once, default 8), `SEALIGN_ALLOWED_IMAGES`, `SEALIGN_PYTHON_IMAGE` and `SEALIGN_INTERPRETER` (handed on to
//! resolvers: patterns of images that task sets may use, the image of suites that bring their files along, and what their
//! environment digests say of its interpreter), `SEALIGN_POLL_SECONDS` (time between two looks at an object, default 10),
//! and the storage credentials by their usual names (`AWS_`, `GOOGLE_`, `AZURE_`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sealign_plan::Installation;
use sealign_reconcile::Settings;
use sealign_storage::StoreOptions;

/// Objects of one kind that are reconciled at once: kube's own default is without a bound.
const CONCURRENCY_DEFAULT: u16 = 8;

/// Everything that the operator is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the installation decides, the store's URL included.
    pub installation: Installation,
    /// Credentials and endpoint of the store.
    pub store: StoreOptions,
    /// Who we are among replicas.
    pub identity: String,
    /// Namespace of the operator, and of its Lease.
    pub namespace: String,
    /// Name of the Lease; none runs without leader election.
    pub lease: Option<String>,
    /// Where metrics and health are served.
    pub listen: SocketAddr,
    /// Objects of one kind at once.
    pub concurrency: u16,
    /// What resolvers are told of suites, by variable.
    pub suites: BTreeMap<String, String>,
    /// Time between two looks at an object of which nothing was heard.
    pub poll: Duration,
}

/// Variables that are handed on to resolvers.
const SUITES: [&str; 3] = ["SEALIGN_ALLOWED_IMAGES", "SEALIGN_PYTHON_IMAGE", "SEALIGN_INTERPRETER"];
/// Seconds between two looks at an object at most: longer would leave a window half empty.
const POLL_SECONDS: std::ops::RangeInclusive<u64> = 1..=300;

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("environment variable {name}: {problem}")]
pub struct ConfigError {
    name: &'static str,
    problem: String,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`ConfigError`], which names the variable and what to write.
    pub fn read(variables: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let get = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let invalid = |name, problem: String| ConfigError { name, problem };
        let mut installation: Installation = match get("SEALIGN_INSTALLATION") {
            None => Installation::default(),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                invalid("SEALIGN_INSTALLATION", format!("is not an installation: {error}"))
            })?,
        };
        let url = get("SEALIGN_STORE");
        let missing = || {
            invalid(
                "SEALIGN_STORE",
                "is missing: set the URL of the store, for example s3://bucket/prefix".into(),
            )
        };
        url.ok_or_else(missing)?.clone_into(&mut installation.store_url);
        let listen = get("SEALIGN_LISTEN").unwrap_or("0.0.0.0:8080");
        let concurrency = get("SEALIGN_CONCURRENCY").map(str::parse).transpose();
        let concurrency: Option<u16> = concurrency
            .map_err(|_| invalid("SEALIGN_CONCURRENCY", "write a number from 1 to 1000".into()))?;
        let lease = variables.get("SEALIGN_LEASE").map_or("sealign-operator", String::as_str);
        Ok(Self {
            installation,
            store: StoreOptions { variables: variables.clone(), ..StoreOptions::default() },
            identity: get("POD_NAME").unwrap_or("sealign-operator").to_owned(),
            namespace: get("POD_NAMESPACE").unwrap_or("sealign-system").to_owned(),
            lease: (!lease.is_empty()).then(|| lease.to_owned()),
            listen: listen
                .parse()
                .map_err(|_| invalid("SEALIGN_LISTEN", format!("`{listen}` is not an address and port")))?,
            concurrency: concurrency.unwrap_or(CONCURRENCY_DEFAULT).clamp(1, 1000),
            suites: SUITES
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), get(name)?.to_owned())))
                .collect(),
            poll: match get("SEALIGN_POLL_SECONDS").map(str::parse) {
                None => Settings::default().poll,
                Some(Ok(seconds)) if POLL_SECONDS.contains(&seconds) => Duration::from_secs(seconds),
                Some(_) => {
                    return Err(invalid("SEALIGN_POLL_SECONDS", "write a number from 1 to 300".into()));
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(&variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_store_is_enough_and_bounds_are_set() {
        let config = read(&[("SEALIGN_STORE", "s3://b/p")]).unwrap();
        assert_eq!(config.installation.store_url, "s3://b/p");
        assert_eq!((config.concurrency, config.lease.as_deref()), (8, Some("sealign-operator")));
        assert!(config.suites.is_empty() && config.poll == Duration::from_secs(10));
        let told = read(&[("SEALIGN_STORE", "s3://b"), ("SEALIGN_PYTHON_IMAGE", "p")]).unwrap();
        assert_eq!(told.suites["SEALIGN_PYTHON_IMAGE"], "p");
        let without = read(&[("SEALIGN_STORE", "s3://b"), ("SEALIGN_LEASE", "")]).unwrap();
        assert_eq!(without.lease, None);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_the_remedy() {
        let cases = [
            (vec![], "SEALIGN_STORE: is missing: set the URL"),
            (
                vec![("SEALIGN_STORE", "s3://b"), ("SEALIGN_LISTEN", "x")],
                "SEALIGN_LISTEN: `x` is not an address",
            ),
            (vec![("SEALIGN_STORE", "s3://b"), ("SEALIGN_CONCURRENCY", "-1")], "from 1 to 1000"),
            (vec![("SEALIGN_STORE", "s3://b"), ("SEALIGN_POLL_SECONDS", "0")], "from 1 to 300"),
            (
                vec![("SEALIGN_STORE", "s3://b"), ("SEALIGN_INSTALLATION", "{\"image\":1}")],
                "unknown field `image`",
            ),
        ];
        for (variables, expected) in cases {
            let message = read(&variables).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
