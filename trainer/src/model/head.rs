//! Log-probabilities of selected predictions, in chunks: the logits of a whole batch, `[T, V]`, never exist.
//!
//! Only rows that carry loss reach the output head. The backward pass takes one coefficient per prediction (the derivative of
//! the loss by its log-probability), so every loss in this crate is a function of log-probabilities.

use sealign_batch::Target;
use tch::{Kind, Tensor};

use super::decoder::{Decoder, backward_with};
use super::dim;

/// Logits that may exist at once, in numbers: 64 MiB of float32.
const CHUNK_ELEMENTS: usize = 16 * 1024 * 1024;

/// The head's part of a forward pass.
#[derive(Debug)]
pub struct HeadPass {
    rows_N: Tensor,
    tokens_N: Tensor,
    /// Selected hidden states, a leaf, `[N, C]`.
    selected_NC: Tensor,
    /// After the final norm, `[N, C]`.
    normed_NC: Tensor,
    /// Logits, `[N, V]`, when all targets fit one chunk; else they are computed again.
    logits_NV: Option<Tensor>,
    /// Log-probability of each target, natural logarithm.
    pub log_probs: Vec<f32>,
}

impl Decoder {
    /// Logits of the given rows of `hidden_TC` (before the final norm), `[N, V]`. For serving and tests; the caller bounds `N`.
    pub fn logits(&self, hidden_NC: &Tensor) -> Tensor {
        let normed = hidden_NC.rms_norm(
            [dim(self.config.hidden)],
            Some(&self.weights.final_norm),
            self.config.norm_epsilon,
        );
        normed.linear::<&Tensor>(self.weights.output_head(), None)
    }

    /// Log-probabilities of the targets. With `gradients` the result can be given to [`Decoder::head_backward`].
    pub fn head_forward(&self, hidden_TC: &Tensor, targets: &[Target], gradients: bool) -> HeadPass {
        let rows: Vec<i64> = targets.iter().map(|target| dim(target.row)).collect();
        let tokens: Vec<i64> = targets.iter().map(|target| i64::from(target.token)).collect();
        let place = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(hidden_TC.device());
        let (rows_N, tokens_N) = (place(&rows), place(&tokens));
        let selected_NC = hidden_TC.detach().index_select(0, &rows_N).set_requires_grad(gradients);
        let norm = || {
            selected_NC.rms_norm(
                [dim(self.config.hidden)],
                Some(&self.weights.final_norm),
                self.config.norm_epsilon,
            )
        };
        let normed_NC = if gradients { norm() } else { tch::no_grad(norm) };
        let _guard = tch::no_grad_guard();
        let mut log_probs = vec![0.0_f32; targets.len()];
        let mut kept = None;
        for (start, len) in self.chunks(targets.len()) {
            let tokens = tokens_N.narrow(0, dim(start), dim(len));
            let logits = self.chunk_logits(&normed_NC, start, len);
            let exact = logits.to_kind(Kind::Float);
            let chosen = exact.gather(1, &tokens.unsqueeze(1), false).squeeze_dim(1);
            let part = chosen - exact.logsumexp(&[1_i64][..], false);
            if let Some(out) = log_probs.get_mut(start..start + len) {
                part.copy_data(out, len);
            }
            kept = (gradients && len == targets.len()).then_some(logits);
        }
        HeadPass { rows_N, tokens_N, selected_NC, normed_NC, logits_NV: kept, log_probs }
    }

    /// Adds the gradients of head and final norm, and returns the gradient of the hidden states, `[T, C]`.
    ///
    /// `coefficients` are the derivatives of the loss by each log-probability.
    pub fn head_backward(&self, pass: &HeadPass, coefficients: &[f32], hidden_TC: &Tensor) -> Tensor {
        let grad_normed = tch::no_grad(|| {
            let grad_normed = pass.normed_NC.zeros_like();
            let coefficients_N = Tensor::from_slice(coefficients).to_device(hidden_TC.device());
            let head = self.weights.output_head();
            // A head that is not trained gets no gradient.
            let mut grad_head = head.requires_grad().then(|| head.grad());
            for (start, len) in self.chunks(coefficients.len()) {
                let (start_row, rows) = (dim(start), dim(len));
                let normed = pass.normed_NC.narrow(0, start_row, rows);
                let coefficients = coefficients_N.narrow(0, start_row, rows).unsqueeze(1);
                let tokens = pass.tokens_N.narrow(0, start_row, rows).unsqueeze(1);
                // d log p(token) / d logits = onehot(token) - softmax
                let logits = match &pass.logits_NV {
                    Some(logits) => logits.shallow_clone(),
                    None => self.chunk_logits(&pass.normed_NC, start, len),
                };
                let mut grad_logits = logits.softmax(1, Kind::Float);
                let _ = grad_logits.multiply_(&(-&coefficients));
                let _ = grad_logits.scatter_add_(1, &tokens, &coefficients);
                let grad_logits = grad_logits.to_kind(normed.kind());
                if let Some(grad_head) = &mut grad_head {
                    let _ = grad_head.addmm_(&grad_logits.transpose(0, 1), &normed);
                }
                grad_normed.narrow(0, start_row, rows).copy_(&grad_logits.matmul(head));
            }
            grad_normed
        });
        backward_with(&pass.normed_NC, &grad_normed);
        tch::no_grad(|| hidden_TC.zeros_like().index_add_(0, &pass.rows_N, &pass.selected_NC.grad()))
    }

    fn chunk_logits(&self, normed_NC: &Tensor, start: usize, len: usize) -> Tensor {
        normed_NC.narrow(0, dim(start), dim(len)).linear::<&Tensor>(self.weights.output_head(), None)
    }

    /// Start and length of each chunk.
    fn chunks(&self, count: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let rows = (CHUNK_ELEMENTS / self.config.vocab).max(1);
        (0..count).step_by(rows).map(move |start| (start, rows.min(count - start)))
    }
}
