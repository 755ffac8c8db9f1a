//! Tests of the import: every key of the tools' schemas has one rule, and configs become recipes
//! that the reader accepts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The keys of each tool's schema, one a line, at the commit that the file names.
const SCHEMAS: [(Tool, &str); 5] = [
    (
        Tool::Axolotl,
        include_str!("../../../tests/import/axolotl.keys"),
    ),
    (
        Tool::LlamaFactory,
        include_str!("../../../tests/import/llama-factory.keys"),
    ),
    (
        Tool::Torchtune,
        include_str!("../../../tests/import/torchtune.keys"),
    ),
    (
        Tool::MlxLm,
        include_str!("../../../tests/import/mlx-lm.keys"),
    ),
    (
        Tool::PeftRun,
        include_str!("../../../tests/import/peft-run.keys"),
    ),
];

/// Returns whether a key has a rule, or is below one with a rule for the whole.
fn is_ruled(tool: Tool, key: &str) -> bool {
    let mut path = String::new();
    for part in key.split('.') {
        path = if path.is_empty() {
            part.to_owned()
        } else {
            format!("{path}.{part}")
        };
        match rule(tool.tables(), path.trim_end_matches("[]")) {
            Some(Rule::Within) | None => {}
            Some(_) => return true,
        }
        if path == key {
            return rule(tool.tables(), key).is_some();
        }
    }
    false
}

#[test]
fn every_key_of_every_schema_has_one_rule() {
    for (tool, keys) in SCHEMAS {
        let missing: Vec<&str> = keys.lines().filter(|key| !is_ruled(tool, key)).collect();
        assert!(missing.is_empty(), "{tool}: {missing:?}");
        let mut seen = BTreeSet::new();
        let ruled = tool
            .tables()
            .iter()
            .flat_map(|table| table.iter())
            .flat_map(|(keys, _)| keys.iter());
        let twice: Vec<&&str> = ruled.filter(|key| !seen.insert(**key)).collect();
        assert!(twice.is_empty(), "{tool} has two rules for {twice:?}");
    }
}

/// Every rule that names a key of the recipe names an existing one.
#[test]
fn every_rule_leads_to_a_key_of_the_recipe() {
    for (_, tool) in Tool::WORDS {
        for (keys, rule) in tool.tables().iter().flat_map(|table| table.iter()) {
            if let Rule::Same(key) = rule {
                assert!(
                    crate::recipe::schema::has(key),
                    "{tool}: {keys:?} lead to `{key}`"
                );
            }
        }
    }
}

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/import")
        .join(name)
}

/// Imports a config from a text, in a folder of its own.
fn imported(tool: Tool, text: &str) -> Imported {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.yaml");
    fs::write(&path, text).expect("a config");
    import(&path, Some(tool)).expect("a config that is read")
}

fn fate<'a>(imported: &'a Imported, key: &str) -> &'a KeyOutcome {
    &imported
        .keys
        .iter()
        .find(|found| found.key == key)
        .unwrap_or_else(|| panic!("`{key}` has no fate"))
        .outcome
}

/// Returns the value of a recipe's key as text.
fn line(imported: &Imported, key: &str) -> Option<String> {
    let start = format!("{key}: ");
    imported.recipe.lines().find_map(|line| {
        line.trim_start()
            .trim_start_matches("- ")
            .strip_prefix(&start)
            .map(str::to_owned)
    })
}

#[test]
fn whole_configs_come_to_recipes_that_are_read() {
    for (name, tool) in [
        ("axolotl.yaml", Tool::Axolotl),
        ("llama-factory.yaml", Tool::LlamaFactory),
        ("torchtune.yaml", Tool::Torchtune),
        ("mlx-lm.yaml", Tool::MlxLm),
        ("peft-run", Tool::PeftRun),
    ] {
        let imported = import(&sample(name), None).expect(name);
        assert_eq!(imported.tool, tool, "{name}");
        assert_eq!(imported.refused(), [], "{name}\n{}", imported.recipe);
        let recipe = super::super::from_bytes(Path::new(name), imported.recipe.as_bytes(), &[]);
        assert_eq!(recipe.faults, [], "{name}\n{}", imported.recipe);
        assert_eq!(imported.counts().iter().sum::<usize>(), imported.keys.len());
        assert!(
            imported
                .keys
                .iter()
                .all(|key| !key.outcome.words().is_empty()),
            "{name}"
        );
    }
}

const AXOLOTL: &str = "base_model: org/base\nmicro_batch_size: 1\nsequence_len: \
    512\nlearning_rate: 2e-5\nlr_scheduler: cosine\n\
    datasets:\n  - path: d.parquet\n    type: completion\nwarmup_ratio: \
    0.1\nadapter: lora\nlora_r: 8\nlora_target_linear: true\n";

fn axolotl(lines: &str) -> Imported {
    let names: BTreeSet<&str> = lines
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    let kept = |line: &&str| {
        line.split_once(':')
            .is_none_or(|(name, _)| !names.contains(name))
    };
    let base: String = AXOLOTL
        .lines()
        .filter(kept)
        .map(|line| format!("{line}\n"))
        .collect();
    imported(Tool::Axolotl, &format!("{base}{lines}\n"))
}

