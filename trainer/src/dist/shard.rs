//! Parameters, gradients and optimiser state in parts: each process holds one of `size` (ZeRO-3, arXiv 1910.02054).
//!
//! A unit is what is gathered at once: one layer, or everything outside of the layers (embedding, final norm, head). Its
//! parameters are laid end to end in one flat tensor, padded to a multiple of the number of processes, and cut into equal
//! parts. While a unit is computed with, its parameters point into the gathered flat tensor; afterwards they are empty.
//! In the backward pass their gradients point into a second flat tensor that is summed and cut the same way.
//!
//! Parts are float32 on the device. Where the computation is in half precision, a unit is gathered in half precision from
//! them, and its gradients are summed up in float32 again: with a group of one this is all that it does.
//!
//! Nothing of a unit outlives its computation, so the layers have to be recomputed in the backward pass: a kept graph would
//! hold on to the gathered weights.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::group::{CollectiveError, Group};
use super::shim::set_gradient;
use crate::model::decoder::Residence;
use crate::model::{Weights, dim};
use crate::optim::Slot;
use crate::placement::Placement;

/// Elements of a unit and of its parts.
#[derive(Clone, Debug)]
struct Layout {
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
    /// Elements of one process's part.
    part: i64,
}

#[derive(Debug)]
struct Unit {
    /// Handles of the model's own parameters.
    parameters: Vec<Tensor>,
    layout: Layout,
    /// This process's part of the parameters, `[part]`.
    weights: Tensor,
    /// This process's part of the summed gradients, `[part]`.
    gradient: Tensor,
    /// Gradients of all parameters while the unit is open for them, `[part * size]`.
    open_gradient: RefCell<Option<Tensor>>,
}

/// A model's parameters in parts.
#[derive(Debug)]
pub struct Shards<'group> {
    group: &'group Group,
    placement: Placement,
    /// Everything outside of the layers, then the layers in order.
    units: Vec<Unit>,
}

impl Layout {
    fn of(parameters: &[(String, &Tensor)], size: i64) -> Self {
        let shapes: Vec<Vec<i64>> = parameters.iter().map(|(_, tensor)| tensor.size()).collect();
        let elements: i64 = shapes.iter().map(|shape| shape.iter().product::<i64>()).sum();
        let names = parameters.iter().map(|(name, _)| name.clone()).collect();
        Self { names, shapes, part: (elements + size - 1) / size }
    }

    /// First element and length of each parameter in the flat tensor.
    fn places(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.shapes.iter().scan(0, |next, shape| {
            let (start, length) = (*next, shape.iter().product::<i64>());
            *next += length;
            Some((start, length))
        })
    }

    /// The parameters as views of a flat tensor.
    fn views(&self, flat: &Tensor) -> Vec<Tensor> {
        self.places()
            .zip(&self.shapes)
            .map(|((start, length), shape)| flat.narrow(0, start, length).view(shape.as_slice()))
            .collect()
    }

    /// One process's part of the flat tensor that the given parameters make.
    fn cut(&self, parameters: &[Tensor], rank: i64, device: Device) -> Tensor {
        let part = Tensor::zeros([self.part], (Kind::Float, device));
        let (first, last) = (rank * self.part, (rank + 1) * self.part);
        for ((start, length), parameter) in self.places().zip(parameters) {
            let (from, to) = (first.max(start), last.min(start + length));
            if from < to {
                let piece = parameter.detach().reshape([-1]).narrow(0, from - start, to - from);
                part.narrow(0, from - first, to - from).copy_(&piece);
            }
        }
        part
    }

    /// Pieces of a part that belong to matrices, which weight decay applies to.
    fn matrix_pieces(&self, part: &Tensor, rank: i64) -> Vec<Tensor> {
        let (first, last) = (rank * self.part, (rank + 1) * self.part);
        self.places()
            .zip(&self.shapes)
            .filter(|(_, shape)| shape.len() > 1)
            .filter_map(|((start, length), _)| {
                let (from, to) = (first.max(start), last.min(start + length));
                (from < to).then(|| part.narrow(0, from - first, to - from))
            })
            .collect()
    }
}

/// Name of a unit's optimiser state.
fn unit_name(index: usize) -> String {
    index.checked_sub(1).map_or_else(|| "root".to_owned(), |layer| format!("layers.{layer}"))
}

