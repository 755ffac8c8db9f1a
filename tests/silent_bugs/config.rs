//! What a recipe says and what is done.

use crate::support::{Desk, RECIPE};

/// The keys that recipes know, by section.
const KEYS: [(&str, &str); 6] = [
    (
        "",
        "base_model datasets adapter training evaluation output chat_template device threads \
        output_dir",
    ),
    ("datasets", "path format columns train_on"),
    (
        "adapter",
        "method alpha dropout target_modules use_rslora rank_pattern alpha_pattern \
        layers_to_transform init_lora_weights init_from \
        use_dora modules_to_save trainable_token_indices lora_bias quantization double_quant \
        block_size quantize_head offload_embedding",
    ),
    (
        "training",
        "sequence_len sample_packing shuffle truncation max_dropped micro_batch_size \
        gradient_accumulation_steps num_epochs max_steps \
        learning_rate optimizer loraplus_lr_ratio adam_beta1 adam_beta2 adam_epsilon lr_scheduler \
        min_lr_rate warmup_ratio \
        min_8bit_size decay_rate clip_threshold scale_parameter relative_step warmup_init \
        momentum adjust_lr_fn \
        warmup_lr_rate num_cycles power lr_end timescale num_decay_steps num_stable_steps \
        min_lr_ratio warmup_type decay_type \
        warmup_steps weight_decay max_grad_norm gradient_checkpointing model_dtype allow_tf32 \
        on_nonfinite seed",
    ),
    (
        "evaluation",
        "val_set_size datasets eval_steps early_stopping_patience prompts",
    ),
    ("output", "save_steps save_total_limit"),
];

/// A key without its second letter.
fn misspelt(key: &str) -> String {
    key.chars()
        .enumerate()
        .filter(|(place, _)| *place != 1)
        .map(|(_, letter)| letter)
        .collect()
}

/// The recipe with every key of a section misspelt beside the right ones.
fn with_misspelt(section: &str, keys: &str) -> String {
    let lines = |indent: &str| {
        keys.split(' ')
            .map(|key| format!("{indent}{}: 1\n", misspelt(key)))
            .collect::<String>()
    };
    match section {
        "" => format!("{RECIPE}{}", lines("")),
        "datasets" => RECIPE.replace(
            "    format: text\n",
            &format!("    format: text\n{}", lines("    ")),
        ),
        "evaluation" | "output" => format!("{RECIPE}{section}:\n{}", lines("  ")),
        section => RECIPE.replace(
            &format!("{section}:\n"),
            &format!("{section}:\n{}", lines("  ")),
        ),
    }
}

/// drivendataorg/cyfi#64: Pydantic ignores keys that it does not know, so that `quantizaton: 4bit`
/// trains in full precision.
#[test]
fn unknown_keys_ignored() {
    let desk = Desk::new();
    desk.run(&["check", "recipe.yaml"]).says("as it is", 0, &[]);
    for (section, keys) in KEYS {
        desk.write("recipe.yaml", with_misspelt(section, keys));
        let ran = desk.run(&["train", "recipe.yaml"]);
        let faults: Vec<String> = keys
            .split(' ')
            .map(|key| format!("unknown key `{}`", misspelt(key)))
            .collect();
        ran.says(
            section,
            65,
            &faults.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    for line in [
        "quantizaton: 4bit",
        "quantization: 4bit",
        "load_in_4bit: true",
        "Adapter: {r: 8}",
    ] {
        desk.write("recipe.yaml", format!("{RECIPE}{line}\n"));
        let key = line.split(':').next().unwrap_or_default();
        desk.run(&["train", "recipe.yaml"])
            .says(line, 65, &[&format!("`{key}`")]);
    }
    desk.write("recipe.yaml", RECIPE);
    desk.run(&["train", "recipe.yaml", "adapter.quantizaton=4bit"])
        .says("an override", 65, &["`quantizaton`"]);
    assert!(!desk.path("run").exists());
}

/// A key of the field that this program does not act on yet is no unknown key, and is no less
/// refused.
#[test]
fn known_keys_without_effect() {
    let desk = Desk::new();
    let keys = [
        "training.optimizer=galore_adamw",
        "adapter.init_lora_weights=pissa_niter_4",
    ];
    for key in keys {
        desk.run(&["train", "recipe.yaml", key])
            .says(key, 65, &["not supported yet"]);
    }
    assert!(!desk.path("run").exists());
}
