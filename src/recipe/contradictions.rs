//! Contradictions: values that are valid alone and do not go together.
//!
//! A value that was refused proves nothing about what the user wanted, so nothing is concluded from
//! it.

use super::notes::{Notes, listed};
use super::objective::{all_loss_types, loss_types};
use super::synonyms;
use super::tree::shorten;
use super::{Adapter, Dataset, Evaluation, Location, Objective, Recipe, Said, Training};
use crate::fault::Fault;
use crate::terms::{
    CpoLoss, Deduplicate, DpoLoss, EpochEnd, FDivergence, Format, Initial, KtoLoss, MissingMass,
    ModelDtype, Modules, NearDuplicates, ObjectiveType, Offload, Optimizer, Quantization,
    Scheduler, SftLoss, Technique, Term, TrainOn,
};

/// Adds a fault for every contradiction within a recipe.
pub(super) fn find(recipe: &Recipe, notes: &Notes) {
    for dataset in recipe.datasets.iter().chain(&recipe.evaluation.datasets) {
        in_dataset(dataset, notes);
    }
    in_objective(recipe, notes);
    in_adapter(&recipe.adapter, notes);
    in_layers(&recipe.adapter, notes);
    in_parameters(&recipe.adapter, notes);
    in_full(recipe, notes);
    in_packing(&recipe.adapter, notes);
    in_training(&recipe.training, notes);
    in_batch(&recipe.training, notes);
    in_evaluation(&recipe.evaluation, notes);
    in_mixing(recipe, notes);
}

/// Checks a dataset's columns against its format. `text` has no turns to choose from.
fn in_dataset(dataset: &Dataset, notes: &Notes) {
    let Some(format) = dataset.format.as_ref().map(|said| said.value) else {
        return;
    };
    let is_of_pairs = format == Format::Unpaired
        && ["chosen", "rejected"]
            .iter()
            .any(|name| dataset.columns.contains_key(*name));
    let valid = if is_of_pairs {
        Format::Preference.columns()
    } else {
        format.columns()
    };
    for (name, column) in dataset
        .columns
        .iter()
        .filter(|(name, _)| !valid.contains(&name.as_str()))
        .filter(|(name, _)| name.as_str() != Format::LOSS_WEIGHT || format.is_of_preferences())
    {
        let message = format!(
            "columns: format `{format}` has no column `{}`, expected {}",
            shorten(name),
            listed(valid, "or")
        );
        notes.say(
            &column.place,
            Fault::new(message).hint(of_column(dataset, valid, name, &column.value)),
        );
    }
    if let Some(role) = dataset.roles.values().next()
        && matches!(
            format,
            Format::Text | Format::Instruction | Format::Classification
        )
    {
        let fault = Fault::new(format!("roles: format `{format}` has no roles"));
        notes.say(
            &role.place,
            fault.hint("remove `roles`; conversations are of format `chat`"),
        );
    }
    in_chat(dataset, format, notes);
    if let Some(weight) = dataset
        .loss_weight
        .as_ref()
        .filter(|_| format.is_of_preferences())
    {
        let message = format!(
            "loss_weight: format `{format}` has no `loss_weight`: the losses of an objective of \
            preferences are of pairs or of labels"
        );
        let hint = if format == Format::Unpaired {
            "remove `loss_weight`; `objective.desirable_weight` and `objective.undesirable_weight` \
            weigh the two kinds of rows"
        } else {
            "remove `loss_weight`; `weight` changes how often rows of a dataset are drawn"
        };
        notes.say(&weight.place, Fault::new(message).hint(hint));
    }
    if let Some(train_on) = dataset
        .train_on
        .as_ref()
        .filter(|_| !format.has_trained_parts())
    {
        let why = match format {
            Format::Classification => "its texts are scored as a whole",
            Format::Retrieval => "its texts are compared as a whole",
            _ => "its completions are what is compared",
        };
        let message = format!("train_on: format `{format}` has no `train_on`: {why}");
        notes.say(
            &train_on.place,
            Fault::new(message).hint("remove `train_on`"),
        );
    }
    if let Some(train_on) = &dataset.train_on
        && format == Format::Text
        && train_on.value != TrainOn::All
    {
        let message = format!(
            "train_on: `{}` does not go with format `text`, where every token is trained",
            train_on.value
        );
        notes.say(
            &train_on.place,
            Fault::new(message).hint("remove `train_on`"),
        );
    }
}

