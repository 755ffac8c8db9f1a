//! Tests of whole and broken recipes, with the messages for each.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::terms::{
    Checkpointing, Format, Holdout, Modules, Offload, Scheduler, Technique, TrainOn,
};

/// Four lines that every recipe needs; the lines of a test start at line 5.
pub(super) const NEEDED: &str = "base_model: m\ndatasets:\n  - path: d\n    format: chat\n";

const EXAMPLE: &str = "base_model: checkpoints/rankine-tiny
datasets:
  - path: datasets/medical-glossary.parquet
    format: chat
adapter:
  method: lora
  r: 16
training:
  micro_batch_size: 8
  num_epochs: 2
evaluation:
  val_set_size: 0.05
";

fn read_text(text: &str, overrides: &[&str]) -> Recipe {
    let overrides: Vec<String> = overrides.iter().map(|&typed| typed.to_owned()).collect();
    from_bytes(Path::new("x.yaml"), text.as_bytes(), &overrides)
}

fn with(lines: &str) -> Recipe {
    read_text(&format!("{NEEDED}{lines}\n"), &[])
}

/// Returns faults as they are printed, with the hint after ` | `.
fn printed(recipe: &Recipe) -> Vec<String> {
    let one = |fault: &Fault| match &fault.hint {
        Some(hint) => format!("{fault} | {hint}"),
        None => fault.to_string(),
    };
    recipe.faults.iter().map(one).collect()
}

fn value<T: Clone>(said: Option<&Said<T>>) -> Option<T> {
    said.map(|said| said.value.clone())
}

#[test]
fn the_example_is_read_as_it_was_written() {
    let recipe = read_text(EXAMPLE, &[]);
    assert_eq!(printed(&recipe), Vec::<String>::new());
    assert_eq!(
        value(recipe.base_model.as_ref()).as_deref(),
        Some("checkpoints/rankine-tiny")
    );
    assert_eq!(
        value(recipe.datasets[0].format.as_ref()),
        Some(Format::Chat)
    );
    assert_eq!(recipe.datasets[0].place.to_string(), "x.yaml:3:5");
    assert_eq!(value(recipe.adapter.method.as_ref()), Some(Technique::Lora));
    assert_eq!(
        recipe
            .adapter
            .r
            .as_ref()
            .map(|r| (r.value, r.place.to_string())),
        Some((16, "x.yaml:7:6".into()))
    );
    assert_eq!(recipe.adapter.alpha, None);
    assert_eq!(value(recipe.training.num_epochs.as_ref()), Some(2));
    assert_eq!(
        value(recipe.evaluation.val_set_size.as_ref()),
        Some(Holdout::Share(0.05))
    );
}

#[test]
fn every_broken_recipe_gets_its_place_its_message_and_its_hint() {
    for (lines, expected) in BROKEN {
        assert_eq!(printed(&with(lines)), [*expected], "{lines}");
    }
}