#[test]
fn traps_of_axolotl() {
    let found = axolotl("warmup_steps: 0.1\nwarmup_ratio:");
    assert_eq!(line(&found, "warmup_ratio").as_deref(), Some("0.1"));
    let found = axolotl("warmup_steps: 1\nwarmup_ratio:");
    assert_eq!(line(&found, "warmup_steps").as_deref(), Some("2"));
    let found = axolotl("lr_scheduler: constant");
    assert_eq!(
        (
            line(&found, "warmup_ratio"),
            fate(&found, "warmup_ratio").word()
        ),
        (None, "dropped")
    );
    let found = axolotl("lr_scheduler: constant_with_warmup");
    assert_eq!(
        (
            line(&found, "lr_scheduler").as_deref(),
            line(&found, "warmup_ratio").as_deref()
        ),
        (Some("constant"), Some("0.1"))
    );
    let found = axolotl("learning_rate: \"2e-5\"");
    assert_eq!(line(&found, "learning_rate").as_deref(), Some("2e-5"));
    let found = axolotl("adapter:");
    assert_eq!(
        (line(&found, "method").as_deref(), line(&found, "r")),
        (Some("full"), None)
    );
    let found = axolotl("lora_target_linear: true\nlora_target_modules: [q_proj, lm_head]");
    assert_eq!(fate(&found, "lora_target_modules").word(), "refused");
    let found = axolotl("load_in_8bit: true");
    assert_eq!(line(&found, "quantization").as_deref(), Some("int8"));
    let found = axolotl("val_set_size: 200");
    assert_eq!(line(&found, "val_set_size").as_deref(), Some("200"));
    let found = axolotl("datasets:\n  - path: org/d\n    type: alpaca\ntrain_on_inputs: true");
    assert_eq!(
        (
            line(&found, "train_on").as_deref(),
            line(&found, "format").as_deref()
        ),
        (Some("all"), Some("instruction"))
    );
    let found = axolotl(
        "datasets:\n  - path: org/d\n    name: en\n    revision: v1\n    type: \
        alpaca\n    split: train[:5%]",
    );
    assert_eq!(
        (
            line(&found, "path").as_deref(),
            line(&found, "config").as_deref()
        ),
        (Some("\"hf://datasets/org/d@v1\""), Some("en"))
    );
    assert_eq!(
        (
            line(&found, "split").as_deref(),
            fate(&found, "datasets.0.split").word()
        ),
        (Some("\"train[:5%]\""), "mapped")
    );
    let found = axolotl("datasets:\n  - path: org/d\n    data_files: a.jsonl\n    type: alpaca");
    assert_eq!(
        (
            line(&found, "path").as_deref(),
            fate(&found, "datasets.0.data_files").word()
        ),
        (Some("datasets/org/d"), "replaced")
    );
    let found =
        axolotl("datasets:\n  - path: d.parquet\n    type: completion\n    split: train[:10%]");
    assert_eq!(
        (
            line(&found, "split").as_deref(),
            fate(&found, "datasets.0.split").word()
        ),
        (Some("\"train[:10%]\""), "mapped")
    );
    let found = axolotl("lora_model_dir: old\nlora_alpha: 16");
    assert_eq!(
        (
            line(&found, "init_from").as_deref(),
            line(&found, "alpha"),
            line(&found, "r")
        ),
        (Some("old"), None, None)
    );
    let found = axolotl("cosine_min_lr_ratio: 0.1");
    assert_eq!(
        (
            line(&found, "lr_scheduler").as_deref(),
            line(&found, "min_lr_rate").as_deref()
        ),
        (Some("cosine_with_min_lr"), Some("0.1"))
    );
    let found = axolotl("evals_per_epoch: 4\nearly_stopping_patience: 3\nval_set_size: 0.1");
    assert_eq!(fate(&found, "evals_per_epoch").word(), "refused");
}

#[test]
fn a_config_without_data_says_so() {
    let found = imported(
        Tool::Axolotl,
        &AXOLOTL.replace(
            "datasets:\n  - path: d.parquet\n    type: completion\n",
            "datasets: []\n",
        ),
    );
    let reasons: Vec<String> = found.refused().iter().map(ToString::to_string).collect();
    assert!(
        matches!(&reasons[..], [reason] if reason.contains("a recipe needs `datasets`")),
        "{reasons:?}"
    );
    assert_eq!(line(&found, "base_model").as_deref(), Some("org/base"));
}