/// Checks the keys of an objective against its type, and the formats of its rows.
fn in_objective(recipe: &Recipe, notes: &Notes) {
    let objective = &recipe.objective;
    if notes.is_refused("objective.type") {
        return;
    }
    let kind = objective.type_or_default();
    for (key, owners) in ObjectiveType::KEYS
        .iter()
        .filter(|(_, owners)| !owners.contains(&kind))
    {
        let Some(place) = objective.place_of(key) else {
            continue;
        };
        let words: Vec<&str> = owners.iter().map(|owner| owner.word()).collect();
        let message = format!(
            "objective.{key} goes with `type` {} only, found `{kind}`",
            listed(&words, "or")
        );
        notes.say(
            place,
            Fault::new(message).hint(format!("set `type: {}`, or remove `{key}`", words[0])),
        );
    }
    in_loss_type(recipe, kind, notes);
    in_distillation(recipe, kind, notes);
    in_widths(recipe, notes);
    in_score_head(recipe, kind, notes);
    in_loss_weights(recipe, kind, notes);
    let datasets = recipe.datasets.iter().chain(&recipe.evaluation.datasets);
    for format in datasets.filter_map(|dataset| dataset.format.as_ref()) {
        let valid: Vec<&str> = kind.formats().iter().map(|format| format.word()).collect();
        if kind.formats().contains(&format.value) {
            continue;
        }
        let others: Vec<&str> = ObjectiveType::WORDS
            .iter()
            .filter(|(_, other)| other.formats().contains(&format.value))
            .map(|(word, _)| *word)
            .collect();
        let fault = Fault::new(format!(
            "format: `{}` does not go with `objective: {{type: {kind}}}`, which reads {}",
            format.value,
            listed(&valid, "or")
        ));
        notes.say(
            &format.place,
            fault.hint(format!(
                "rows of this format are for `objective: {{type: ..}}` {}",
                listed(&others, "or")
            )),
        );
    }
}

/// Checks what distillation learns from, and `beta`, of which each type has a range.
fn in_distillation(recipe: &Recipe, kind: ObjectiveType, notes: &Notes) {
    let objective = &recipe.objective;
    let is_distill = kind == ObjectiveType::Distill;
    let has_beta = ObjectiveType::KEYS
        .iter()
        .any(|(key, owners)| *key == "beta" && owners.contains(&kind));
    if let Some(beta) = objective.beta.as_ref().filter(|_| has_beta) {
        let of_distill = is_distill && beta.value > 1.0;
        if of_distill || (!is_distill && beta.value <= 0.0) {
            let expected = if is_distill {
                "a number from 0 to 1"
            } else {
                "a number above 0"
            };
            let message = format!(
                "objective.beta is {}, `type: {kind}` has {expected}",
                beta.value
            );
            let hint = if is_distill {
                "0 is forward KL, 1 reverse KL, 0.5 the Jensen-Shannon divergence"
            } else {
                "remove `beta` for the default"
            };
            notes.say(&beta.place, Fault::new(message).hint(hint));
        }
    }
    if !is_distill {
        return;
    }
    if let Some(said) = objective
        .kind
        .as_ref()
        .filter(|_| objective.teacher.is_none())
    {
        let fault = Fault::new("objective.type: `distill` needs a `teacher`");
        notes.say(
            &said.place,
            fault.hint(
                "name the folder of a model or a Hub id, or `data` for tokens that the rows bring",
            ),
        );
    }
    let is_reverse = objective
        .beta
        .as_ref()
        .is_some_and(|said| said.value >= 1.0);
    let of_teacher = objective.missing_mass.as_ref();
    let of_teacher = of_teacher.filter(|said| said.value == MissingMass::TeacherRenorm);
    if let Some(said) = of_teacher.filter(|_| is_reverse) {
        let fault = Fault::new(
            "objective.missing_mass: `teacher_renorm` leaves nothing to other tokens, and reverse \
            KL (`beta: 1`) is infinite there",
        );
        notes.say(&said.place, fault.hint("set `missing_mass: tail`"));
    }
}

/// Checks that each width has one weight, and that an anchor has texts to be told from.
fn in_widths(recipe: &Recipe, notes: &Notes) {
    let objective = &recipe.objective;
    if let Some(weights) = &objective.matryoshka_weights {
        let dims = objective.matryoshka_dims.as_ref();
        let dims = dims.map_or(0, |dims| dims.value.len());
        if dims != weights.value.len() {
            let message = format!(
                "objective.matryoshka_weights has {} numbers, `matryoshka_dims` has {dims}",
                weights.value.len()
            );
            let fault = Fault::new(message).hint("give each width one weight, or remove them");
            notes.say(&weights.place, fault);
        }
    }
}