/// The text after the four needed lines, and its one fault.
pub(super) const BROKEN: &[(&str, &str)] = &[
    (
        "basemodel: m",
        "x.yaml:5:1: unknown key `basemodel` | did you mean `base_model`?",
    ),
    (
        "learning_rate: 1e-4",
        "x.yaml:5:1: unknown key `learning_rate` | `learning_rate` belongs in `training`",
    ),
    (
        "learning-rat: 1",
        "x.yaml:5:1: unknown key `learning-rat` | did you mean `learning_rate`? It \
        belongs in `training`",
    ),
    (
        "adapter:\n  quantizaton: 4bit",
        "x.yaml:6:3: unknown key `quantizaton` in `adapter` | did you mean `quantization`?",
    ),
    (
        "output:\n  foo: 1",
        "x.yaml:6:3: unknown key `foo` in `output` | known keys here: \
        `save_steps` and `save_total_limit`",
    ),
    (
        "adapter:\n  r: sixteen",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found `sixteen`",
    ),
    (
        "adapter:\n  r: \"16\"",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found \
        `\"16\"` | remove the quotes: a value in quotes is a text",
    ),
    (
        "adapter:\n  r: 16.0",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found `16.0`",
    ),
    (
        "adapter:\n  r: 0",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found `0`",
    ),
    (
        "adapter:\n  r: [8, 16]",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found `[8, 16]`",
    ),
    (
        "adapter:\n  r: {a: 1}",
        "x.yaml:6:6: adapter.r: expected a whole number from 1 to 65536, found `{a: 1}`",
    ),
    (
        "adapter: lora",
        "x.yaml:5:10: adapter: expected keys with values, found `lora` | write \
        `adapter: {method: lora}`",
    ),
    (
        "adapter: qlora",
        "x.yaml:5:10: adapter: expected keys with values, found `qlora` | write \
        `adapter: {method: qlora}`",
    ),
    (
        "adapter.r: 8",
        "x.yaml:5:1: unknown key `adapter.r` | write `adapter:` and in it `r`; with a dot it is an \
        override, after the recipe",
    ),
    (
        "load_in_4bit: true",
        "x.yaml:5:1: unknown key `load_in_4bit` | write `adapter.method: qlora`",
    ),
    (
        "load_in_4bit: false",
        "x.yaml:5:1: unknown key `load_in_4bit` | remove it: nothing of the kind is done unless a \
        recipe says so",
    ),
    (
        "adapter:\n  rank: 8",
        "x.yaml:6:3: unknown key `rank` in `adapter` | did you mean `r`?",
    ),
    (
        "training:\n  lr: 1",
        "x.yaml:6:3: unknown key `lr` in `training` | did you mean `learning_rate`?",
    ),
    (
        "training:\n  batch_size: 1",
        "x.yaml:6:3: unknown key `batch_size` in `training` | did you mean `micro_batch_size`?",
    ),
    (
        "max_seq_length: 9",
        "x.yaml:5:1: unknown key `max_seq_length` | did you mean `sequence_len`? \
        It belongs in `training`",
    ),
    (
        "wandb_project:",
        "x.yaml:5:1: unknown key `wandb_project` | remove it: a run writes its numbers to \
        `metrics.jsonl` and TensorBoard's files by itself",
    ),
    (
        "    type: alpaca",
        "x.yaml:5:5: unknown key `type` in `datasets.0` | did you mean `format`?",
    ),
    (
        "    field_messages: conversations",
        "x.yaml:5:5: unknown key `field_messages` in `datasets.0` | write `columns: \
        {messages: conversations}`",
    ),
    (
        "adapter:\n  target_modules: q_proj,v_proj",
        "x.yaml:6:19: adapter.target_modules: expected `all-linear`, a regular expression or a \
        list of names, found `q_proj,v_proj` | write a list: `[q_proj, v_proj]`",
    ),
    (
        "adapter:\n  target_modules: all",
        "x.yaml:6:19: adapter.target_modules: expected `all-linear`, a regular expression or a \
        list of names, found `all` | write `target_modules: all-linear`",
    ),
    (
        "evaluation:\n  datasets: val.parquet",
        "x.yaml:6:13: evaluation.datasets: expected a list, found `val.parquet` | write \
        `{path: val.parquet, format: chat}` in a list",
    ),
    (
        "    columns: {conversations: messages}",
        "x.yaml:5:30: columns: format `chat` has no column `conversations`, expected `messages`, \
        `tools`, `prompt`, `completion`, `system` or `chat_template_kwargs` | the format's name \
        comes first: `messages: conversations`",
    ),
    (
        "adapter:\n  - r: 1",
        "x.yaml:6:3: adapter: expected keys with values, found `[{r: 1}]`",
    ),
    (
        "adapter:\n  lora_r: 1",
        "x.yaml:6:3: unknown key `lora_r` in `adapter` | did you mean `r`?",
    ),
    (
        "lora_alpha: 3",
        "x.yaml:5:1: unknown key `lora_alpha` | did you mean `alpha`? It belongs in `adapter`",
    ),
    (
        "gradient_clipping: 3",
        "x.yaml:5:1: unknown key `gradient_clipping` | did you mean `max_grad_norm`? It belongs in \
        `training`",
    ),
    (
        "foo_bar_baz: 3",
        "x.yaml:5:1: unknown key `foo_bar_baz` | known keys here: `adapter`, `base_model`, \
        `cache`, `chat_template`, `chat_template_kwargs`, `datasets`, `device`, `evaluation`, \
        `objective`, `output`, `output_dir`, `threads`, `tokens` and `training`",
    ),
    (
        "~: 3",
        "x.yaml:5:1: expected a name before the colon, found nothing",
    ),
    (
        "adapter:\n  dropout: 1",
        "x.yaml:6:12: adapter.dropout: expected a number from 0 to below 1, found `1`",
    ),
    (
        "adapter:\n  dropout: nan",
        "x.yaml:6:12: adapter.dropout: expected a number from 0 to below 1, found `nan`",
    ),
    (
        "training:\n  learning_rate: -1e-4",
        "x.yaml:6:18: training.learning_rate: expected a number above 0 to 1e30, found `-1e-4`",
    ),
    (
        "training:\n  shuffle: 1",
        "x.yaml:6:12: training.shuffle: expected `true` or `false`, found `1`",
    ),
    (
        "training:\n  seed: -1",
        "x.yaml:6:9: training.seed: expected a whole number from 0, found `-1`",
    ),
    (
        "training:\n  lr_scheduler: cosin",
        "x.yaml:6:17: training.lr_scheduler: expected `constant`, `linear`, `cosine`, \
        `cosine_with_min_lr`, `cosine_warmup_with_min_lr`, `cosine_with_restarts`, `polynomial`, \
        `inverse_sqrt` or `warmup_stable_decay`, found `cosin` | did you mean `cosine`?",
    ),
    (
        "training:\n  optimizer: sgd",
        "x.yaml:6:14: training.optimizer: `sgd` is not supported yet | valid now: `adamw`, \
        `adamw_8bit`, `paged_adamw_32bit`, `paged_adamw_8bit`, `adafactor`, `lion`, `lion_8bit`, \
        `paged_lion_32bit`, `paged_lion_8bit`, `muon` and `schedule_free_adamw`",
    ),
    (
        "training:\n  optimizer: adamax",
        "x.yaml:6:14: training.optimizer: expected `adamw`, `adamw_8bit`, `paged_adamw_32bit`, \
        `paged_adamw_8bit`, `adafactor`, `lion`, `lion_8bit`, `paged_lion_32bit`, \
        `paged_lion_8bit`, `muon` or `schedule_free_adamw`, found `adamax`",
    ),
    (
        "training:\n  model_dtype: float_16",
        "x.yaml:6:16: training.model_dtype: expected `auto`, `float32`, `bfloat16` or `float16`, \
        found `float_16` | did you mean `float16`?",
    ),
    (
        "adapter:\n  method: full\ntraining:\n  model_dtype: float16",
        "x.yaml:8:16: training.model_dtype: `float16` does not go with `method: full`, whose \
        weights train in 32 bits | remove `model_dtype`, or train an adapter with `method: lora`",
    ),
    (
        "adapter:\n  method: full\ntraining:\n  model_dtype: bfloat16",
        "x.yaml:8:16: training.model_dtype: `bfloat16` does not go with `method: full`, whose \
        weights train in 32 bits | remove `model_dtype`, or train an adapter with `method: lora`",
    ),
    (
        "training:\n  sample_packing: 2",
        "x.yaml:6:19: training.sample_packing: expected `true` or `false`, found `2`",
    ),
    (
        "adapter:\n  method: qlora\n  quantization: none",
        "x.yaml:7:17: adapter.quantization: `none` does not go with `method: qlora`, which trains \
        on a packed base | remove `quantization` for `nf4`, or write `method: lora`",
    ),
    (
        "adapter:\n  method: qlora\n  block_size: 100",
        "x.yaml:7:15: adapter.block_size: expected a power of 2 from 32 to 4096, found `100`",
    ),
    (
        "adapter:\n  method: full\n  quantization: nf4",
        "x.yaml:7:17: adapter.quantization does not go with `method: full`, which trains every \
        weight | remove `quantization`, or train an adapter with `method: lora`",
    ),
    (
        "adapter:\n  method: dora",
        "x.yaml:6:11: adapter.method: expected `lora`, `qlora` or `full`, found `dora` | set \
        `method: lora` and `use_dora: true`",
    ),
    (
        "adapter:\n  modules_to_save: lm_head",
        "x.yaml:6:20: adapter.modules_to_save: expected a list, found `lm_head` | start each \
        element with `- `",
    ),
    (
        "adapter:\n  trainable_token_indices: {lm_head: [1, x]}",
        "x.yaml:6:42: adapter.trainable_token_indices.lm_head.1: expected a whole number from 0 to \
        4294967295, found `x`",
    ),
    (
        "adapter:\n  use_dora: true\n  lora_bias: true",
        "x.yaml:7:14: adapter.lora_bias does not go with `use_dora`: as in PEFT an adapter has one \
        of the two | remove one of the two",
    ),
    (
        "adapter:\n  method: full\n  use_dora: true",
        "x.yaml:7:13: adapter.use_dora does not go with `method: full`, which trains every weight \
        | remove `use_dora`, or train an adapter with `method: lora`",
    ),
    (
        "adapter:\n  init_from: a\n  lora_bias: true",
        "x.yaml:7:14: adapter.lora_bias does not go with `init_from`, where it is set already | \
        remove `lora_bias`, or remove `init_from` to start afresh",
    ),
    (
        "adapter:\n  use_dora: 1",
        "x.yaml:6:13: adapter.use_dora: expected `true` or `false`, found `1`",
    ),
    (
        "adapter:\n  init_lora_weights: pissa\n  use_dora: true",
        "x.yaml:6:22: adapter.init_lora_weights: `pissa` does not go with `use_dora`: it is saved \
        as a plain adapter | remove one of the two",
    ),
    (
        "adapter:\n  init_from: a\n  init_lora_weights: pissa",
        "x.yaml:7:22: adapter.init_lora_weights does not go with `init_from`, where it is set \
        already | remove `init_lora_weights`, or remove `init_from` to start afresh",
    ),
    (
        "adapter:\n  init_lora_weights: pissa_niter_4",
        "x.yaml:6:22: adapter.init_lora_weights: `pissa_niter_4` is not supported yet | valid now: \
        `true`, `false` and `pissa`",
    ),
    (
        "adapter:\n  init_lora_weights: 3",
        "x.yaml:6:22: adapter.init_lora_weights: expected `true`, `false` or `pissa`, found `3`",
    ),
    (
        "adapter:\n  target_modules: '(q'",
        "x.yaml:6:19: adapter.target_modules: `(q` is not a regular expression that is understood: \
        unclosed group | syntax: https://docs.rs/regex/latest/regex/#syntax",
    ),
    (
        "adapter:\n  target_modules: '(?!q)x'",
        "x.yaml:6:19: adapter.target_modules: `(?!q)x` is not a regular expression that is \
        understood: look-around, including look-ahead and look-behind, is not supported | syntax: \
        https://docs.rs/regex/latest/regex/#syntax",
    ),
    (
        "adapter:\n  target_modules: []",
        "x.yaml:6:19: adapter.target_modules: expected `all-linear`, a regular expression or a \
        list of names, found `[]`",
    ),
    (
        "adapter:\n  target_modules: [q_proj, [k]]",
        "x.yaml:6:28: adapter.target_modules.1: expected a text, found `[k]`",
    ),
    (
        "adapter:\n  rank_pattern:\n    '[': 4",
        "x.yaml:7:10: adapter.rank_pattern.[: `[` is not a regular expression that is understood: \
        unclosed character class | syntax: https://docs.rs/regex/latest/regex/#syntax",
    ),
    (
        "adapter:\n  rank_pattern:\n    q_proj: 0",
        "x.yaml:7:13: adapter.rank_pattern.q_proj: expected a whole number from 1 to 65536, found \
        `0`",
    ),
    (
        "adapter:\n  init_from: a\n  r: 8",
        "x.yaml:7:6: adapter.r does not go with `init_from`, where it is set already | remove `r`, \
        or remove `init_from` to start afresh",
    ),
    (
        "training:\n  loraplus_lr_ratio: 0",
        "x.yaml:6:22: training.loraplus_lr_ratio: expected a number above 0 to 1e30, found `0`",
    ),
    (
        "adapter:\n  method: full\ntraining:\n  loraplus_lr_ratio: 16",
        "x.yaml:8:22: training.loraplus_lr_ratio does not go with `method: full`, which trains no \
        adapter | remove `loraplus_lr_ratio`, or train an adapter with `method: lora`",
    ),
    (
        "training:\n  warmup_ratio: 0.1\n  warmup_steps: 3",
        "x.yaml:6:17: training.warmup_ratio does not go with `warmup_steps`: both set the length \
        of the warm-up | remove one of the two",
    ),
    (
        "training:\n  min_lr_rate: 0.1",
        "x.yaml:6:16: training.min_lr_rate goes with `lr_scheduler` `cosine_with_min_lr` or \
        `cosine_warmup_with_min_lr` only, found `cosine` | set `lr_scheduler: cosine_with_min_lr`, \
        or remove `min_lr_rate`",
    ),
    (
        "evaluation:\n  val_set_size: 1.5",
        "x.yaml:6:17: evaluation.val_set_size: expected a share below 1 or a whole number of rows, \
        found `1.5`",
    ),
    (
        "evaluation:\n  early_stopping_patience: 2",
        "x.yaml:6:28: evaluation.early_stopping_patience needs validation rows, and there are none \
        | add a line such as `val_set_size: 0.05` to `evaluation`",
    ),
    (
        "evaluation:\n  prompts: hello",
        "x.yaml:6:12: evaluation.prompts: expected a list, found `hello` | start each element with \
        `- `",
    ),
    (
        "evaluation:\n  prompts: [a, \"\"]",
        "x.yaml:6:16: evaluation.prompts.1: expected a text, found `\"\"`",
    ),
    (
        "evaluation:\n  prompts:\n    - a: b",
        "x.yaml:7:7: evaluation.prompts.0: expected a text, found `{a: b}`",
    ),
    (
        "evaluation:\n  prompts: [a,\n    ~]",
        "x.yaml:7:5: evaluation.prompts.1: expected a text, found nothing",
    ),
    (
        "evaluation:\n  datasets:\n    - path: x",
        "x.yaml:7:7: missing key `format` in `evaluation.datasets.0` | add a line such as `format: \
        chat`",
    ),
    (
        "    columns: {text: a}",
        "x.yaml:5:21: columns: format `chat` has no column `text`, expected `messages`, `tools`, \
        `prompt`, `completion`, `system` or `chat_template_kwargs` | the format's name comes \
        first: `messages: a`",
    ),
    (
        "    train_on: none",
        "x.yaml:5:15: datasets.0.train_on: expected `assistant`, `all` or `last`, found `none`",
    ),
    (
        "device: gpu",
        "x.yaml:5:9: device: expected `auto`, `cpu`, `wgpu` or `cuda`, the last two with an index \
        such as `cuda:0`, found `gpu` | set `device: cuda`, or `wgpu` for a GPU of another maker",
    ),
    (
        "threads: many",
        "x.yaml:5:10: threads: expected a whole number from 0 to 4096, found `many`",
    ),
    (
        "adapter:\n  r: 8\n  r: 16",
        "x.yaml:7:3: double key `r`, first at x.yaml:6:3 | keep one of the two",
    ),
    (
        "adapter: &a\n  r: 8",
        "x.yaml:5:10: anchor `&a` is not allowed in a recipe | write the value \
        out where it is used",
    ),
    (
        "adapter: *a",
        "x.yaml:5:10: alias `*a` is not allowed in a recipe | write the value out; a text that \
        starts with `*` needs quotes",
    ),
    (
        "base_model: y",
        "x.yaml:5:1: double key `base_model`, first at x.yaml:1:1 | keep one of the two",
    ),
    (
        "---\na: 1",
        "x.yaml:5:1: a second document starts here, expected one | keep one recipe in a \
        file, without a `---` line",
    ),
    (
        "adapter:\n\tr: 1",
        "x.yaml:6:2: not YAML: tabs disallowed within this context (block indentation)",
    ),
    (
        "adapter:\n  [a]: 1",
        "x.yaml:6:3: expected a name before the colon, found `[a]`",
    ),
    (
        "training:\n  gradient_checkpointing: sometimes",
        "x.yaml:6:27: training.gradient_checkpointing: expected `auto`, `true`, `false` or a whole \
        number of blocks, found `sometimes`",
    ),
    (
        "adapter:\n  offload_embedding: maybe",
        "x.yaml:6:22: adapter.offload_embedding: expected `auto`, `true` or `false`, found `maybe`",
    ),
    (
        "adapter:\n  r: |\n    16\n",
        "x.yaml:7:5: adapter.r: expected a whole number from 1 to 65536, found `16`",
    ),
    (
        "training:\n  sequence_len: 1",
        "x.yaml:6:17: training.sequence_len: expected a whole number from 2 to 1048576, found `1`",
    ),
    (
        " - foo",
        "x.yaml:5:2: not YAML: while parsing a block mapping, did not find expected key",
    ),
    (
        "output_dir: ''",
        "x.yaml:5:13: output_dir: expected a text, found `''`",
    ),
    (
        "training: {seed: 1, seed: 2}",
        "x.yaml:5:21: double key `seed`, first at x.yaml:5:12 | keep one of the two",
    ),
    (
        "? {a: b}\n: c",
        "x.yaml:5:3: expected a name before the colon, found `{a: b}`",
    ),
    (
        ": x",
        "x.yaml:5:1: expected a name before the colon, found nothing",
    ),
];

