//! Parameters of a model, and their names on the Hub.
//!
//! Query, key and value projections are stored as one matrix, gate and up projections as another: fewer and larger
//! operations. The Hub's names appear only where weights are read or written.

use std::collections::BTreeMap;

use tch::Tensor;
use thiserror::Error;

use super::adapter::LayerAdapter;
use super::config::ModelConfig;
use super::dim;
use crate::placement::Placement;

/// Why named tensors do not make this model.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WeightsError {
    /// A tensor is missing.
    #[error("the weights have no tensor {name:?}, which config.json asks for; are they from another model?")]
    Missing {
        /// Hub name.
        name: String,
    },
    /// A tensor has another shape than config.json says.
    #[error(
        "tensor {name:?} has shape {found:?}, config.json asks for {expected:?}; are they from another model?"
    )]
    Shape {
        /// Hub name.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape by the configuration.
        expected: Vec<i64>,
    },
    /// The weights hold tensors that the model has no place for.
    #[error("the weights hold {count} tensors that this model has no place for, such as {name:?}")]
    Unexpected {
        /// One of them.
        name: String,
        /// How many.
        count: usize,
    },
    /// A value is not finite.
    #[error("tensor {name:?} holds a value that is not finite")]
    NotFinite {
        /// Hub name.
        name: String,
    },
}

/// Parameters of one layer.
#[derive(Debug)]
pub struct LayerWeights {
    /// RMS norm before attention, `[C]`.
    pub input_norm: Tensor,
    /// Fused projection, `[(H + 2K) D, C]`: queries, keys, values.
    pub qkv: Tensor,
    /// Its bias, `[(H + 2K) D]`.
    pub qkv_bias: Option<Tensor>,
    /// Attention output projection, `[C, H D]`.
    pub attention_out: Tensor,
    /// RMS norm before the feed-forward block, `[C]`.
    pub post_norm: Tensor,
    /// Fused gate and up projection, `[2 F, C]`.
    pub gate_up: Tensor,
    /// Down projection, `[C, F]`.
    pub down: Tensor,
    /// Low-rank updates; with them the tensors above stay as they are.
    pub adapter: Option<LayerAdapter>,
}

/// All parameters of a model.
#[derive(Debug)]
pub struct Weights {
    /// Token embedding, `[V, C]`; also the output head when tied.
    pub embedding: Tensor,
    /// Layers in order.
    pub layers: Vec<LayerWeights>,
    /// Final RMS norm, `[C]`.
    pub final_norm: Tensor,
    /// Output head, `[V, C]`; `None` when tied.
    pub head: Option<Tensor>,
}

impl Weights {
    /// Takes the tensors of a Hub checkpoint. A tied model may or may not carry `lm_head.weight`; a copy in it is ignored.
    pub fn from_hub(config: &ModelConfig, mut named: BTreeMap<String, Tensor>) -> Result<Self, WeightsError> {
        let (hidden, vocab) = (dim(config.hidden), dim(config.vocab));
        let mut source = Source { named: &mut named };
        let embedding = source.take("model.embed_tokens.weight", &[vocab, hidden])?;
        let final_norm = source.take("model.norm.weight", &[hidden])?;
        let layers =
            (0..config.layers).map(|layer| source.take_layer(config, layer)).collect::<Result<_, _>>()?;
        let head = if config.tied { None } else { Some(source.take("lm_head.weight", &[vocab, hidden])?) };
        named.remove("lm_head.weight");
        // Old checkpoints carry the rotary table, which is computed here.
        named.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
        if let Some(name) = named.keys().next() {
            return Err(WeightsError::Unexpected { name: name.clone(), count: named.len() });
        }
        let weights = Self { embedding, layers, final_norm, head };
        for (name, tensor) in weights.to_hub(config) {
            if tensor.isfinite().all().int64_value(&[]) == 0 {
                return Err(WeightsError::NotFinite { name });
            }
        }
        Ok(weights)
    }

    /// Every parameter under its Hub name, fused matrices split into views; sorted by name.
    pub fn to_hub(&self, config: &ModelConfig) -> BTreeMap<String, Tensor> {
        let mut named = BTreeMap::new();
        named.insert("model.embed_tokens.weight".to_owned(), self.embedding.detach());
        named.insert("model.norm.weight".to_owned(), self.final_norm.detach());
        if let Some(head) = &self.head {
            named.insert("lm_head.weight".to_owned(), head.detach());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.name_parts(config, index, Tensor::detach, &mut named);
        }
        named
    }

