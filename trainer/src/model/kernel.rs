//! The attention kernel of one part of a plan: softmax attention that also gives its log-sum-exp, forward and backward.
//!
//! Three ways, chosen by where the numbers are. On the CPU libtorch's flash kernel; on a GPU in half precision its CUDA
//! flash kernel; everything else (float32 on a GPU, which no flash kernel takes) by matrix products over some query rows at a
//! time, slower and with the same results.
//!
//! All tensors are `[1, heads, rows, D]`, log-sum-exps `[1, heads, rows]` in float32. Causal parts have as many query rows as
//! key rows.

use tch::{Device, Kind, Tensor};

use super::flash;

/// Numbers in the score matrix that exist at once where attention is computed by matrix products: 256 MiB of float32.
const SCORES_MAX: i64 = 64 * 1024 * 1024;

/// Which implementation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    CpuFlash,
    CudaFlash,
    Products,
}

impl Kernel {
    fn of(query: &Tensor) -> Self {
        match (query.device(), query.kind()) {
            (Device::Cpu, _) => Self::CpuFlash,
            (Device::Cuda(_), Kind::BFloat16 | Kind::Half) => Self::CudaFlash,
            _ => Self::Products,
        }
    }
}

/// What the backward pass of a part is given.
#[derive(Debug)]
pub struct Saved<'part> {
    /// Gradient of the merged output.
    pub grad_out: &'part Tensor,
    /// Rotated queries.
    pub query: &'part Tensor,
    /// Rotated keys.
    pub key: &'part Tensor,
    /// Values.
    pub value: &'part Tensor,
    /// Merged output of the query rows, over all their parts.
    pub out: &'part Tensor,
    /// Merged log-sum-exp, contiguous.
    pub lse: &'part Tensor,
    /// Whether a query row sees only the key rows up to its own.
    pub causal: bool,
}