/// Checks that factors of losses are given where rows have losses of tokens. Formats of preferences
/// refuse them themselves.
fn in_loss_weights(recipe: &Recipe, kind: ObjectiveType, notes: &Notes) {
    if kind == ObjectiveType::Sft {
        return;
    }
    let datasets = recipe.datasets.iter().chain(&recipe.evaluation.datasets);
    for dataset in datasets {
        let format = dataset.format.as_ref().map(|said| said.value);
        if format.is_some_and(Format::is_of_preferences) {
            continue;
        }
        let column = dataset.columns.get(Format::LOSS_WEIGHT);
        let places = [
            (
                "loss_weight",
                dataset.loss_weight.as_ref().map(|said| &said.place),
            ),
            ("columns: `weight`", column.map(|said| &said.place)),
        ];
        for (key, place) in places {
            let Some(place) = place else { continue };
            let fault = Fault::new(format!(
                "{key} goes with `objective: {{type: sft}}` only, found `{kind}`"
            ));
            let hint = "remove it; `weight` changes how often rows of a dataset are drawn";
            notes.say(place, fault.hint(hint));
        }
    }
}

/// Checks what does not go with a score head: it is trained beside an adapter, and takes the place
/// of the vocabulary's head.
fn in_score_head(recipe: &Recipe, kind: ObjectiveType, notes: &Notes) {
    if !kind.has_score_head() {
        return;
    }
    let adapter = &recipe.adapter;
    if let Some(said) = adapter.method.as_ref().filter(|_| adapter.is_full()) {
        let fault = Fault::new(format!(
            "adapter.method: `full` does not go with `objective: {{type: {kind}}}` yet, whose \
            score head is trained beside an adapter"
        ));
        notes.say(&said.place, fault.hint("set `method: lora`"));
    }
    let is_head = |name: &String| name.ends_with("lm_head") || name.ends_with("embed_out");
    let of_saved = adapter.modules_to_save.as_ref();
    let saved = of_saved.filter(|said| said.value.iter().any(is_head));
    let targets = adapter
        .target_modules
        .as_ref()
        .filter(|said| matches!(&said.value, Modules::Names(names) if names.iter().any(is_head)));
    let places = [
        ("modules_to_save", saved.map(|said| &said.place)),
        ("target_modules", targets.map(|said| &said.place)),
    ];
    for (key, place) in places {
        let Some(place) = place else { continue };
        let fault = Fault::new(format!(
            "adapter.{key} names the vocabulary's head, whose place the score head of \
            `objective: {{type: {kind}}}` takes"
        ));
        notes.say(
            place,
            fault.hint("leave it out; the score head is trained and saved"),
        );
    }
    if let Some(prompt) = recipe.evaluation.prompts.first() {
        let fault = Fault::new(format!(
            "evaluation.prompts does not go with `objective: {{type: {kind}}}`: a score head \
            answers no prompt"
        ));
        notes.say(&prompt.place, fault.hint("remove `prompts`"));
    }
}

