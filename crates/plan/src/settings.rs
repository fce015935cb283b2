//! The settings of a training step, as the trainer reads them: one JSON object with numbers where the spec has decimals.
//!
//! `{"stage": "sft" | "dpo", "seed", "layout": "treePacked" | "linear", "lora": null | {"rank", "alpha"},
//! "sharding": "nothing" | "everything", "recompute": "nothing" | "layers", "device": "cpu" | "cuda",
//! "precision": "auto" | "float32" | "bfloat16", "learningRate", "optimization": {"maxEpochs", "maxSteps": null | n,
//! "batchSize", "tokensPerStep": null | n, "contextTokens", "schedule": "linear" | "cosine", "warmupRatio", "finalRatio",
//! "adamBeta1", "adamBeta2", "weightDecay", "clipNorm", "validationPercent", "checkpointSteps"}}`, for `sft` also `"maskInvalidTurns"`, for `dpo` also `"beta"`,
//! `"sftExamplesPerStep"` and `"sftWeight"`. Nothing of it is a path or a time: its digest is lineage.

use sealign_crds::alignment_run::{
    DpoStage, Layout, Lora, Optimization, Precision, Recompute, Schedule, SftStage, Sharding, TrainerSpec,
};
use serde_json::{Map, Value, json};

/// Settings of an SFT step.
pub fn sft(stage: &SftStage, trainer: &TrainerSpec, seed: i32) -> Value {
    let SftStage { learning_rate, optimization, mask_invalid_turns } = stage;
    let own = json!({ "maskInvalidTurns": mask_invalid_turns });
    joined("sft", learning_rate.to_f64(), optimization, trainer, seed, own)
}

/// Settings of a DPO step.
pub fn dpo(stage: &DpoStage, trainer: &TrainerSpec, seed: i32) -> Value {
    let DpoStage { learning_rate, beta, sft_examples_per_step, sft_weight, optimization } = stage;
    let own = json!({
        "beta": beta.to_f64(),
        "sftExamplesPerStep": sft_examples_per_step,
        "sftWeight": sft_weight.to_f64(),
    });
    joined("dpo", learning_rate.to_f64(), optimization, trainer, seed, own)
}

fn joined(
    stage: &str,
    learning_rate: f64,
    optimization: &Optimization,
    trainer: &TrainerSpec,
    seed: i32,
    own: Value,
) -> Value {
    // Nodes, resources, image and rounds decide where a step runs, not what it computes; a GPU computes other roundings.
    let TrainerSpec {
        nodes: _,
        gpus_per_node,
        cpu_millis: _,
        memory_mib: _,
        image: _,
        layout,
        lora,
        sharding,
        recompute,
        precision,
        max_rounds: _,
    } = trainer;
    let lora = lora.as_ref().map(|Lora { rank, alpha }| json!({ "rank": rank, "alpha": alpha }));
    let mut settings = Map::new();
    settings.insert("stage".into(), stage.into());
    settings.insert("seed".into(), seed.into());
    settings.insert("layout".into(), layout_name(*layout).into());
    settings.insert("lora".into(), lora.into());
    settings.insert("sharding".into(), sharding_name(*sharding).into());
    settings.insert("recompute".into(), recompute_name(*recompute).into());
    settings.insert("device".into(), if *gpus_per_node > 0 { "cuda" } else { "cpu" }.into());
    settings.insert("precision".into(), precision_name(*precision).into());
    settings.insert("learningRate".into(), learning_rate.into());
    if let Value::Object(own) = own {
        settings.extend(own);
    }
    settings.insert("optimization".into(), optimization_settings(optimization));
    Value::Object(settings)
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::TreePacked => "treePacked",
        Layout::Linear => "linear",
    }
}

fn sharding_name(sharding: Sharding) -> &'static str {
    match sharding {
        Sharding::Nothing => "nothing",
        Sharding::Everything => "everything",
    }
}

fn recompute_name(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::Nothing => "nothing",
        Recompute::Layers => "layers",
    }
}

fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Auto => "auto",
        Precision::Float32 => "float32",
        Precision::Bfloat16 => "bfloat16",
    }
}

fn optimization_settings(optimization: &Optimization) -> Value {
    let Optimization {
        max_epochs,
        max_steps,
        batch_size,
        tokens_per_step,
        context_tokens,
        schedule,
        warmup_ratio,
        final_ratio,
        adam_beta1,
        adam_beta2,
        weight_decay,
        clip_norm,
        validation_percent,
        checkpoint_steps,
    } = optimization;
    let schedule = match schedule {
        Schedule::Linear => "linear",
        Schedule::Cosine => "cosine",
    };
    json!({
        "maxEpochs": max_epochs,
        "maxSteps": max_steps,
        "batchSize": batch_size,
        "tokensPerStep": tokens_per_step,
        "contextTokens": context_tokens,
        "schedule": schedule,
        "warmupRatio": warmup_ratio.to_f64(),
        "finalRatio": final_ratio.to_f64(),
        "adamBeta1": adam_beta1.to_f64(),
        "adamBeta2": adam_beta2.to_f64(),
        "weightDecay": weight_decay.to_f64(),
        "clipNorm": clip_norm.to_f64(),
        "validationPercent": validation_percent,
        "checkpointSteps": checkpoint_steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_numbers_and_nothing_says_where_the_step_runs() {
        let stage: DpoStage = serde_json::from_value(json!({ "beta": "0.25" })).unwrap();
        let trainer = TrainerSpec { nodes: 4, memory_mib: 999, ..TrainerSpec::default() };
        let settings = dpo(&stage, &trainer, 7);
        assert_eq!(settings["beta"], json!(0.25));
        assert_eq!(settings["learningRate"], json!(3e-7));
        assert_eq!(settings["optimization"]["adamBeta2"], json!(0.999));
        assert_eq!(
            (&settings["stage"], &settings["seed"], &settings["layout"]),
            (&json!("dpo"), &json!(7), &json!("treePacked"))
        );
        assert_eq!(settings, dpo(&stage, &TrainerSpec::default(), 7));
    }

    #[test]
    fn adapter_sharding_and_recomputation_reach_the_trainer() {
        let stage: SftStage = serde_json::from_value(json!({})).unwrap();
        let trainer: TrainerSpec = serde_json::from_value(json!({
            "lora": { "rank": 8, "alpha": 16 }, "sharding": "Everything", "recompute": "Layers",
        }))
        .unwrap();
        let settings = sft(&stage, &trainer, 0);
        assert_eq!(settings["lora"], json!({ "rank": 8, "alpha": 16 }));
        assert_eq!((&settings["sharding"], &settings["recompute"]), (&json!("everything"), &json!("layers")));
        let plain = sft(&stage, &TrainerSpec::default(), 0);
        assert_eq!((&plain["lora"], &plain["sharding"]), (&json!(null), &json!("nothing")));
    }
}