#[test]
fn every_text_that_is_no_recipe_gets_one_fault() {
    const NOTHING: &str = "x.yaml:1:1: expected keys with values, found nothing | \
        begin with `base_model: checkpoints/rankine-tiny`, then `datasets:`";
    let deep = format!("a: {}{}", "[".repeat(20), "]".repeat(20));
    let large = "#".repeat(300 * 1024);
    let texts: [(&[u8], &str); 8] = [
        (b"", NOTHING),
        (b"# nothing\n", NOTHING),
        (b"~", NOTHING),
        (
            b"- base_model: m",
            "x.yaml:1:1: expected keys with values, found `[{base_model: m}]` | \
            begin with `base_model: checkpoints/rankine-tiny`, then `datasets:`",
        ),
        (
            b"base_model: m\nad\xff",
            "x.yaml:2:3: not UTF-8: byte 0xff at offset 16 | save the file as UTF-8",
        ),
        (
            b"base_model: [m\n",
            "x.yaml:1:13: not YAML: unclosed bracket '['",
        ),
        (
            deep.as_bytes(),
            "x.yaml:1:20: more than 16 collections within each other",
        ),
        (
            large.as_bytes(),
            "x.yaml:1:1: the recipe is larger than 256 KiB",
        ),
    ];
    for (text, expected) in texts {
        assert_eq!(
            printed(&from_bytes(Path::new("x.yaml"), text, &[])),
            [expected]
        );
    }
}