    /// The gradients under Hub names; a parameter that no gradient reached has zeros.
    pub fn gradients_to_hub(&self, config: &ModelConfig) -> BTreeMap<String, Tensor> {
        let mut named = BTreeMap::new();
        named.insert("model.embed_tokens.weight".to_owned(), self.embedding.grad());
        named.insert("model.norm.weight".to_owned(), self.final_norm.grad());
        if let Some(head) = &self.head {
            named.insert("lm_head.weight".to_owned(), head.grad());
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.name_parts(config, index, Tensor::grad, &mut named);
        }
        named
    }

    /// Every parameter of the model itself with the name under which its optimiser state is stored, in a fixed order.
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut all =
            vec![("embedding".to_owned(), &self.embedding), ("final_norm".to_owned(), &self.final_norm)];
        all.extend(self.head.iter().map(|head| ("head".to_owned(), head)));
        for (index, layer) in self.layers.iter().enumerate() {
            let parts = [
                ("input_norm", Some(&layer.input_norm)),
                ("qkv", Some(&layer.qkv)),
                ("qkv_bias", layer.qkv_bias.as_ref()),
                ("attention_out", Some(&layer.attention_out)),
                ("post_norm", Some(&layer.post_norm)),
                ("gate_up", Some(&layer.gate_up)),
                ("down", Some(&layer.down)),
            ];
            all.extend(
                parts
                    .into_iter()
                    .filter_map(|(part, tensor)| Some((format!("layers.{index}.{part}"), tensor?))),
            );
        }
        all
    }

    /// The tensors that training changes, with the names of their optimiser state: all, or only the adapters.
    pub fn trained(&self) -> Vec<(String, &Tensor)> {
        let adapters: Vec<(String, &Tensor)> = self
            .layers
            .iter()
            .enumerate()
            .filter_map(|(index, layer)| Some(layer.adapter.as_ref()?.tensors(index)))
            .flatten()
            .collect();
        if adapters.is_empty() { self.parameters() } else { adapters }
    }

    /// True when adapters are trained instead of the model itself.
    pub fn is_adapted(&self) -> bool {
        self.layers.iter().any(|layer| layer.adapter.is_some())
    }

    /// The same parameters, without adapters, with other tensors under some of the names of [`Weights::parameters`]; the
    /// rest is shared.
    #[must_use]
    pub fn with_values(&self, mut value: impl FnMut(&str) -> Option<Tensor>) -> Self {
        let mut pick = |name: &str, own: &Tensor| value(name).unwrap_or_else(|| own.shallow_clone());
        let layers = self
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let mut part = |part: &str, own: &Tensor| pick(&format!("layers.{index}.{part}"), own);
                LayerWeights {
                    input_norm: part("input_norm", &layer.input_norm),
                    qkv: part("qkv", &layer.qkv),
                    qkv_bias: layer.qkv_bias.as_ref().map(|bias| part("qkv_bias", bias)),
                    attention_out: part("attention_out", &layer.attention_out),
                    post_norm: part("post_norm", &layer.post_norm),
                    gate_up: part("gate_up", &layer.gate_up),
                    down: part("down", &layer.down),
                    adapter: None,
                }
            })
            .collect();
        Self {
            layers,
            embedding: pick("embedding", &self.embedding),
            final_norm: pick("final_norm", &self.final_norm),
            head: self.head.as_ref().map(|head| pick("head", head)),
        }
    }

    /// The same model somewhere else and in another format; adapters keep theirs.
    #[must_use]
    pub fn placed(&self, Placement { device, kind }: Placement) -> Self {
        let originals = self.parameters();
        let mut moved: BTreeMap<String, Tensor> = originals
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.to_device(device).to_kind(kind)))
            .collect();
        let mut placed = self.with_values(|name| moved.remove(name));
        for (layer, source) in placed.layers.iter_mut().zip(&self.layers) {
            layer.adapter = source.adapter.as_ref().map(|adapter| adapter.to_device(device));
        }
        placed
    }

    /// The parameters by the names of [`Weights::parameters`].
    pub fn into_parameters(self) -> BTreeMap<String, Tensor> {
        self.parameters().into_iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect()
    }

    /// The matrix that turns hidden states into logits, `[V, C]`.
    pub fn output_head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Marks what is trained and gives each tensor a zero gradient, so that gradients can be added to by hand.
    pub fn enable_gradients(&self) {
        for (_, tensor) in self.trained() {
            let leaf = tensor.set_requires_grad(true);
            (leaf.sum(tch::Kind::Float) * 0.0).backward();
        }
        self.zero_gradients();
    }

    /// Sets all gradients to zero in place.
    pub fn zero_gradients(&self) {
        let _guard = tch::no_grad_guard();
        for (_, tensor) in self.trained() {
            let _ = tensor.grad().zero_();
        }
    }
}