/// Checks the loss of an objective, and keys that only some losses have.
fn in_loss_type(recipe: &Recipe, kind: ObjectiveType, notes: &Notes) {
    let objective = &recipe.objective;
    let of_kind = loss_types(kind);
    let (valid, of) = if of_kind.is_empty() {
        (all_loss_types(), String::new())
    } else {
        (of_kind.clone(), format!(" of `type: {kind}`"))
    };
    let said = objective.loss_type.as_ref();
    if let Some(said) = said.filter(|said| !valid.contains(&said.value.as_str())) {
        let message = format!(
            "objective.loss_type: `{}` is no loss{of}, expected {}",
            said.value,
            listed(&valid, "or")
        );
        notes.say(
            &said.place,
            Fault::new(message).hint("choose one of them, or remove `loss_type`"),
        );
        return;
    }
    let said = said.filter(|_| !of_kind.is_empty());
    let plain = match kind {
        ObjectiveType::Sft => SftLoss::Nll.word(),
        _ => "sigmoid",
    };
    let word = said.map_or(plain, |said| said.value.as_str());
    let is_smoothed = match kind {
        ObjectiveType::Sft => word != SftLoss::Dft.word(),
        ObjectiveType::Dpo => DpoLoss::parse(word).is_none_or(DpoLoss::is_smoothed),
        ObjectiveType::Cpo => word == CpoLoss::Sigmoid.word(),
        _ => true,
    };
    if let Some(smoothing) = objective.label_smoothing.as_ref().filter(|_| !is_smoothed) {
        let message = format!(
            "objective.label_smoothing does not go with `loss_type: {word}`, which ignores it"
        );
        notes.say(
            &smoothing.place,
            Fault::new(message).hint(format!(
                "remove `label_smoothing`, or set `loss_type: {plain}`"
            )),
        );
    }
    let is_exo = kind == ObjectiveType::Dpo && word == DpoLoss::ExoPair.word();
    let smoothing = objective.label_smoothing.as_ref();
    if let Some(said) = said.filter(|_| is_exo && smoothing.is_none_or(|said| said.value <= 0.0)) {
        let fault = Fault::new(
            "objective.loss_type: `exo_pair` needs a `label_smoothing` above 0: its loss has the \
            logarithm of it",
        );
        notes.say(&said.place, fault.hint("set `label_smoothing: 0.001`"));
    }
    let is_discopop = word == DpoLoss::Discopop.word();
    if let Some(tau) = objective
        .discopop_tau
        .as_ref()
        .filter(|_| kind == ObjectiveType::Dpo && !is_discopop)
    {
        let message =
            format!("objective.discopop_tau goes with `loss_type: discopop` only, found `{word}`");
        notes.say(
            &tau.place,
            Fault::new(message).hint("set `loss_type: discopop`, or remove `discopop_tau`"),
        );
    }
    in_divergence(objective, kind, word, notes);
    let is_alone = |said: Option<&Said<usize>>| said.is_none_or(|said| said.value == 1);
    let training = &recipe.training;
    let has_one_row = is_alone(training.micro_batch_size.as_ref())
        && is_alone(training.gradient_accumulation_steps.as_ref());
    let has_mismatched = word != KtoLoss::ApoZeroUnpaired.word();
    if let Some(said) = objective
        .kind
        .as_ref()
        .filter(|_| kind == ObjectiveType::Kto && has_mismatched && has_one_row)
    {
        let fault = Fault::new(
            "objective.type: `kto` reads prompts with completions of other rows of a step, and a \
            step has 1 row: `micro_batch_size` 1 times `gradient_accumulation_steps` 1",
        );
        notes.say(
            &said.place,
            fault.hint("set `training.gradient_accumulation_steps: 8`"),
        );
    }
}

/// Checks the divergence from the reference, which losses of the margin have.
fn in_divergence(objective: &Objective, kind: ObjectiveType, word: &str, notes: &Notes) {
    let has_divergence = DpoLoss::parse(word).is_none_or(DpoLoss::has_divergence);
    let said = objective.f_divergence_type.as_ref();
    if let Some(said) = said.filter(|_| kind == ObjectiveType::Dpo && !has_divergence) {
        let message = format!(
            "objective.f_divergence_type does not go with `loss_type: {word}`, which is one of \
            log-ratios"
        );
        notes.say(
            &said.place,
            Fault::new(message).hint("remove `f_divergence_type`, or set `loss_type: sigmoid`"),
        );
    }
    let is_alpha = said.is_some_and(|said| said.value == FDivergence::AlphaDivergence);
    if let Some(said) = objective
        .f_alpha_divergence_coef
        .as_ref()
        .filter(|_| kind == ObjectiveType::Dpo && !is_alpha)
    {
        let fault = Fault::new(
            "objective.f_alpha_divergence_coef goes with `f_divergence_type: alpha_divergence` only",
        );
        notes.say(
            &said.place,
            fault.hint("set `f_divergence_type: alpha_divergence`, or remove it"),
        );
    }
}

/// Checks a chat dataset: it is a list of turns, or a question and an answer. No other format has a
/// system message.
fn in_chat(dataset: &Dataset, format: Format, notes: &Notes) {
    if let Some(system) = dataset.system.as_ref().filter(|_| format != Format::Chat) {
        let message = format!("system: format `{format}` has no system message, `chat` has");
        notes.say(
            &system.place,
            Fault::new(message).hint("remove `system`, or set `format: chat`"),
        );
    }
    if format != Format::Chat {
        return;
    }
    let named = |name: &str| dataset.columns.get(name);
    let hint = "name the two columns of a table, such as `columns: \
        {prompt: question, completion: answer}`";
    match (named("messages"), named("prompt"), named("completion")) {
        (Some(_), Some(other), _) | (Some(_), None, Some(other)) => {
            let fault = Fault::new(
                "columns: a chat is read from `messages`, or from `prompt` and \
                `completion`, and not from both",
            );
            notes.say(
                &other.place,
                fault.hint("remove `messages`, or the other two"),
            );
        }
        (None, Some(only), None) => {
            notes.say(
                &only.place,
                Fault::new("columns: a chat of `prompt` needs `completion` as well").hint(hint),
            );
        }
        (None, None, Some(only)) => {
            notes.say(
                &only.place,
                Fault::new("columns: a chat of `completion` needs `prompt` as well").hint(hint),
            );
        }
        _ => {}
    }
}

