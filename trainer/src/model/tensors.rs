//! Safetensors files to and from named tensors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};
use thiserror::Error;

use super::dim;

/// Why a tensor file could not be read or written.
#[derive(Debug, Error)]
pub enum TensorFileError {
    /// The operating system refused.
    #[error("{path} cannot be {action}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a whole safetensors file.
    #[error("{path} is not a complete safetensors file ({reason}); copy it again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor has a type that is not read.
    #[error("{path}: tensor {name:?} has type {found}; only F32, BF16 and F16 are read, convert it first")]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Two shards hold the same tensor.
    #[error("{path}: tensor {name:?} is also in another shard")]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// Number format of written weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveType {
    /// bfloat16: half the size, the usual form on the Hub.
    #[default]
    Bf16,
    /// float32: exact.
    F32,
}

/// Reads all tensors of a file as float32 and adds them to `named`.
pub fn read_into(path: &Path, named: &mut BTreeMap<String, Tensor>) -> Result<(), TensorFileError> {
    let bytes = std::fs::read(path).map_err(|source| TensorFileError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| TensorFileError::Malformed { path: path.to_owned(), reason: error.to_string() })?;
    for (name, view) in file.tensors() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F16 => Kind::Half,
            other => {
                return Err(TensorFileError::Type {
                    path: path.to_owned(),
                    name,
                    found: format!("{other:?}"),
                });
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|size| dim(*size)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| {
            TensorFileError::Malformed { path: path.to_owned(), reason: error.to_string() }
        })?;
        if named.insert(name.clone(), tensor.to_kind(Kind::Float)).is_some() {
            return Err(TensorFileError::Duplicate { path: path.to_owned(), name });
        }
    }
    Ok(())
}

/// Reads all tensors of a file as float32.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, TensorFileError> {
    let mut named = BTreeMap::new();
    read_into(path, &mut named)?;
    Ok(named)
}

/// Writes the tensors, sorted by name, and flushes them to disk.
pub fn write(
    path: &Path,
    named: &BTreeMap<String, Tensor>,
    save_type: SaveType,
) -> Result<(), TensorFileError> {
    let views: Vec<(&String, Stored)> =
        named.iter().map(|(name, tensor)| (name, Stored::of(tensor, save_type))).collect();
    // transformers refuses files without this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let io = |source| TensorFileError::Io { path: path.to_owned(), action: "written", source };
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|error| io(std::io::Error::other(error.to_string())))?;
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(io)
}

/// A tensor as `safetensors` wants it: its bytes are made when they are written, so that they exist for one tensor at a time.
struct Stored {
    tensor: Tensor,
    shape: Vec<usize>,
    kind: Kind,
    dtype: Dtype,
    width: usize,
}

impl Stored {
    fn of(tensor: &Tensor, save_type: SaveType) -> Self {
        let (kind, dtype, width) = match save_type {
            SaveType::F32 => (Kind::Float, Dtype::F32, 4),
            SaveType::Bf16 => (Kind::BFloat16, Dtype::BF16, 2),
        };
        let shape = tensor.size().into_iter().map(|size| usize::try_from(size).unwrap_or(0)).collect();
        Self { tensor: tensor.detach(), shape, kind, dtype, width }
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = self.tensor.to_device(Device::Cpu).to_kind(self.kind).contiguous();
        let mut data = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut data, tensor.numel());
        Cow::Owned(data)
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.width
    }
}