/// Every refused key is named, whatever its value.
#[test]
fn refused_keys_are_named_with_their_reasons() {
    for (lines, key, part) in [
        ("made_up: 1", "made_up", "no such key"),
        ("made_up:", "made_up", "no such key"),
        ("rl: grpo", "rl", "reinforcement learning is not"),
        (
            "lora_r: 0",
            "lora_r",
            "adapter.r: expected a whole number from 1",
        ),
        (
            "lora_r: many",
            "lora_r",
            "adapter.r: expected a whole number",
        ),
        (
            "learning_rate: fast",
            "learning_rate",
            "training.learning_rate: expected a number",
        ),
        ("num_epochs: 1.5", "num_epochs", "a part of an epoch"),
        ("optimizer: muon_of_mine", "optimizer", "not supported"),
        (
            "lora_target_linear: false",
            "adapter",
            "no modules are named",
        ),
        (
            "datasets:\n  - path: d.parquet\n    type: completion\n    split: test",
            "datasets.0.split",
            "a part of local files",
        ),
        (
            "datasets:\n  - path: d.parquet\n    type: {field_output: a}",
            "datasets.0.type",
            "layout of rows",
        ),
        (
            "datasets:\n  - path: d.parquet\n    type: completion\n    fild: a",
            "datasets.0.fild",
            "no such key",
        ),
        (
            "plugins: [axolotl.integrations.diffusion.DiffusionPlugin]",
            "plugins",
            "trains in another way",
        ),
        (
            "fix_untrained_tokens: true",
            "fix_untrained_tokens",
            "weights",
        ),
        (
            "lora_dropout: 1.5",
            "lora_dropout",
            "adapter.dropout: expected a number from 0 to below 1",
        ),
    ] {
        let found = axolotl(lines);
        let said = fate(&found, key);
        assert!(
            matches!(said, KeyOutcome::Refused(reason) if reason.contains(part)),
            "{lines}: {said:?}"
        );
        assert!(
            found.recipe.contains(&format!("# - {key}")),
            "{lines}\n{}",
            found.recipe
        );
        let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
        let form: Vec<_> = recipe
            .faults
            .iter()
            .filter(|fault| !fault.message.starts_with("missing key"))
            .collect();
        assert!(form.is_empty(), "{lines}: {form:?}");
    }
}

#[test]
fn a_value_of_a_config_cannot_write_a_line_of_the_recipe() {
    let found = axolotl("base_model: \"x\\ntraining: {seed: 7}\"\nmade_up: \"a\\nthreads: 3\"");
    let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
    assert_eq!(
        (recipe.faults.len(), recipe.threads, recipe.training.seed),
        (0, None, None)
    );
    assert_eq!(
        recipe.base_model.map(|said| said.value).as_deref(),
        Some("x\ntraining: {seed: 7}")
    );
}

#[test]
fn traps_of_the_others() {
    let torchtune = fs::read_to_string(sample("torchtune.yaml")).expect("a sample");
    let found = imported(
        Tool::Torchtune,
        &torchtune.replace("apply_lora_to_output: False", "apply_lora_to_output: True"),
    );
    assert_eq!(
        line(&found, "target_modules").as_deref(),
        Some("[q_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head]")
    );
    assert_eq!(line(&found, "max_grad_norm").as_deref(), Some("0"));
    assert_eq!(line(&found, "train_on").as_deref(), Some("all"));
    let found = imported(
        Tool::Torchtune,
        &torchtune.replace(
            "output_dir: out/torchtune",
            "output_dir: ${a.b}/x\na:\n  b: ${c}\nc: deep",
        ),
    );
    assert_eq!(line(&found, "output_dir").as_deref(), Some("deep/x"));
    let nowhere = imported(
        Tool::Torchtune,
        &torchtune.replace("output_dir: out/torchtune", "output_dir: ${oc.env:HOME}/x"),
    );
    assert!(matches!(
        fate(&nowhere, "output_dir"),
        KeyOutcome::Refused(reason) if reason.contains("names nothing")
    ));
    assert_eq!(
        [fate(&found, "a").word(), fate(&found, "c").word()],
        ["dropped", "dropped"]
    );
    let found = imported(
        Tool::Torchtune,
        &torchtune
            .replace("  weight_decay: 0.01\n", "")
            .replace("llama3_2.lora_", "llama3_2_vision.lora_"),
    );
    assert_eq!(line(&found, "weight_decay").as_deref(), Some("0.01"));
    assert_eq!(fate(&found, "model._component_").word(), "refused");

    let factory = fs::read_to_string(sample("llama-factory.yaml")).expect("a sample");
    let found = imported(Tool::LlamaFactory, &factory);
    assert!(matches!(
        fate(&found, "dataset"),
        KeyOutcome::Refused(reason) if reason.contains("dataset_info.json")
    ));
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    fs::copy(
        sample("data/dataset_info.json"),
        folder.path().join("data/dataset_info.json"),
    )
    .expect("a copy");
    for (names, part) in [
        ("pictures", "images"),
        ("pairs", "preference"),
        ("nobody", "is not in"),
        ("talks, pictures", "images"),
    ] {
        let path = folder.path().join("config.yaml");
        fs::write(&path, factory.replace("talks,lines", names)).expect("a config");
        let found = import(&path, None).expect("a config");
        assert!(
            matches!(fate(&found, "dataset"), KeyOutcome::Refused(reason) if reason.contains(part)),
            "{names}: {:?}",
            fate(&found, "dataset")
        );
    }

    let mlx = fs::read_to_string(sample("mlx-lm.yaml")).expect("a sample");
    let found = imported(Tool::MlxLm, &mlx);
    assert!(
        matches!(fate(&found, "num_layers"), KeyOutcome::Refused(reason) if reason.contains("the \
            last 2 layers"))
    );
    for (sets, said) in [
        (
            "path: a/b\n  prompt_feature: q\n  completion_feature: a",
            Ok("{prompt: q, completion: a}"),
        ),
        (
            "path: a/b\n  config: {name: en}\n  train_split: train[:1000]\n  text_feature: body",
            Ok("{text: body}"),
        ),
        ("path: a/b", Err("says what the rows are")),
        (
            "path: a/b\n  chat_feature: m\n  config: {data_dir: x}",
            Err("`config.data_dir` of a data set is not supported"),
        ),
        (
            "path: a/b\n  chat_feature: m\n  shuffled: true",
            Err("`shuffled` of a data set is not supported"),
        ),
    ] {
        let found = imported(
            Tool::MlxLm,
            &mlx.replace("data: org/questions", &format!("hf_dataset:\n  {sets}"))
                .replace("num_layers: 2", "num_layers: -1"),
        );
        match said {
            Ok(columns) => {
                assert_eq!(
                    line(&found, "columns").as_deref(),
                    Some(columns),
                    "{}",
                    found.recipe
                );
                let slices =
                    found.recipe.contains("train[:80%]") || found.recipe.contains("train[:1000]");
                assert!(
                    slices && found.recipe.contains("train[-10%:]"),
                    "{}",
                    found.recipe
                );
                let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
                assert_eq!(recipe.faults, [], "{}", found.recipe);
            }
            Err(part) => assert!(
                matches!(
                    fate(&found, "hf_dataset"),
                    KeyOutcome::Refused(reason) if reason.contains(part)
                ),
                "{sets}"
            ),
        }
    }
    let found = import(&sample("mlx-lm.yaml"), None).expect("a sample");
    assert_eq!(
        (
            line(&found, "alpha").as_deref(),
            line(&found, "layers_to_transform").as_deref()
        ),
        (Some("160"), Some("[4, 5]"))
    );
}