/// Returns the line that was probably meant: the pair swapped, the format's word for another
/// trainer's, or a column name that is still missing.
fn of_column(dataset: &Dataset, valid: &[&str], name: &str, column: &str) -> String {
    let is_free = |own: &&&str| !dataset.columns.contains_key(**own);
    if valid.contains(&column) {
        return format!(
            "the format's name comes first: `{column}: {}`",
            shorten(name)
        );
    }
    if let Some(own) = synonyms::of_column(valid, name) {
        return format!("write `{own}: {}`", shorten(column));
    }
    let own = valid.iter().find(is_free).unwrap_or(&valid[0]);
    format!(
        "the format's name comes first: `{own}: {}`",
        shorten(column)
    )
}

/// Checks `layers_to_transform`: PEFT reads it only where targets are chosen by name.
fn in_layers(adapter: &Adapter, notes: &Notes) {
    if let (Some(layers), Some(Modules::Regex(pattern))) = (
        &adapter.layers_to_transform,
        adapter.target_modules.as_ref().map(|said| &said.value),
    ) {
        let fault = Fault::new(format!(
            "adapter.layers_to_transform does not go with the regular expression `{pattern}`"
        ));
        notes.say(
            &layers.place,
            fault.hint("put the layers into the expression, such as `.*layers\\.(0|1)\\..*q_proj`"),
        );
    }
}

/// Checks `target_parameters`. PEFT adds the adapter's product to the parameter itself, so there is
/// no input to drop from.
fn in_parameters(adapter: &Adapter, notes: &Notes) {
    if let (Some(parameters), Some(dropout)) = (&adapter.target_parameters, &adapter.dropout)
        && !parameters.value.is_empty()
        && dropout.value > 0.0
    {
        let message = format!(
            "adapter.dropout: {} does not go with `target_parameters`, whose adapters have \
            none in PEFT",
            dropout.value
        );
        notes.say(
            &dropout.place,
            Fault::new(message)
                .hint("remove `dropout`, or name the modules of experts in `target_modules`"),
        );
    }
}

/// Keys of a section with their places, where they are set.
type Keys<'a> = Vec<(&'static str, &'a Location)>;

/// Returns where a key is set.
fn place<T>(said: Option<&Said<T>>) -> Option<&Location> {
    said.map(|said| &said.place)
}

/// Returns where a key is set to a value.
fn place_of<'a, T: PartialEq>(said: Option<&'a Said<T>>, value: &T) -> Option<&'a Location> {
    place(said.filter(|said| said.value == *value))
}

fn set<'a, const N: usize>(keys: [(&'static str, Option<&'a Location>); N]) -> Keys<'a> {
    let set = keys
        .into_iter()
        .filter_map(|(key, place)| Some((key, place?)));
    set.collect()
}

/// Returns the keys that are set of an adapter's shape, scale and targets.
fn keys_of_shape(adapter: &Adapter) -> Keys<'_> {
    set([
        ("r", place(adapter.r.as_ref())),
        ("alpha", place(adapter.alpha.as_ref())),
        ("target_modules", place(adapter.target_modules.as_ref())),
        (
            "target_parameters",
            place(adapter.target_parameters.as_ref()),
        ),
        ("use_rslora", place(adapter.use_rslora.as_ref())),
        ("use_dora", place_of(adapter.use_dora.as_ref(), &true)),
        ("lora_bias", place_of(adapter.lora_bias.as_ref(), &true)),
        (
            "rank_pattern",
            adapter.rank_pattern.values().next().map(|said| &said.place),
        ),
        (
            "alpha_pattern",
            adapter
                .alpha_pattern
                .values()
                .next()
                .map(|said| &said.place),
        ),
        (
            "layers_to_transform",
            place(adapter.layers_to_transform.as_ref()),
        ),
        (
            "init_lora_weights",
            place(adapter.init_lora_weights.as_ref()),
        ),
        ("modules_to_save", place(adapter.modules_to_save.as_ref())),
        (
            "trainable_token_indices",
            place(adapter.trainable_token_indices.as_ref()),
        ),
    ])
}

