//! Keys and values of token sequences, kept so that a conversation that continues is not computed again.

use tch::{Device, Kind, Tensor};

use crate::model::{ModelConfig, dim};

/// Rows by which a sequence's memory grows. Attention always runs over whole blocks (the rest is masked), because the CPU
/// kernel's sums depend on the number of key rows below its own block size of 512; over whole blocks they do not.
pub const BLOCK: usize = 512;

/// Prefixes shorter than this are computed again instead of copied.
const COPY_MIN: usize = 16;

/// A sequence whose tail differs from a new prompt by at most this many tokens is continued in place instead of copied: what
/// a stop string cut away, or what the client repaired.
const DISCARD_MAX: usize = 32;

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct Sequence {
    /// Tokens whose keys and values are stored.
    pub tokens: Vec<u32>,
    /// Per layer `[capacity, 2, K, D]`: rotated keys, then values; rows behind the tokens are zero.
    pub layers: Vec<Tensor>,
    capacity: usize,
}

impl Sequence {
    /// An empty sequence.
    pub fn new(config: &ModelConfig) -> Self {
        let mut sequence = Self { tokens: Vec::new(), layers: Vec::new(), capacity: 0 };
        sequence.reserve(config, 1);
        sequence
    }

    /// Makes room for `rows` rows.
    pub fn reserve(&mut self, config: &ModelConfig, rows: usize) {
        if rows <= self.capacity {
            return;
        }
        let capacity = rows.next_multiple_of(BLOCK);
        let shape = [dim(capacity), 2, dim(config.kv_heads), dim(config.head_dim)];
        let grown = (0..config.layers).map(|layer| {
            let memory = Tensor::zeros(shape, (Kind::Float, Device::Cpu));
            if let Some(old) = self.layers.get(layer) {
                memory.narrow(0, 0, dim(self.capacity)).copy_(old);
            }
            memory
        });
        self.layers = grown.collect();
        self.capacity = capacity;
    }

    /// Forgets everything behind the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        // Old rows stay in memory: they are finite, and every row at or behind the end is masked.
        self.tokens.truncate(len);
    }

    fn copy_prefix(&self, config: &ModelConfig, len: usize) -> Self {
        let mut copy = Self::new(config);
        copy.reserve(config, len);
        for (to, from) in copy.layers.iter().zip(&self.layers) {
            to.narrow(0, 0, dim(len)).copy_(&from.narrow(0, 0, dim(len)));
        }
        copy.tokens.extend(self.tokens.iter().take(len));
        copy
    }

    /// Memory in bytes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.numel() * size_of::<f32>()).sum()
    }
}

/// Finished sequences, most recently used last.
#[derive(Debug, Default)]
pub struct PrefixCache {
    idle: Vec<Sequence>,
    bytes: usize,
    bytes_max: usize,
}

impl PrefixCache {
    /// A cache that holds at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { idle: Vec::new(), bytes: 0, bytes_max }
    }

    /// A sequence that holds the longest known prefix of the prompt, at least one token short of the whole prompt, and
    /// nothing else. `active` are sequences in use, which can only be copied.
    pub fn take<'active>(
        &mut self,
        config: &ModelConfig,
        prompt: &[u32],
        active: impl Iterator<Item = &'active Sequence>,
    ) -> Sequence {
        // The last prompt token is always computed: its hidden state predicts the first answer token.
        let limit = prompt.len().saturating_sub(1);
        let shared = |sequence: &Sequence| {
            sequence.tokens.iter().zip(prompt).take(limit).take_while(|(left, right)| left == right).count()
        };
        let idle = self.idle.iter().enumerate().map(|(index, sequence)| (shared(sequence), index)).max();
        let used = active.map(|sequence| (shared(sequence), sequence)).max_by_key(|(len, _)| *len);
        if let Some((len, sequence)) = used
            && len >= COPY_MIN
            && idle.is_none_or(|(idle_len, _)| len > idle_len)
        {
            return sequence.copy_prefix(config, len);
        }
        let Some((len, index)) = idle.filter(|(len, _)| *len >= COPY_MIN) else {
            return Sequence::new(config);
        };
        let whole = self.idle.get(index).map_or(0, |sequence| sequence.tokens.len());
        if whole > len + DISCARD_MAX {
            return self
                .idle
                .get(index)
                .map_or_else(|| Sequence::new(config), |from| from.copy_prefix(config, len));
        }
        let mut sequence = self.idle.remove(index);
        self.bytes -= sequence.bytes();
        sequence.truncate(len);
        sequence
    }

    /// Keeps a finished sequence; the least recently used ones go when memory is short.
    pub fn put(&mut self, sequence: Sequence) {
        self.bytes += sequence.bytes();
        self.idle.push(sequence);
        while self.bytes > self.bytes_max && !self.idle.is_empty() {
            self.bytes -= self.idle.remove(0).bytes();
        }
    }

    /// Number of sequences kept.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// True when nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}