#[test]
fn roles_and_variables_of_templates_come_along() {
    let chats = "datasets:\n  - path: d.parquet\n    type: chat_template\n";
    let found = axolotl(&format!(
        "{chats}    roles: {{assistant: [gpt, bot], user: [human], critic: [judge]}}\n    \
        roles_to_train: [bot]"
    ));
    assert_eq!(
        line(&found, "roles").as_deref(),
        Some("{bot: assistant, judge: critic}")
    );
    let fates =
        ["datasets.0.roles", "datasets.0.roles_to_train"].map(|key| fate(&found, key).word());
    assert_eq!(fates, ["mapped", "mapped"]);
    for (lines, key, word) in [
        (
            "    roles: {assistant: [gpt], user: [human]}",
            "datasets.0.roles",
            "dropped",
        ),
        (
            "    roles: {assistant: [a], user: [a]}",
            "datasets.0.roles",
            "refused",
        ),
        ("    roles: [a]", "datasets.0.roles", "refused"),
        (
            "    roles_to_train: [judge]",
            "datasets.0.roles_to_train",
            "refused",
        ),
        (
            "    roles: {judge: [bot]}\n    roles_to_train: [bot]",
            "datasets.0.roles_to_train",
            "refused",
        ),
        (
            "chat_template_kwargs: {enable_thinking: false, depth: 3, name: 'a b'}",
            "chat_template_kwargs",
            "mapped",
        ),
        (
            "chat_template_kwargs: {messages: []}",
            "chat_template_kwargs",
            "refused",
        ),
        ("chat_template_kwargs: 3", "chat_template_kwargs", "refused"),
        ("chat_template_kwargs:", "chat_template_kwargs", "dropped"),
    ] {
        let found = axolotl(&format!("{chats}{lines}"));
        assert_eq!(
            fate(&found, key).word(),
            word,
            "{lines}: {:?}",
            fate(&found, key)
        );
        let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
        assert_eq!(recipe.faults, [], "{lines}\n{}", found.recipe);
    }
    // Rows of another layout have no roles, and a recipe may not name any.
    let found = axolotl(
        "datasets:\n  - path: d.parquet\n    type: completion\n    roles: {assistant: [bot]}",
    );
    assert_eq!(
        (
            fate(&found, "datasets.0.roles").word(),
            line(&found, "roles")
        ),
        ("dropped", None)
    );

    let found = import(&sample("llama-factory.yaml"), None).expect("a sample");
    assert_eq!(line(&found, "roles").as_deref(), Some("{bot: assistant}"));
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    let factory = fs::read_to_string(sample("llama-factory.yaml")).expect("a sample");
    let path = folder.path().join("config.yaml");
    fs::write(
        &path,
        factory
            .replace("talks,lines", "talks")
            .replace("max_samples: 1000\n", ""),
    )
    .expect("a config");
    for (tags, roles) in [
        (
            r#"{"user_tag": "human", "observation_tag": "observation"}"#,
            Ok(Some("{observation: tool}")),
        ),
        (
            r#"{"user_tag": "Q", "assistant_tag": "A", "system_tag": "S"}"#,
            Ok(Some("{A: assistant, Q: user, S: system}")),
        ),
        (
            r#"{"user_tag": "human", "function_tag": "function_call"}"#,
            Ok(None),
        ),
        (
            r#"{"user_tag": "x", "assistant_tag": "x"}"#,
            Err("two roles"),
        ),
        (r#"{"function_tag": "call"}"#, Err("calls of tools")),
        (r#"{"content_tag": "said"}"#, Err("rename it to `content`")),
        (r#"{"mood_tag": "said"}"#, Err("the tag `mood_tag`")),
    ] {
        let columns = r#"{"messages": "turns", "system": "frame"}"#;
        let info = format!(
            r#"{{"talks": {{
                "file_name": "t.parquet", "formatting": "sharegpt",
                "columns": {columns}, "tags": {tags}
            }}}}"#
        );
        fs::write(folder.path().join("data/dataset_info.json"), info).expect("a file");
        let found = import(&path, None).expect("a config");
        let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
        match roles {
            Ok(roles) => {
                assert_eq!(line(&found, "roles").as_deref(), roles, "{tags}");
                assert_eq!(
                    line(&found, "columns").as_deref(),
                    Some("{messages: turns, system: frame}"),
                    "{tags}"
                );
                assert_eq!(recipe.faults, [], "{tags}\n{}", found.recipe);
            }
            Err(part) => {
                assert!(
                    matches!(
                        fate(&found, "dataset"),
                        KeyOutcome::Refused(reason) if reason.contains(part)
                    ),
                    "{tags}"
                );
            }
        }
    }
}