/// Returns the keys that are set of an adapter's training and start.
fn keys_of_training(adapter: &Adapter) -> Keys<'_> {
    set([
        ("dropout", place(adapter.dropout.as_ref())),
        ("init_from", place(adapter.init_from.as_ref())),
    ])
}

/// Returns the keys that are set of how a frozen base is kept.
fn keys_of_base(adapter: &Adapter) -> Keys<'_> {
    let quantization = adapter.quantization.as_ref();
    let quantization = quantization.filter(|said| said.value != Quantization::None);
    set([
        ("quantization", quantization.map(|said| &said.place)),
        (
            "double_quant",
            place_of(adapter.double_quant.as_ref(), &true),
        ),
        ("block_size", place(adapter.block_size.as_ref())),
        (
            "quantize_head",
            place_of(adapter.quantize_head.as_ref(), &true),
        ),
        (
            "offload_embedding",
            place_of(adapter.offload_embedding.as_ref(), &Offload::Always),
        ),
    ])
}

/// Checks the adapter: one to continue from brings its shape, scale and targets, and full
/// fine-tuning has no adapter.
fn in_adapter(adapter: &Adapter, notes: &Notes) {
    let dora = place_of(adapter.use_dora.as_ref(), &true);
    let bias = place_of(adapter.lora_bias.as_ref(), &true);
    let principal = place_of(adapter.init_lora_weights.as_ref(), &Initial::Principal);
    let beside_principal = dora.map(|_| "use_dora").or(bias.map(|_| "lora_bias"));
    if let (Some(place), Some(key)) = (principal, beside_principal) {
        let message = format!(
            "adapter.init_lora_weights: `pissa` does not go with `{key}`: it is saved as a plain \
            adapter"
        );
        notes.say(place, Fault::new(message).hint("remove one of the two"));
    }
    if let (Some(_), Some(place)) = (dora, bias) {
        let fault = Fault::new(
            "adapter.lora_bias does not go with `use_dora`: as in PEFT an adapter has one of the \
            two",
        );
        notes.say(place, fault.hint("remove one of the two"));
    }
    if adapter.is_full() {
        let keys = [
            keys_of_shape(adapter),
            keys_of_training(adapter),
            keys_of_base(adapter),
        ];
        for (key, place) in keys.concat() {
            let fault = Fault::new(format!(
                "adapter.{key} does not go with `method: full`, which trains every weight"
            ));
            notes.say(
                place,
                fault.hint(format!(
                    "remove `{key}`, or train an adapter with `method: lora`"
                )),
            );
        }
    } else if adapter.init_from.is_some() {
        for (key, place) in keys_of_shape(adapter) {
            let fault = Fault::new(format!(
                "adapter.{key} does not go with `init_from`, where it is set already"
            ));
            notes.say(
                place,
                fault.hint(format!(
                    "remove `{key}`, or remove `init_from` to start afresh"
                )),
            );
        }
    }
}

/// Checks full fine-tuning. It needs all bits of the weights, since an update is smaller than the
/// last bit of bfloat16; and there is no B with a learning rate of its own.
fn in_full(recipe: &Recipe, notes: &Notes) {
    if !recipe.adapter.is_full() {
        return;
    }
    let training = &recipe.training;
    if let Some(ratio) = &training.loraplus_lr_ratio {
        let fault = Fault::new(
            "training.loraplus_lr_ratio does not go with `method: full`, which trains no adapter",
        );
        notes.say(
            &ratio.place,
            fault.hint("remove `loraplus_lr_ratio`, or train an adapter with `method: lora`"),
        );
    }
    let is_narrow = |said: &&Said<ModelDtype>| {
        [ModelDtype::Bfloat16, ModelDtype::Float16].contains(&said.value)
    };
    if let Some(dtype) = training.model_dtype.as_ref().filter(is_narrow) {
        let word = dtype.value;
        let message = format!(
            "training.model_dtype: `{word}` does not go with `method: full`, \
            whose weights train in 32 bits"
        );
        let fault = Fault::new(message);
        notes.say(
            &dtype.place,
            fault.hint("remove `model_dtype`, or train an adapter with `method: lora`"),
        );
    }
}

