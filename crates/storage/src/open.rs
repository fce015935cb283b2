//! From a URL to a [`Store`]: `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};

use crate::object_key;
use crate::store::Store;

/// How often and how long a request is repeated before its error is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// Repetitions after the first try.
    pub retries: usize,
    /// No repetition begins later than this after the first try.
    pub total: Duration,
}

impl Default for RetryLimits {
    /// Three repetitions within 10 s: short of a lease, so that a reconciler never holds one while it waits.
    fn default() -> Self {
        Self { retries: 3, total: Duration::from_secs(10) }
    }
}

/// What opening needs beside the URL. The environment is never read here: the caller passes what it chooses.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Credentials and endpoint settings by their usual variable names. Only names that start with `AWS_`, `GOOGLE_` or
    /// `AZURE_` are looked at; generic names (`timeout`, `proxy_url`) would be settings too and must not slip in.
    pub variables: BTreeMap<String, String>,
    /// Bounds of repetition for stores behind a network.
    pub retry: RetryLimits,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none that is known.
    #[error(
        "storage URL `{url}` is not supported; use file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )]
    Url {
        /// The URL as given.
        url: String,
    },
    /// The part after the bucket is not a valid prefix.
    #[error("the prefix of storage URL `{url}` is not allowed: use letters, digits, `.`, `_`, `-` and `/`")]
    Prefix {
        /// The URL as given.
        url: String,
    },
    /// The directory cannot be made or used.
    #[error(
        "storage directory `{path}` cannot be used; it must be an absolute path that can be created and written"
    )]
    Directory {
        /// The path.
        path: String,
        /// What the system says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The settings do not make a client.
    #[error("the client for `{url}` cannot be set up; check the AWS_, GOOGLE_ or AZURE_ variables")]
    Client {
        /// The URL as given.
        url: String,
        /// What the client says.
        #[source]
        source: object_store::Error,
    },
}

impl Store {
    /// Opens the store at `url`. A `file://` directory is created; buckets must exist.
    ///
    /// # Errors
    /// [`OpenError`], which names what to correct. No request is sent, so wrong credentials show at the first operation.
    pub fn open(url: &str, options: &StoreOptions) -> Result<Self, OpenError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(OpenError::Url { url: url.to_owned() });
        };
        if scheme == "file" {
            return Self::open_directory(FilePath::new(rest));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(OpenError::Url { url: url.to_owned() });
        }
        let prefix = object_key::parse_prefix(prefix.trim_end_matches('/'))
            .map_err(|_| OpenError::Prefix { url: url.to_owned() })?;
        let inner = client(scheme, bucket, url, options)?;
        Ok(Self::new(below(inner, prefix), None))
    }

    /// Opens the folder `directory`, which is created where it is missing.
    ///
    /// # Errors
    /// [`OpenError::Directory`] for a relative path and for one that cannot be created.
    pub fn open_directory(directory: &FilePath) -> Result<Self, OpenError> {
        let refuse = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Directory {
            path: directory.display().to_string(),
            source,
        };
        if !directory.is_absolute() {
            return Err(refuse("the path is relative".into()));
        }
        std::fs::create_dir_all(directory).map_err(|error| refuse(error.into()))?;
        // With fsync a put writes a staged file, syncs it, publishes it by hard link (create) or rename (overwrite) and
        // syncs the directory, new parents included; a crash leaves at most a staged file, which listings leave out.
        let store = LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| refuse(error.into()))?
            .with_fsync(true);
        Ok(Self::new(Arc::new(store), Some(directory.to_owned())))
    }

    /// A store in memory, for tests and dry runs.
    pub fn memory() -> Self {
        Self::new(Arc::new(InMemory::new()), None)
    }
}

fn below(store: Arc<dyn ObjectStore>, prefix: Option<Path>) -> Arc<dyn ObjectStore> {
    match prefix {
        Some(prefix) => Arc::new(PrefixStore::new(store, prefix)),
        None => store,
    }
}

/// Folds the variables that one provider knows into its builder. Names it does not know belong to other programs.
macro_rules! configured {
    ($builder:ty, $prefix:literal, $url:expr, $options:expr) => {{
        let base = <$builder>::new().with_url($url).with_retry(retry_config($options.retry));
        let builder = $options.variables.iter().filter(|(name, _)| name.starts_with($prefix)).fold(
            base,
            |builder, (name, value)| match name.to_ascii_lowercase().parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            },
        );
        builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
    }};
}

fn client(
    scheme: &str,
    bucket: &str,
    url: &str,
    options: &StoreOptions,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let bucket_url = format!("{scheme}://{bucket}");
    let built = match scheme {
        "s3" => configured!(AmazonS3Builder, "AWS_", bucket_url, options),
        "gs" => configured!(GoogleCloudStorageBuilder, "GOOGLE_", bucket_url, options),
        "az" => configured!(MicrosoftAzureBuilder, "AZURE_", bucket_url, options),
        _ => return Err(OpenError::Url { url: url.to_owned() }),
    };
    built.map_err(|source| OpenError::Client { url: url.to_owned(), source })
}

fn retry_config(limits: RetryLimits) -> RetryConfig {
    RetryConfig { max_retries: limits.retries, retry_timeout: limits.total, ..RetryConfig::default() }
}