/// Output and log-sum-exp of a part.
pub fn forward(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> (Tensor, Tensor) {
    match Kernel::of(query) {
        Kernel::CpuFlash => Tensor::internal_scaled_dot_product_flash_attention_for_cpu::<&Tensor>(
            query, key, value, 0.0, causal, None, None,
        ),
        Kernel::CudaFlash => flash::forward(query, key, value, causal),
        Kernel::Products => products_forward(query, key, value, causal),
    }
}

/// Gradients of queries, keys and values of a part. With the *merged* output and log-sum-exp they are exact.
pub fn backward(saved: &Saved<'_>) -> (Tensor, Tensor, Tensor) {
    let Saved { grad_out, query, key, value, out, lse, causal } = saved;
    match Kernel::of(query) {
        Kernel::CpuFlash => Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward::<&Tensor>(
            grad_out, query, key, value, out, lse, 0.0, *causal, None, None,
        ),
        Kernel::CudaFlash => flash::backward(saved),
        Kernel::Products => products_backward(saved),
    }
}

/// The factor of the scores: one over the root of the head size.
fn scale(query: &Tensor) -> f64 {
    let size = query.size().last().copied().unwrap_or(1);
    1.0 / f64::from(u32::try_from(size).unwrap_or(u32::MAX)).sqrt()
}

/// Scores of the query rows `start..start + len`, with those of unseen keys at minus infinity.
fn scores(query: &Tensor, key: &Tensor, (start, len): (i64, i64), causal: bool) -> Tensor {
    let rows = query.narrow(2, start, len).to_kind(Kind::Float);
    let scores = rows.matmul(&key.to_kind(Kind::Float).transpose(2, 3)) * scale(query);
    if !causal {
        return scores;
    }
    let keys = key.size().get(2).copied().unwrap_or(0);
    let unseen = Tensor::ones([len, keys], (Kind::Bool, query.device())).triu(start + 1);
    scores.masked_fill(&unseen, f64::NEG_INFINITY)
}

/// Query rows in runs whose scores stay within [`SCORES_MAX`].
fn runs(query: &Tensor, key: &Tensor) -> impl Iterator<Item = (i64, i64)> + use<> {
    let size = |tensor: &Tensor, dimension: usize| tensor.size().get(dimension).copied().unwrap_or(0);
    let (rows, heads, keys) = (size(query, 2), size(query, 1), size(key, 2));
    let run = (SCORES_MAX / (heads * keys).max(1)).max(1);
    (0..)
        .map(move |index| index * run)
        .take_while(move |start| *start < rows)
        .map(move |start| (start, run.min(rows - start)))
}

fn products_forward(query: &Tensor, key: &Tensor, value: &Tensor, causal: bool) -> (Tensor, Tensor) {
    let value = value.to_kind(Kind::Float);
    let (mut outs, mut sums) = (Vec::new(), Vec::new());
    for run in runs(query, key) {
        let scores = scores(query, key, run, causal);
        let lse = scores.logsumexp(&[-1_i64][..], true);
        outs.push((scores - &lse).exp_().matmul(&value));
        sums.push(lse.squeeze_dim(-1));
    }
    (Tensor::cat(&outs, 2).to_kind(query.kind()), Tensor::cat(&sums, 2))
}

fn products_backward(saved: &Saved<'_>) -> (Tensor, Tensor, Tensor) {
    let Saved { grad_out, query, key, value, out, lse, causal } = saved;
    let float = |tensor: &Tensor| tensor.to_kind(Kind::Float);
    let (key_float, value_float) = (float(key), float(value));
    let mut grad_query = Vec::new();
    let (mut grad_key, mut grad_value) = (key_float.zeros_like(), value_float.zeros_like());
    for (start, len) in runs(query, key) {
        let rows = |tensor: &Tensor| float(&tensor.narrow(2, start, len));
        let lse = lse.narrow(2, start, len).unsqueeze(-1);
        let shares = (scores(query, key, (start, len), *causal) - lse).exp_();
        let grad_rows = rows(grad_out);
        let _ = grad_value.g_add_(&shares.transpose(2, 3).matmul(&grad_rows));
        // d score = share * (d share - the mean of d share under the shares), and that mean is grad . out.
        let mean = (&grad_rows * rows(out)).sum_dim_intlist(&[-1_i64][..], true, Kind::Float);
        let grad_scores = (grad_rows.matmul(&value_float.transpose(2, 3)) - mean) * shares * scale(query);
        let _ = grad_key.g_add_(&grad_scores.transpose(2, 3).matmul(&rows(query)));
        grad_query.push(grad_scores.matmul(&key_float));
    }
    let kind = query.kind();
    (Tensor::cat(&grad_query, 2).to_kind(kind), grad_key.to_kind(kind), grad_value.to_kind(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: i64) -> Tensor {
        Tensor::randn([1, 3, rows, 8], (Kind::Float, Device::Cpu))
    }

    #[track_caller]
    fn close(left: &Tensor, right: &Tensor) {
        let worst = (left - right).abs().max().double_value(&[]);
        assert!(worst < 2e-6, "{worst:e}");
    }

    #[test]
    fn matrix_products_compute_what_the_flash_kernel_computes_with_its_own_or_a_merged_log_sum_exp() {
        tch::manual_seed(5);
        for (queries, keys, causal) in [(7, 7, true), (5, 9, false), (1, 1, true)] {
            let (query, key, value, grad_out) =
                (random(queries), random(keys), random(keys), random(queries));
            let (out, lse) = forward(&query, &key, &value, causal);
            let (own_out, own_lse) = products_forward(&query, &key, &value, causal);
            close(&out, &own_out);
            close(&lse, &own_lse);
            // As if other parts had added to the rows: a larger sum and another output.
            for (out, lse) in [(out.shallow_clone(), lse.shallow_clone()), (&out * 0.7 + 0.1, &lse + 0.4)] {
                let saved = Saved {
                    grad_out: &grad_out,
                    query: &query,
                    key: &key,
                    value: &value,
                    out: &out,
                    lse: &lse,
                    causal,
                };
                let (left, right) = (backward(&saved), products_backward(&saved));
                close(&left.0, &right.0);
                close(&left.1, &right.1);
                close(&left.2, &right.2);
            }
        }
    }

    #[test]
    fn query_rows_come_in_runs_that_cover_them_once() {
        let (query, key) = (random(5), random(2));
        assert_eq!(runs(&query, &key).collect::<Vec<_>>(), [(0, 5)]);
        let long = Tensor::empty([1, 1, 5, 1], (Kind::Float, Device::Cpu));
        let wide = Tensor::empty([1, 1, SCORES_MAX / 2, 1], (Kind::Float, Device::Cpu));
        assert_eq!(runs(&long, &wide).collect::<Vec<_>>(), [(0, 2), (2, 2), (4, 1)]);
    }
}