#[test]
fn mixing_and_deduplication_come_along() {
    let found = axolotl("dataset_exact_deduplication: true");
    assert_eq!(
        (
            line(&found, "deduplicate").as_deref(),
            fate(&found, "dataset_exact_deduplication").word()
        ),
        (Some("exact"), "mapped")
    );
    let found = axolotl("dataset_exact_deduplication: false");
    assert_eq!(
        (
            line(&found, "deduplicate"),
            fate(&found, "dataset_exact_deduplication").word()
        ),
        (None, "dropped")
    );

    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    fs::copy(
        sample("data/dataset_info.json"),
        folder.path().join("data/dataset_info.json"),
    )
    .expect("a copy");
    let factory = fs::read_to_string(sample("llama-factory.yaml")).expect("a sample");
    let path = folder.path().join("config.yaml");
    let with = |lines: &str| {
        let kept = |line: &&str| {
            !["mix_strategy", "interleave_probs"]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let base: String = factory
            .lines()
            .filter(kept)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&path, format!("{base}{lines}\n")).expect("a config");
        let found = import(&path, Some(Tool::LlamaFactory)).expect("a config");
        let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
        assert_eq!(recipe.faults, [], "{lines}\n{}", found.recipe);
        let weights: Vec<Option<f64>> = recipe
            .datasets
            .iter()
            .map(|set| set.weight.as_ref().map(|said| said.value))
            .collect();
        (found, weights)
    };
    let (found, weights) = with("mix_strategy: interleave_under\ninterleave_probs: 0.7,0.3");
    assert_eq!(
        (weights, line(&found, "stopping_strategy").as_deref()),
        (vec![Some(0.7), Some(0.3)], Some("first_exhausted"))
    );
    assert_eq!(
        [
            fate(&found, "mix_strategy").word(),
            fate(&found, "interleave_probs").word()
        ],
        ["replaced", "mapped"]
    );
    let (found, weights) = with("mix_strategy: interleave_over");
    assert_eq!(
        (weights, line(&found, "stopping_strategy").as_deref()),
        (vec![Some(1.0), Some(1.0)], Some("all_exhausted"))
    );
    let (found, weights) = with("mix_strategy: concat\ninterleave_probs: 0.7,0.3");
    assert_eq!(
        (weights, line(&found, "stopping_strategy")),
        (vec![None, None], None)
    );
    assert_eq!(fate(&found, "interleave_probs").word(), "dropped");
    let (found, _) = with("mix_strategy: interleave_over\ninterleave_probs: 0.7");
    assert_eq!(fate(&found, "interleave_probs").word(), "refused");
}