/// Checks the keys of quantization: `QLoRA` needs a quantized base.
fn in_packing(adapter: &Adapter, notes: &Notes) {
    let is_qlora = adapter
        .method
        .as_ref()
        .is_some_and(|method| method.value == Technique::Qlora);
    if let Some(said) = adapter
        .quantization
        .as_ref()
        .filter(|said| is_qlora && said.value == Quantization::None)
    {
        let fault = Fault::new(
            "adapter.quantization: `none` does not go with `method: qlora`, \
            which trains on a packed base",
        );
        notes.say(
            &said.place,
            fault.hint("remove `quantization` for `nf4`, or write `method: lora`"),
        );
    }
}

/// Checks that a batch is counted in 31 bits.
fn in_batch(training: &Training, notes: &Notes) {
    if let (Some(rows), Some(tokens)) = (&training.micro_batch_size, &training.sequence_len)
        && rows.value.saturating_mul(tokens.value) >= 1 << 31
    {
        let message = format!(
            "training.micro_batch_size: {} rows of {} tokens are more than 2^31",
            rows.value, tokens.value
        );
        notes.say(
            &rows.place,
            Fault::new(message).hint("lower it and raise `gradient_accumulation_steps`"),
        );
    }
}

/// Checks for a single warm-up, and for keys that fit the optimizer and the schedule.
fn in_training(training: &Training, notes: &Notes) {
    if let (Some(ratio), Some(_)) = (&training.warmup_ratio, &training.warmup_steps) {
        let fault = Fault::new(
            "training.warmup_ratio does not go with `warmup_steps`: both set \
            the length of the warm-up",
        );
        notes.say(&ratio.place, fault.hint("remove one of the two"));
    }
    if let (Some(rate), Some(_)) = (&training.min_lr_rate, &training.min_lr) {
        let fault = Fault::new(
            "training.min_lr_rate does not go with `min_lr`: both set the lowest learning rate",
        );
        notes.say(&rate.place, fault.hint("remove one of the two"));
    }
    let optimizer = training
        .optimizer
        .as_ref()
        .map_or(Optimizer::AdamW, |said| said.value)
        .resident();
    if !notes.is_refused("training.optimizer") {
        in_keys("optimizer", &Optimizer::KEYS, optimizer, training, notes);
        in_optimizer(optimizer, training, notes);
    }
    let scheduler = training
        .lr_scheduler
        .as_ref()
        .map_or(Scheduler::Cosine, |said| said.value);
    if !notes.is_refused("training.lr_scheduler") && optimizer != Optimizer::ScheduleFree {
        in_keys("lr_scheduler", &Scheduler::KEYS, scheduler, training, notes);
    }
}

/// Refuses keys that the chosen optimizer or schedule does not have: they would change nothing.
fn in_keys<T: Term>(
    of: &str,
    keys: &[(&'static str, &'static [T])],
    chosen: T,
    training: &Training,
    notes: &Notes,
) {
    for (key, owners) in keys.iter().filter(|(_, owners)| !owners.contains(&chosen)) {
        let Some(place) = training.place_of(key) else {
            continue;
        };
        let words: Vec<&str> = owners.iter().map(|owner| owner.word()).collect();
        let goes_with = match &words[..] {
            [word] => format!("`{of}: {word}` only"),
            words => format!("`{of}` {} only", listed(words, "or")),
        };
        let message = format!(
            "training.{key} goes with {goes_with}, found `{}`",
            chosen.word()
        );
        notes.say(
            place,
            Fault::new(message).hint(format!("set `{of}: {}`, or remove `{key}`", words[0])),
        );
    }
}