#[test]
fn all_faults_are_told_at_once_and_in_the_order_of_the_file() {
    let text = "datasets:
  - format: text
    columns: {messages: b}
    train_on: last
  - foo
  -
trainng: {seed: 1}
adapter: {r: 0, dropout: 2}
";
    let recipe = read_text(text, &["training.seed=x"]);
    let faults: Vec<String> = recipe.faults.iter().map(ToString::to_string).collect();
    let expected = [
        "x.yaml:1:1: missing key `base_model`",
        "x.yaml:2:5: missing key `path` in `datasets.0`",
        "x.yaml:3:25: columns: format `text` has no column `messages`, expected `text`",
        "x.yaml:4:15: train_on: `last` does not go with format `text`, where every token is \
        trained",
        "x.yaml:5:5: datasets.1: expected keys with values, found `foo`",
        "x.yaml:6:4: datasets.2: expected keys with values, found nothing",
        "x.yaml:7:1: unknown key `trainng`",
        "x.yaml:8:14: adapter.r: expected a whole number from 1 to 65536, found `0`",
        "x.yaml:8:26: adapter.dropout: expected a number from 0 to below 1, found `2`",
        "override `training.seed=x`: training.seed: expected a whole number from 0, found `x`",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_key_that_is_not_built_yet_may_be_turned_off() {
    let recipe = with(
        "adapter:\n  use_dora: no\n  modules_to_save: []\n  trainable_token_indices: none\n  \
        quantization: none\n  lora_bias: False\n  block_size:\n\
        training:\n  sample_packing: false\n  loraplus_lr_ratio:\nevaluation:\n  prompts: []",
    );
    assert_eq!(printed(&recipe), Vec::<String>::new());
}

#[test]
fn blank_keys_and_sections_are_unset() {
    let recipe = with("adapter:\ntraining: ~\nevaluation: null\noutput_dir:\ndevice: ~");
    assert_eq!(
        recipe,
        Recipe {
            path: recipe.path.clone(),
            ..read_text(NEEDED, &[])
        }
    );
}

#[test]
fn habits_of_yaml_1_1_are_understood_where_they_are_meant() {
    let recipe = with(
        "output_dir: no\ntraining:\n  learning_rate: 1e-4\n  max_steps: 1_000\n  shuffle: Off\n  \
        gradient_checkpointing: yes",
    );
    assert_eq!(printed(&recipe), Vec::<String>::new());
    assert_eq!(value(recipe.output_dir.as_ref()), Some("no".into()));
    assert_eq!(value(recipe.training.learning_rate.as_ref()), Some(1e-4));
    assert_eq!(value(recipe.training.max_steps.as_ref()), Some(1000));
    assert_eq!(value(recipe.training.shuffle.as_ref()), Some(false));
    assert_eq!(
        value(recipe.training.gradient_checkpointing.as_ref()),
        Some(Checkpointing::All)
    );
}

#[test]
fn memory_is_given_in_bytes_or_in_blocks_that_recompute() {
    let training = |line: &str| with(&format!("training:\n  {line}")).training;
    let checkpointing = |line: &str| value(training(line).gradient_checkpointing.as_ref());
    assert_eq!(
        checkpointing("gradient_checkpointing: auto"),
        Some(Checkpointing::Auto)
    );
    assert_eq!(
        checkpointing("gradient_checkpointing: 12"),
        Some(Checkpointing::Lowest(12))
    );
    let offload = |line: &str| {
        value(
            with(&format!("adapter:\n  {line}"))
                .adapter
                .offload_embedding
                .as_ref(),
        )
    };
    for (word, expected) in [
        ("auto", Offload::Auto),
        ("yes", Offload::Always),
        ("false", Offload::Never),
    ] {
        assert_eq!(
            offload(&format!("offload_embedding: {word}")),
            Some(expected)
        );
    }
    assert_eq!(
        value(training("max_memory: 12 GB").max_memory.as_ref()),
        Some(12_000_000_000)
    );
    assert_eq!(
        value(training("max_memory: 4_096").max_memory.as_ref()),
        Some(4096)
    );
    let expected = "training.max_memory: expected a number of bytes, such as `12 GB` or `12GiB`, \
        found `lots`";
    assert!(printed(&with("training:\n  max_memory: lots"))[0].contains(expected));
}

#[test]
fn targets_layers_and_holdouts_have_several_forms() {
    let adapter = |line: &str| with(&format!("adapter:\n  {line}")).adapter;
    let targets = |line: &str| value(adapter(line).target_modules.as_ref());
    assert_eq!(
        targets("target_modules: all-linear"),
        Some(Modules::AllLinear)
    );
    assert_eq!(
        targets("target_modules: [q_proj, 'v_proj']"),
        Some(Modules::Names(vec!["q_proj".into(), "v_proj".into()]))
    );
    assert_eq!(
        targets(r"target_modules: .*\.q_proj"),
        Some(Modules::Regex(r".*\.q_proj".into()))
    );
    let layers = |line: &str| value(adapter(line).layers_to_transform.as_ref());
    assert_eq!(layers("layers_to_transform: 3"), Some(vec![3]));
    assert_eq!(layers("layers_to_transform: [0, 2]"), Some(vec![0, 2]));
    let holdout = |size: &str| {
        value(
            with(&format!("evaluation:\n  val_set_size: {size}"))
                .evaluation
                .val_set_size
                .as_ref(),
        )
    };
    assert_eq!(holdout("0.05"), Some(Holdout::Share(0.05)));
    assert_eq!(holdout("200"), Some(Holdout::Rows(200)));
    assert!(holdout("0").is_some_and(Holdout::is_none));
    assert!(
        ["1.0", "-0.1", "-5", "5.0"]
            .into_iter()
            .all(|size| holdout(size).is_none())
    );
}

#[test]
fn tables_keep_the_names_that_the_user_chose() {
    let recipe = with(
        "    columns: {messages: conversations, tools: ~}\nadapter:\n  rank_pattern: \
        {q_proj: 8}\n  alpha_pattern:\n    'layers\\.0\\..*': 4.5",
    );
    assert_eq!(printed(&recipe), Vec::<String>::new());
    assert_eq!(
        recipe.datasets[0].columns.keys().collect::<Vec<_>>(),
        ["messages"]
    );
    assert_eq!(recipe.adapter.rank_pattern["q_proj"].value, 8);
    assert!((recipe.adapter.alpha_pattern[r"layers\.0\..*"].value - 4.5).abs() < f64::EPSILON);
}

#[test]
fn an_override_takes_the_place_of_what_the_file_says() {
    let overrides = [
        "training.learning_rate=1e-4",
        "datasets.0.path=x=y",
        "adapter.target_modules=[q_proj, v_proj]",
        "adapter.method=",
        "output.save_steps=5",
        "training.num_epochs=3",
        "training.num_epochs=4",
        "evaluation.datasets=[{path: v, format: text, train_on: all}]",
    ];
    let recipe = read_text(EXAMPLE, &overrides);
    assert_eq!(printed(&recipe), Vec::<String>::new());
    let rate = recipe
        .training
        .learning_rate
        .as_ref()
        .map(|rate| (rate.value, rate.place.to_string()));
    assert_eq!(
        rate,
        Some((1e-4, "override `training.learning_rate=1e-4`".into()))
    );
    assert_eq!(
        value(recipe.datasets[0].path.as_ref()).as_deref(),
        Some("x=y")
    );
    assert_eq!(
        value(recipe.datasets[0].format.as_ref()),
        Some(Format::Chat)
    );
    assert_eq!(
        value(recipe.adapter.target_modules.as_ref()),
        Some(Modules::Names(vec!["q_proj".into(), "v_proj".into()]))
    );
    assert_eq!(recipe.adapter.method, None);
    assert_eq!(value(recipe.adapter.r.as_ref()), Some(16));
    assert_eq!(value(recipe.output.save_steps.as_ref()), Some(5));
    assert_eq!(value(recipe.training.num_epochs.as_ref()), Some(4));
    assert_eq!(
        value(recipe.evaluation.datasets[0].train_on.as_ref()),
        Some(TrainOn::All)
    );
}

#[test]
fn an_override_mends_what_the_file_has_wrong() {
    let text = format!("{NEEDED}training: {{lr_scheduler: cosin, min_lr_rate: 0.1}}\n");
    let recipe = read_text(&text, &["training.lr_scheduler=cosine_with_min_lr"]);
    assert_eq!(printed(&recipe), Vec::<String>::new());
    assert_eq!(
        value(recipe.training.lr_scheduler.as_ref()),
        Some(Scheduler::CosineWithMinLr)
    );
}

#[test]
fn nothing_is_concluded_from_a_value_that_was_refused() {
    let recipe = with(
        "training: {lr_scheduler: cosin, min_lr_rate: 0.1}\nevaluation: \
        {val_set_size: 5%, early_stopping_patience: 2}",
    );
    assert_eq!(recipe.faults.len(), 2, "{:?}", printed(&recipe));
}

/// Overrides of the example, each with its one fault.
const BROKEN_OVERRIDES: &[(&str, &str)] = &[
    (
        "seed",
        "expected `key=value` | write it as in `training.learning_rate=1e-4`",
    ),
    (
        "=x",
        "expected `key=value` | write it as in `training.learning_rate=1e-4`",
    ),
    (
        "a..b=1",
        "expected `key=value` | write it as in `training.learning_rate=1e-4`",
    ),
    (
        "datasets.1.path=x",
        "`datasets.1` is not there: `datasets` has 1 element, counted from 0",
    ),
    (
        "datasets.path=x",
        "`datasets` is a list: expected a number after it, found `path` | the \
        first element is `datasets.0`",
    ),
    (
        "base_model.x=1",
        "`base_model` holds no keys, so `x` cannot be set in it",
    ),
    (
        "training.sed=1",
        "unknown key `sed` in `training` | did you mean `seed`?",
    ),
    (
        "adapter.target_modules=[q_proj",
        "not YAML: unclosed bracket '['",
    ),
    (
        "datasets.0.path=*.parquet",
        "alias `*.parquet` is not allowed in a recipe | write the value out; a text that starts \
        with `*` needs quotes",
    ),
    (
        "adapter.r=a b: c: d",
        "not YAML: mapping values are not allowed in this context",
    ),
    (
        "adapter=lora",
        "adapter: expected keys with values, found `lora` | write `adapter: {method: lora}`",
    ),
    (
        "datasets.x",
        "expected `key=value` | write it as in `training.learning_rate=1e-4`",
    ),
    (
        "trainng.seed=1",
        "unknown key `trainng` | did you mean `training`?",
    ),
    (
        "evaluation.datasets.0.path=x",
        "evaluation.datasets: expected a list, found \
        `{0: {path: x}}` | start each element with `- `",
    ),
];

#[test]
fn every_broken_override_says_what_was_typed() {
    for (typed, expected) in BROKEN_OVERRIDES {
        assert_eq!(
            printed(&read_text(EXAMPLE, &[typed])),
            [format!("override `{typed}`: {expected}")]
        );
    }
}

#[test]
fn a_recipe_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let missing = read(&dir.path().join("x.yaml"), &[]).expect_err("no such file");
    assert_eq!(missing.exit(), Exit::NoInput);
    let folder = read(dir.path(), &[]).expect_err("a folder");
    assert_eq!(folder.exit(), Exit::Io);
}

/// Returns whether a fault has a place and ends without a period.
fn is_well_told(fault: &Fault) -> bool {
    fault.place.is_some() && !fault.message.is_empty() && !fault.message.ends_with('.')
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(content in proptest::collection::vec(any::<u8>(), 0..400)) {
        from_bytes(Path::new("x.yaml"), &content, &[]);
    }

    #[test]
    fn no_yaml_is_too_strange(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "base_model", "datasets", "adapter", "training", "r", "path", "columns",
                "target_modules", ": ", ":", "- ", "\n", "\n  ", "\n    ", "[", "]", "{", "}",
                ", ", "&a ", "*a", "!!str ", "'", "\"", "|\n", "? ", "---\n", "...\n", "~",
                "1e-4", "16", "# x", "\t", "\u{feff}", "%YAML 1.1\n", "é",
            ]),
            0..60,
        ),
        typed in "(adapter|training|datasets|0|r|\\.){1,4}=?[-a-z0-9\\[\\]{}:, *&!'\"]{0,12}",
    ) {
        let recipe = read_text(&format!("{NEEDED}{}", pieces.concat()), &[&typed]);
        for fault in &recipe.faults {
            prop_assert!(is_well_told(fault), "{fault:?}");
        }
    }
}