impl<'group> Shards<'group> {
    /// Cuts a model that every process holds whole; afterwards its parameters are empty outside of their computation, for which
    /// they come to where `placement` says.
    pub fn cut(weights: &Weights, group: &'group Group, placement: Placement) -> Self {
        let _guard = tch::no_grad_guard();
        let mut members: Vec<Vec<(String, &Tensor)>> = vec![Vec::new(); weights.layers.len() + 1];
        for (name, tensor) in weights.parameters() {
            let layer = name.strip_prefix("layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
            let unit = layer.map_or(0, |layer: usize| layer + 1);
            members.get_mut(unit).into_iter().for_each(|unit| unit.push((name.clone(), tensor)));
        }
        let units = members
            .into_iter()
            .map(|parameters| {
                let layout = Layout::of(&parameters, dim(group.size()));
                let parameters: Vec<Tensor> =
                    parameters.iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
                let part = layout.cut(&parameters, dim(group.rank()), placement.device);
                let unit = Unit {
                    gradient: part.zeros_like(),
                    weights: part,
                    open_gradient: RefCell::new(None),
                    parameters,
                    layout,
                };
                unit.empty(placement);
                unit
            })
            .collect();
        Self { group, placement, units }
    }

    /// What the optimiser updates: one flat part per unit.
    pub fn slots(&self) -> Vec<Slot> {
        let rank = dim(self.group.rank());
        let slot = |(index, unit): (usize, &Unit)| Slot {
            name: unit_name(index),
            parameter: unit.weights.shallow_clone(),
            gradient: unit.gradient.shallow_clone(),
            decayed: unit.layout.matrix_pieces(&unit.weights, rank),
        };
        self.units.iter().enumerate().map(slot).collect()
    }

    /// Sets the summed gradients to zero.
    pub fn zero_gradients(&self) {
        for unit in &self.units {
            let _ = unit.gradient.shallow_clone().zero_();
        }
    }

    /// Sum over all processes of the squares of the gradients.
    pub fn gradient_squares(&self) -> Result<f64, CollectiveError> {
        let mut sum =
            [self.units.iter().map(|unit| unit.gradient.dot(&unit.gradient).double_value(&[])).sum()];
        self.group.sum_numbers(&mut sum)?;
        let [sum] = sum;
        Ok(sum)
    }

    /// Makes the whole model again, unit by unit. Every process takes part; every process gets all parameters by name.
    pub fn whole(&self) -> Result<BTreeMap<String, Tensor>, CollectiveError> {
        self.join(|_, unit| Some(unit.weights.shallow_clone()), "")
    }

    /// The optimiser's state in whole tensors under the names of an undivided run.
    pub fn whole_state(
        &self,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>, CollectiveError> {
        let mut all = BTreeMap::new();
        for moment in ["first", "second"] {
            let part = |index, _: &Unit| {
                state.get(&format!("{}.{moment}", unit_name(index))).map(Tensor::shallow_clone)
            };
            all.extend(self.join(part, &format!(".{moment}"))?);
        }
        Ok(all)
    }

    fn join(
        &self,
        part: impl Fn(usize, &Unit) -> Option<Tensor>,
        suffix: &str,
    ) -> Result<BTreeMap<String, Tensor>, CollectiveError> {
        let _guard = tch::no_grad_guard();
        let mut named = BTreeMap::new();
        for (index, unit) in self.units.iter().enumerate() {
            let Some(part) = part(index, unit) else { continue };
            let flat = self.gathered(unit, &part)?;
            for (name, view) in unit.layout.names.iter().zip(unit.layout.views(&flat)) {
                named.insert(format!("{name}{suffix}"), view);
            }
        }
        Ok(named)
    }

    /// Replaces the parameters by whole ones that process 0 has. Process 0 also gets the name of one that is missing or of
    /// another shape, before anything is sent.
    pub fn take_parameters(
        &self,
        whole: &BTreeMap<String, Tensor>,
    ) -> Result<Result<(), String>, CollectiveError> {
        if let Some(missing) = self.missing(whole, "") {
            return Ok(Err(missing));
        }
        for unit in &self.units {
            unit.weights.shallow_clone().copy_(&self.received(unit, whole, "")?);
        }
        Ok(Ok(()))
    }

    /// This process's parts of whole optimiser state that process 0 has; errors as for the parameters.
    pub fn take_state(
        &self,
        whole: &BTreeMap<String, Tensor>,
    ) -> Result<Result<BTreeMap<String, Tensor>, String>, CollectiveError> {
        let mut parts = BTreeMap::new();
        for suffix in [".first", ".second"] {
            if let Some(missing) = self.missing(whole, suffix) {
                return Ok(Err(missing));
            }
            for (index, unit) in self.units.iter().enumerate() {
                let part = self.received(unit, whole, suffix)?;
                parts.insert(format!("{}{suffix}", unit_name(index)), part);
            }
        }
        Ok(Ok(parts))
    }

    /// In process 0 the name of a parameter that is not there in its shape.
    fn missing(&self, whole: &BTreeMap<String, Tensor>, suffix: &str) -> Option<String> {
        let units = self.units.iter().filter(|_| self.group.leads());
        let mut parameters = units.flat_map(|unit| unit.layout.names.iter().zip(&unit.layout.shapes));
        parameters.find_map(|(name, shape)| {
            let key = format!("{name}{suffix}");
            let found = whole.get(&key).is_some_and(|tensor| tensor.size() == *shape);
            (!found).then_some(key)
        })
    }

    /// This process's part of a unit that process 0 has whole.
    fn received(
        &self,
        unit: &Unit,
        whole: &BTreeMap<String, Tensor>,
        suffix: &str,
    ) -> Result<Tensor, CollectiveError> {
        let _guard = tch::no_grad_guard();
        let length = unit.layout.part * dim(self.group.size());
        let flat = Tensor::zeros([length], (Kind::Float, Device::Cpu));
        for (name, mut view) in unit.layout.names.iter().zip(unit.layout.views(&flat)) {
            if let Some(tensor) = whole.get(&format!("{name}{suffix}")) {
                view.copy_(&tensor.detach());
            }
        }
        self.group.broadcast(&flat, 0)?;
        Ok(flat.narrow(0, dim(self.group.rank()) * unit.layout.part, unit.layout.part).copy())
    }

    fn gathered(&self, unit: &Unit, part: &Tensor) -> Result<Tensor, CollectiveError> {
        let flat = Tensor::empty([unit.layout.part * dim(self.group.size())], (part.kind(), part.device()));
        self.group.gather(&flat, part)?;
        Ok(flat)
    }

    fn open(&self, index: usize, gradients: bool) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        let Some(unit) = self.units.get(index) else { return Ok(()) };
        let flat = self.gathered(unit, &unit.weights.to_kind(self.placement.kind))?;
        for (parameter, view) in unit.parameters.iter().zip(unit.layout.views(&flat)) {
            parameter.shallow_clone().set_data(&view);
        }
        if gradients {
            let flat = flat.zeros_like();
            for (parameter, view) in unit.parameters.iter().zip(unit.layout.views(&flat)) {
                set_gradient(parameter, Some(&view));
            }
            *unit.open_gradient.borrow_mut() = Some(flat);
        }
        Ok(())
    }

    fn close(&self, index: usize) -> Result<(), CollectiveError> {
        let _guard = tch::no_grad_guard();
        let Some(unit) = self.units.get(index) else { return Ok(()) };
        unit.empty(self.placement);
        if let Some(flat) = unit.open_gradient.borrow_mut().take() {
            let sum = Tensor::empty([unit.layout.part], (flat.kind(), flat.device()));
            self.group.scatter_sum(&sum, &flat)?;
            let _ = unit.gradient.shallow_clone().g_add_(&sum);
        }
        Ok(())
    }
}

impl Unit {
    fn empty(&self, Placement { device, kind }: Placement) {
        for parameter in &self.parameters {
            let nothing = Tensor::empty([0], (kind, device));
            // The gradient first: one of another format may not stay with the parameter.
            set_gradient(parameter, None);
            parameter.shallow_clone().set_data(&nothing);
        }
    }
}

impl Residence for Shards<'_> {
    type Error = CollectiveError;

    fn enter(&self, layer: usize, gradients: bool) -> Result<(), CollectiveError> {
        self.open(layer + 1, gradients)
    }

    fn leave(&self, layer: usize) -> Result<(), CollectiveError> {
        self.close(layer + 1)
    }

    fn enter_root(&self, gradients: bool) -> Result<(), CollectiveError> {
        self.open(0, gradients)
    }

    fn leave_root(&self) -> Result<(), CollectiveError> {
        self.close(0)
    }

    /// Takes part in the others' gathers and sums without computing.
    fn idle(&self, gradients: bool) -> Result<(), CollectiveError> {
        let layers = self.units.len().saturating_sub(1);
        self.enter_root(gradients)?;
        for layer in 0..layers {
            self.enter(layer, false)?;
            self.leave(layer)?;
        }
        if gradients {
            for layer in (0..layers).rev() {
                self.enter(layer, true)?;
                self.leave(layer)?;
            }
        }
        self.leave_root()
    }
}