impl LayerWeights {
    fn name_parts(
        &self,
        config: &ModelConfig,
        layer: usize,
        read: impl Fn(&Tensor) -> Tensor,
        named: &mut BTreeMap<String, Tensor>,
    ) {
        let prefix = format!("model.layers.{layer}");
        let mut put = |name: &str, tensor: Tensor| named.insert(format!("{prefix}.{name}"), tensor);
        put("input_layernorm.weight", read(&self.input_norm));
        put("post_attention_layernorm.weight", read(&self.post_norm));
        put("self_attn.o_proj.weight", read(&self.attention_out));
        put("mlp.down_proj.weight", read(&self.down));
        let sizes = qkv_sizes(config);
        for (part, tensor) in
            ["q", "k", "v"].into_iter().zip(read(&self.qkv).split_with_sizes(sizes.as_slice(), 0))
        {
            put(&format!("self_attn.{part}_proj.weight"), tensor);
        }
        if let Some(bias) = &self.qkv_bias {
            for (part, tensor) in
                ["q", "k", "v"].into_iter().zip(read(bias).split_with_sizes(sizes.as_slice(), 0))
            {
                put(&format!("self_attn.{part}_proj.bias"), tensor);
            }
        }
        for (part, tensor) in ["gate", "up"].into_iter().zip(read(&self.gate_up).chunk(2, 0)) {
            put(&format!("mlp.{part}_proj.weight"), tensor);
        }
    }
}

fn qkv_sizes(config: &ModelConfig) -> [i64; 3] {
    let (queries, keys) = (dim(config.heads * config.head_dim), dim(config.kv_heads * config.head_dim));
    [queries, keys, keys]
}

struct Source<'named> {
    named: &'named mut BTreeMap<String, Tensor>,
}

impl Source<'_> {
    fn take(&mut self, name: &str, expected: &[i64]) -> Result<Tensor, WeightsError> {
        let tensor =
            self.named.remove(name).ok_or_else(|| WeightsError::Missing { name: name.to_owned() })?;
        if tensor.size() != expected {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                found: tensor.size(),
                expected: expected.to_vec(),
            });
        }
        Ok(tensor)
    }

    fn take_layer(&mut self, config: &ModelConfig, layer: usize) -> Result<LayerWeights, WeightsError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (hidden, feed_forward) = (dim(config.hidden), dim(config.feed_forward));
        let sizes = qkv_sizes(config);
        let mut parts = Vec::new();
        let mut biases = Vec::new();
        for (part, rows) in ["q", "k", "v"].into_iter().zip(sizes) {
            parts.push(self.take(&name(&format!("self_attn.{part}_proj.weight")), &[rows, hidden])?);
            if config.qkv_bias() {
                biases.push(self.take(&name(&format!("self_attn.{part}_proj.bias")), &[rows])?);
            }
        }
        let gate = self.take(&name("mlp.gate_proj.weight"), &[feed_forward, hidden])?;
        let up = self.take(&name("mlp.up_proj.weight"), &[feed_forward, hidden])?;
        let [queries, _, _] = sizes;
        Ok(LayerWeights {
            input_norm: self.take(&name("input_layernorm.weight"), &[hidden])?,
            qkv: Tensor::cat(&parts, 0),
            qkv_bias: config.qkv_bias().then(|| Tensor::cat(&biases, 0)),
            attention_out: self.take(&name("self_attn.o_proj.weight"), &[hidden, queries])?,
            post_norm: self.take(&name("post_attention_layernorm.weight"), &[hidden])?,
            gate_up: Tensor::cat(&[gate, up], 0),
            down: self.take(&name("mlp.down_proj.weight"), &[hidden, feed_forward])?,
            adapter: None,
        })
    }
}