#[test]
fn optimizers_and_schedules_come_along() {
    for (lines, key, word) in [
        ("optimizer: adamw_bnb_8bit", "optimizer", "mapped"),
        ("optimizer: paged_adamw_8bit", "optimizer", "mapped"),
        ("optimizer: ao_adamw_4bit", "optimizer", "replaced"),
        ("optimizer: adamw_torch_8bit", "optimizer", "replaced"),
        ("optimizer: muon", "optimizer", "replaced"),
        ("optimizer: galore_adamw", "optimizer", "refused"),
        (
            "optimizer: lion_8bit\nadam_epsilon: 1e-8",
            "adam_epsilon",
            "dropped",
        ),
        (
            "optimizer: adafactor\nadam_beta1: 0.9\nadam_beta2: 0.95",
            "adam_beta1",
            "dropped",
        ),
        (
            "optimizer: adamw_torch\nadam_beta1: 0.8",
            "adam_beta1",
            "mapped",
        ),
        (
            "optimizer: schedule_free_adamw\nlr_scheduler: cosine",
            "optimizer",
            "refused",
        ),
        (
            "optimizer: schedule_free_adamw\nlr_scheduler: constant\nwarmup_ratio: 0.1",
            "warmup_ratio",
            "mapped",
        ),
        ("lr_scheduler: rex", "lr_scheduler", "refused"),
        (
            "lr_scheduler: polynomial\nlr_scheduler_kwargs: {power: 2, lr_end: 1e-6}",
            "lr_scheduler_kwargs",
            "mapped",
        ),
        (
            "lr_scheduler: warmup_stable_decay\nlr_scheduler_kwargs: \
            {num_decay_steps: 10, decay_type: 1-sqrt}",
            "lr_scheduler_kwargs",
            "mapped",
        ),
        (
            "lr_scheduler: linear\nlr_scheduler_kwargs: {power: 2}",
            "lr_scheduler_kwargs",
            "refused",
        ),
        (
            "lr_scheduler: linear\nlr_scheduler_kwargs: {twist: 2}",
            "lr_scheduler_kwargs",
            "refused",
        ),
        (
            "lr_scheduler: linear\nlr_scheduler_kwargs: {}",
            "lr_scheduler_kwargs",
            "dropped",
        ),
    ] {
        let found = axolotl(lines);
        assert_eq!(
            fate(&found, key).word(),
            word,
            "{lines}: {:?}",
            fate(&found, key)
        );
        let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
        assert_eq!(recipe.faults, [], "{lines}\n{}", found.recipe);
    }
    // transformers gives Lion the second beta of Adam, which is not Lion's own default.
    assert_eq!(
        line(&axolotl("optimizer: lion_8bit"), "adam_beta2").as_deref(),
        Some("0.999")
    );
    assert_eq!(
        line(
            &axolotl("optimizer: lion_8bit\nadam_beta2: 0.98"),
            "adam_beta2"
        )
        .as_deref(),
        Some("0.98")
    );
    assert_eq!(
        line(
            &axolotl("lr_scheduler: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 3}"),
            "num_cycles"
        )
        .as_deref(),
        Some("3")
    );
}

#[test]
fn tokens_are_named_and_added() {
    let found = axolotl(
        "special_tokens: \
        {eos_token: <|im_end|>, pad_token: <pad>, additional_special_tokens: [<|a|>]}\ntokens: \
        [<|im_start|>, <|im_end|>]\neot_tokens: [<|im_end|>]\nadded_tokens_overrides: \
        {128011: <|b|>}",
    );
    let add = "[\"<|im_end|>\", \"<|im_start|>\", \"<|b|>\", {token: \"<|a|>\", special: true}]";
    assert_eq!(
        line(&found, "add").as_deref(),
        Some(add),
        "{}",
        found.recipe
    );
    assert_eq!(line(&found, "eos").as_deref(), Some("\"<|im_end|>\""));
    assert_eq!(
        line(&found, "end_of_turn").as_deref(),
        Some("[\"<|im_end|>\"]")
    );
    let words = [
        "special_tokens.eos_token",
        "special_tokens.pad_token",
        "tokens",
        "eot_tokens",
        "added_tokens_overrides",
    ];
    let fates = words.map(|key| fate(&found, key).word());
    assert_eq!(
        fates,
        ["mapped", "dropped", "replaced", "mapped", "replaced"]
    );
    let recipe = super::super::from_bytes(Path::new("x"), found.recipe.as_bytes(), &[]);
    let added: Vec<(String, bool)> = recipe
        .tokens
        .add
        .iter()
        .map(|said| (said.value.token.clone(), said.value.special))
        .collect();
    assert_eq!(added.len(), 4);
    assert_eq!(added[3], ("<|a|>".to_owned(), true));

    let found = imported(
        Tool::LlamaFactory,
        "model_name_or_path: b\nadd_tokens: <x>,<y>\nadd_special_tokens: <z>\nresize_vocab: true",
    );
    assert_eq!(
        line(&found, "add").as_deref(),
        Some("[\"<x>\", \"<y>\", {token: \"<z>\", special: true}]")
    );
    assert_eq!(
        line(&found, "modules_to_save").as_deref(),
        Some("[embed_tokens, lm_head]"),
        "{}",
        found.recipe
    );
    assert_eq!(fate(&found, "resize_vocab").word(), "dropped");
}

/// Returns the recipe's objective and dataset, after the recipe is seen to be read.
fn read_back(imported: &Imported) -> crate::recipe::Recipe {
    assert_eq!(imported.refused(), [], "{}", imported.recipe);
    let recipe = super::super::from_bytes(Path::new("x"), imported.recipe.as_bytes(), &[]);
    assert_eq!(recipe.faults, [], "{}", imported.recipe);
    recipe
}

const PAIRS_OF_AXOLOTL: &str = "base_model: base
adapter: lora
lora_target_linear: true
sequence_len: 512
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 1
learning_rate: 1e-5
output_dir: out
datasets:
  - path: pairs.parquet
    type: chat_template.default
    field_messages: conversation
    field_chosen: better
";

