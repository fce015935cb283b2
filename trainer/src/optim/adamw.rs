//! AdamW in float32 (Loshchilov and Hutter, arXiv 1711.05101), with the arithmetic of `torch.optim.AdamW`.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::model::Weights;

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay; matrices only, never norms and biases.
    pub weight_decay: f64,
}

/// A tensor that is updated, whole or a process's part of it.
#[derive(Debug)]
pub struct Slot {
    /// Name of its state.
    pub name: String,
    /// The values, updated in place.
    pub parameter: Tensor,
    /// Their gradient, of the same shape.
    pub gradient: Tensor,
    /// Views of `parameter` that weight decay applies to.
    pub decayed: Vec<Tensor>,
}

/// Optimiser state.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

impl AdamW {
    /// Fresh state for all parameters.
    pub fn new(settings: AdamWSettings, weights: &Weights) -> Self {
        Self::over(settings, &slots(weights))
    }

    /// Fresh state for the given tensors.
    pub fn over(settings: AdamWSettings, slots: &[Slot]) -> Self {
        let moments = slots
            .iter()
            .map(|slot| {
                let zeros = || slot.parameter.zeros_like();
                (slot.name.clone(), Moments { first: zeros(), second: zeros() })
            })
            .collect();
        Self { settings, steps: 0, moments }
    }

    /// State tensors by name, for a checkpoint.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut named = BTreeMap::new();
        for (name, Moments { first, second }) in &self.moments {
            named.insert(format!("{name}.first"), first.shallow_clone());
            named.insert(format!("{name}.second"), second.shallow_clone());
        }
        named
    }

    /// Number of updates so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of updates so far, for state that was filled in place.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Takes over the state of a checkpoint. Returns the name of a tensor that is missing or has another shape.
    pub fn restore(&mut self, steps: u64, mut named: BTreeMap<String, Tensor>) -> Result<(), String> {
        for (name, moments) in &mut self.moments {
            for (part, tensor) in [("first", &mut moments.first), ("second", &mut moments.second)] {
                let key = format!("{name}.{part}");
                let Some(stored) = named.remove(&key).filter(|stored| stored.size() == tensor.size()) else {
                    return Err(key);
                };
                *tensor = stored.to_device(tensor.device());
            }
        }
        self.steps = steps;
        Ok(())
    }

    /// Clips the gradients to the global norm and updates the parameters. Returns the norm before clipping; when it is not
    /// finite, nothing is changed.
    pub fn step(&mut self, weights: &Weights, rate: f64, max_norm: f64) -> f64 {
        let norm = gradient_norm(weights);
        self.update(slots(weights), norm, rate, max_norm);
        norm
    }

    /// Clips by the given norm over all gradients, those of other processes included, and updates the tensors. When the norm
    /// is not finite, nothing is changed.
    pub fn update(&mut self, slots: Vec<Slot>, norm: f64, rate: f64, max_norm: f64) {
        if !norm.is_finite() {
            return;
        }
        let _guard = tch::no_grad_guard();
        let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        let AdamWSettings { beta1, beta2, epsilon, weight_decay } = self.settings;
        // Beyond this both corrections are 1 in double precision for any usable beta.
        let exponent = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - beta1.powi(exponent);
        let correction2 = (1.0 - beta2.powi(exponent)).sqrt();
        for Slot { name, mut parameter, gradient, mut decayed } in slots {
            let Some(Moments { first, second }) = self.moments.get_mut(&name) else { continue };
            let gradient = if clip < 1.0 { gradient * clip } else { gradient };
            if weight_decay > 0.0 {
                for piece in &mut decayed {
                    let _ = piece.g_mul_scalar_(1.0 - rate * weight_decay);
                }
            }
            let _ = first.lerp_(&gradient, 1.0 - beta1);
            let _ = second.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let mut update = second.sqrt();
            let _ = update.g_div_scalar_(correction2).g_add_scalar_(epsilon);
            let _ = parameter.addcdiv_(&(&*first * (-rate / correction1)), &update);
        }
    }
}

/// What is trained of a model that is in memory whole.
pub fn slots(weights: &Weights) -> Vec<Slot> {
    weights
        .trained()
        .into_iter()
        .map(|(name, tensor)| {
            let parameter = tensor.detach();
            let decayed = if tensor.dim() > 1 { vec![parameter.shallow_clone()] } else { Vec::new() };
            Slot { name, gradient: tensor.grad(), parameter, decayed }
        })
        .collect()
}

/// Euclidean norm over all gradients.
pub fn gradient_norm(weights: &Weights) -> f64 {
    let squares: f64 = weights
        .trained()
        .into_iter()
        .map(|(_, tensor)| {
            let flat = tensor.grad().reshape([-1]);
            flat.dot(&flat).double_value(&[])
        })
        .sum();
    squares.sqrt()
}