/// Refuses keys that the optimizer sets itself.
fn in_optimizer(optimizer: Optimizer, training: &Training, notes: &Notes) {
    let refuse = |keys: &[&str], why: &str| {
        for (key, place) in keys
            .iter()
            .filter_map(|key| Some((key, training.place_of(key)?)))
        {
            let fault = Fault::new(format!("training.{key} does not go with {why}"));
            notes.say(place, fault.hint(format!("remove `{key}`")));
        }
    };
    let is_true = |said: &Option<Said<bool>>| said.as_ref().is_some_and(|said| said.value);
    if optimizer == Optimizer::Adafactor && is_true(&training.relative_step) {
        let own = [
            "learning_rate",
            "lr_scheduler",
            "warmup_ratio",
            "warmup_steps",
        ];
        refuse(
            &own,
            "`relative_step: true`, where the learning rate follows from the number of updates",
        );
    }
    if let Some(said) = training
        .warmup_init
        .as_ref()
        .filter(|said| said.value && !is_true(&training.relative_step))
    {
        let fault = Fault::new("training.warmup_init goes with `relative_step: true` only");
        notes.say(
            &said.place,
            fault.hint("set `relative_step: true`, or remove `warmup_init`"),
        );
    }
    if optimizer != Optimizer::ScheduleFree {
        return;
    }
    let keys: Vec<&str> = Scheduler::KEYS.iter().map(|(key, _)| *key).collect();
    refuse(
        &keys,
        "`optimizer: schedule_free_adamw`, which has no schedule",
    );
    if let Some(said) = training
        .lr_scheduler
        .as_ref()
        .filter(|said| said.value != Scheduler::Constant)
    {
        let message = format!(
            "training.lr_scheduler: `{}` does not go with `optimizer: schedule_free_adamw`, which \
            averages in place of a schedule",
            said.value
        );
        notes.say(
            &said.place,
            Fault::new(message).hint("remove `lr_scheduler`, or set it to `constant`"),
        );
    }
    if let Some(said) = training
        .adam_beta1
        .as_ref()
        .filter(|said| said.value <= 0.0)
    {
        let message = "training.adam_beta1: `optimizer: schedule_free_adamw` needs a number above \
            0, found 0";
        notes.say(
            &said.place,
            Fault::new(message).hint("remove `adam_beta1` for 0.9"),
        );
    }
}

/// Checks keys that need dataset weights or near-duplicate detection.
fn in_mixing(recipe: &Recipe, notes: &Notes) {
    let (training, evaluation) = (&recipe.training, &recipe.evaluation);
    let is_unclear = (0..recipe.datasets.len())
        .any(|index| notes.is_refused(&format!("datasets.{index}.weight")));
    let has_weight = is_unclear
        || recipe
            .datasets
            .iter()
            .any(|dataset| dataset.weight.is_some());
    if let Some(said) = training
        .stopping_strategy
        .as_ref()
        .filter(|said| !has_weight && said.value != EpochEnd::AllRows)
    {
        let message = format!(
            "training.stopping_strategy: `{}` needs datasets with a `weight`, and none has one",
            said.value
        );
        notes.say(
            &said.place,
            Fault::new(message).hint("give each dataset a `weight`, or remove `stopping_strategy`"),
        );
    }
    let held_out = evaluation
        .val_set_size
        .as_ref()
        .is_some_and(|said| !said.value.is_none())
        || !evaluation.datasets.is_empty();
    let unclear =
        notes.is_refused("evaluation.val_set_size") || notes.is_refused("evaluation.datasets");
    let is_near = training
        .deduplicate
        .as_ref()
        .is_some_and(|said| said.value == Deduplicate::Near);
    let is_compared = is_near || held_out || unclear || notes.is_refused("training.deduplicate");
    if let Some(said) = training.near_threshold.as_ref().filter(|_| !is_compared) {
        let fault = Fault::new(
            "training.near_threshold goes with `deduplicate: near` or with rows \
            that are only scored",
        );
        notes.say(
            &said.place,
            fault.hint("set `deduplicate: near`, or remove `near_threshold`"),
        );
    }
    if let Some(said) = evaluation
        .near_duplicates
        .as_ref()
        .filter(|said| said.value != NearDuplicates::Keep)
        && !(held_out || unclear)
    {
        let message = format!(
            "evaluation.near_duplicates: `{}` needs rows that are only scored, and there are none",
            said.value
        );
        notes.say(
            &said.place,
            Fault::new(message)
                .hint("add a line such as `val_set_size: 0.05` to `evaluation`, or remove it"),
        );
    }
}

/// Checks that early stopping has a validation loss.
fn in_evaluation(evaluation: &Evaluation, notes: &Notes) {
    let held_out = evaluation
        .val_set_size
        .as_ref()
        .is_some_and(|said| !said.value.is_none());
    let unclear =
        notes.is_refused("evaluation.val_set_size") || notes.is_refused("evaluation.datasets");
    if let Some(patience) = evaluation
        .early_stopping_patience
        .as_ref()
        .filter(|said| said.value > 0)
        && !(held_out || unclear || !evaluation.datasets.is_empty())
    {
        let fault = Fault::new(
            "evaluation.early_stopping_patience needs validation rows, and there are none",
        );
        notes.say(
            &patience.place,
            fault.hint("add a line such as `val_set_size: 0.05` to `evaluation`"),
        );
    }
}