#[test]
fn preferences_of_axolotl_are_carried_over() {
    let of = |lines: &str| imported(Tool::Axolotl, &format!("{PAIRS_OF_AXOLOTL}{lines}"));
    let found = of("rl: dpo\nrl_beta: 0.3\nrpo_alpha: 0.5\nmax_prompt_len: 256\n");
    let recipe = read_back(&found);
    let objective = &recipe.objective;
    assert_eq!(objective.type_or_default().word(), "dpo");
    assert_eq!(objective.beta.as_ref().map(|said| said.value), Some(0.3));
    assert_eq!(
        objective.sft_weight.as_ref().map(|said| said.value),
        Some(0.5)
    );
    assert_eq!(fate(&found, "max_prompt_len").word(), "replaced");
    assert_eq!(line(&found, "format").as_deref(), Some("preference"));
    assert_eq!(
        line(&found, "columns").as_deref(),
        Some("{prompt: conversation, chosen: better}")
    );
    for (lines, kind, loss) in [
        ("rl: ipo\n", "dpo", Some("ipo")),
        (
            "rl: dpo\ndpo_loss_type: [hinge]\ndpo_loss_weights: [1.0]\n",
            "dpo",
            Some("hinge"),
        ),
        ("rl: orpo\norpo_alpha: 0.1\n", "orpo", None),
        ("rl: simpo\nsimpo_gamma: 0.8\n", "simpo", None),
    ] {
        let recipe = read_back(&of(lines));
        let objective = &recipe.objective;
        assert_eq!(objective.type_or_default().word(), kind, "{lines}");
        let found = objective.loss_type.as_ref().map(|said| said.value.as_str());
        assert_eq!(found, loss, "{lines}");
    }
    // TRL's defaults of CPO, which are not those of SimPO's paper.
    let simpo = of("rl: simpo\n");
    assert_eq!(line(&simpo, "beta").as_deref(), Some("0.1"));
    assert_eq!(line(&simpo, "cpo_alpha").as_deref(), Some("1.0"));
    let both = of("rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0, 0.2]\n");
    assert_eq!(line(&both, "sft_weight").as_deref(), Some("0.2"));

    let kto = PAIRS_OF_AXOLOTL
        .replace("    type: chat_template.default\n", "")
        .replace("    field_messages: conversation\n", "")
        .replace("    field_chosen: better\n", "");
    let lines = "rl: kto\nkto_desirable_weight: 1.2\n";
    let recipe = read_back(&imported(Tool::Axolotl, &format!("{kto}{lines}")));
    assert_eq!(recipe.objective.type_or_default().word(), "kto");
    let weight = recipe.objective.desirable_weight.map(|said| said.value);
    assert_eq!(weight, Some(1.2));

    for (lines, key, part) in [
        (
            "rl: dpo\ndpo_loss_type: [sigmoid, bco_pair]\n",
            "dpo_loss_type",
            "several losses",
        ),
        (
            "rl: dpo\ntrl: {beta: 0.1, vllm_mode: colocate}\n",
            "trl",
            "only `beta`",
        ),
        (
            "rl: dpo\ndpo_use_weighting: true\n",
            "dpo_use_weighting",
            "not supported",
        ),
    ] {
        let found = of(lines);
        let said = fate(&found, key);
        assert!(
            matches!(said, KeyOutcome::Refused(reason) if reason.contains(part)),
            "{lines}: {said:?}"
        );
    }
    let texts = PAIRS_OF_AXOLOTL.replace("chat_template.default", "chatml.intel");
    let found = imported(Tool::Axolotl, &format!("{texts}rl: dpo\n"));
    assert!(matches!(
        fate(&found, "datasets.0.type"),
        KeyOutcome::Refused(reason) if reason.contains("leave `type` out")
    ));
    let idle = fate(&axolotl("rl_beta: 0.1"), "rl_beta").clone();
    assert_eq!(idle.words(), "without `rl` nothing reads it");
}

const PAIRS_OF_FACTORY: &str = "model_name_or_path: base
stage: dpo
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: pairs
template: llama3
output_dir: out
";

/// Imports a config of LLaMA-Factory beside a `dataset_info.json`.
fn factory(config: &str) -> Imported {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let info = r#"{
        "pairs": {"file_name": "pairs.parquet", "ranking": true, "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "worse"}},
        "labels": {"file_name": "labels.parquet", "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "good"},
            "tags": {"role_tag": "role", "content_tag": "content"}},
        "alpaca": {"file_name": "alpaca.parquet", "ranking": true,
            "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
        "plain": {"file_name": "plain.parquet", "formatting": "sharegpt"}
    }"#;
    fs::write(data.join("dataset_info.json"), info).expect("written");
    for name in ["pairs", "labels", "alpaca", "plain"] {
        fs::write(data.join(format!("{name}.parquet")), "PAR1").expect("written");
    }
    let config = config.replace(
        "output_dir",
        &format!("dataset_dir: {}\noutput_dir", data.display()),
    );
    let path = folder.path().join("config.yaml");
    fs::write(&path, config).expect("a config");
    import(&path, Some(Tool::LlamaFactory)).expect("a config that is read")
}

#[test]
fn preferences_of_llama_factory_are_carried_over() {
    let of = |lines: &str| factory(&format!("{PAIRS_OF_FACTORY}{lines}"));
    let found = of("pref_loss: sigmoid\npref_beta: 0.2\npref_ftx: 0.1\nsimpo_gamma: 0.5\n");
    let recipe = read_back(&found);
    assert_eq!(recipe.objective.type_or_default().word(), "dpo");
    let beta = recipe.objective.beta.as_ref().map(|said| said.value);
    assert_eq!(beta, Some(0.2));
    assert_eq!(fate(&found, "pref_ftx").word(), "replaced");
    assert_eq!(fate(&found, "simpo_gamma").word(), "dropped");
    assert_eq!(
        line(&found, "columns").as_deref(),
        Some("{prompt: conversations, rejected: worse}")
    );
    assert_eq!(line(&found, "reference"), None);
    // Its reference is the base, whatever adapter training goes on from.
    let on = of("adapter_name_or_path: sft\n");
    assert_eq!(line(&on, "reference").as_deref(), Some("base"));
    for (loss, kind) in [("orpo", "orpo"), ("simpo", "simpo"), ("ipo", "dpo")] {
        let recipe = read_back(&of(&format!("pref_loss: {loss}\n")));
        assert_eq!(recipe.objective.type_or_default().word(), kind, "{loss}");
    }
    let kto = PAIRS_OF_FACTORY
        .replace("stage: dpo", "stage: kto")
        .replace("dataset: pairs", "dataset: labels");
    let found = factory(&format!("{kto}kto_chosen_weight: 1.5\n"));
    let recipe = read_back(&found);
    assert_eq!(recipe.objective.type_or_default().word(), "kto");
    assert_eq!(
        line(&found, "columns").as_deref(),
        Some("{completion: messages, label: good}")
    );
    assert_eq!(line(&found, "format").as_deref(), Some("unpaired"));
    for (config, key, part) in [
        (
            PAIRS_OF_FACTORY.replace("dataset: pairs", "dataset: plain"),
            "dataset",
            "has no pairs",
        ),
        (
            kto.replace("dataset: labels", "dataset: pairs"),
            "dataset",
            "has no labels",
        ),
        (
            PAIRS_OF_FACTORY.replace("dataset: pairs", "dataset: alpaca"),
            "dataset",
            "become lists of messages",
        ),
        (
            PAIRS_OF_FACTORY.replace("stage: dpo", "stage: sft"),
            "dataset",
            "has preferences, which the stages",
        ),
        (
            format!("{PAIRS_OF_FACTORY}pref_loss: kto_pair\n"),
            "pref_loss",
            "this loss of pairs is not supported",
        ),
        (
            format!("{PAIRS_OF_FACTORY}ref_model: org/other\n"),
            "ref_model",
            "rankine pull",
        ),
        (
            PAIRS_OF_FACTORY.replace("stage: dpo", "stage: ppo"),
            "stage",
            "reinforcement",
        ),
    ] {
        let found = factory(&config);
        let said = fate(&found, key);
        assert!(
            matches!(said, KeyOutcome::Refused(reason) if reason.contains(part)),
            "{config}: {said:?}"
        );
    }
}

#[test]
fn options_of_supervised_fine_tuning_are_carried_over() {
    let found = axolotl("neftune_noise_alpha: 5");
    assert_eq!(line(&found, "neftune_noise_alpha").as_deref(), Some("5"));
    assert_eq!(fate(&found, "neftune_noise_alpha").word(), "replaced");
    let sft = PAIRS_OF_FACTORY
        .replace("stage: dpo", "stage: sft")
        .replace("dataset: pairs", "dataset: plain");
    let found = factory(&format!("{sft}label_smoothing_factor: 0.1\n"));
    assert_eq!(line(&found, "label_smoothing").as_deref(), Some("0.1"));
    let found = factory(&format!(
        "{sft}use_dft_loss: true\nneftune_noise_alpha: 5\n"
    ));
    assert_eq!(line(&found, "loss_type").as_deref(), Some("dft"));
    read_back(&found);
}

#[test]
fn preferences_of_torchtune_are_carried_over() {
    let sample = fs::read_to_string(sample("torchtune.yaml")).expect("a sample");
    let validation = "dataset_val:\n  _component_: torchtune.datasets.alpaca_cleaned_dataset\n  \
        split: train[95%:]\nrun_val_every_n_steps: 25\n";
    let config = sample
        .replace(validation, "")
        .replace(
            "torchtune.datasets.alpaca_cleaned_dataset\n  packed: False\n  split: train[:95%]\n",
            "torchtune.datasets.preference_dataset\n  source: parquet\n  data_files: \
            pairs.parquet\n  column_map: {chosen: better, rejected: worse}\n",
        )
        .replace(
            "torchtune.modules.loss.LinearCrossEntropyLoss\n",
            "torchtune.rlhf.loss.DPOLoss\n  beta: 0.2\n  label_smoothing: 0.1\n",
        );
    let found = imported(Tool::Torchtune, &config);
    let recipe = read_back(&found);
    assert_eq!(recipe.objective.type_or_default().word(), "dpo");
    let beta = recipe.objective.beta.as_ref().map(|said| said.value);
    assert_eq!(beta, Some(0.2));
    assert_eq!(line(&found, "format").as_deref(), Some("preference"));
    assert_eq!(
        line(&found, "columns").as_deref(),
        Some("{chosen: better, rejected: worse}")
    );
}
