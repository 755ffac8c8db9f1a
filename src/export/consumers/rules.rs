//! The rules, one function per consumer: its findings on an adapter to be trained (without a form),
//! or on a form that it is given.

use super::{Cause, Consumer, Feature, Features, Finding, ShippedForm, Subject};

/// Values of vLLM's `--max-lora-rank`; 16 is its default.
const VLLM_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];
const VLLM_DEFAULT_RANK: usize = 16;
/// The architectures for which Ollama converts safetensors adapters, by llama.cpp's names.
const OLLAMA_CONVERTS: [&str; 2] = ["llama", "gemma2"];

const TO_PEFT: &str = "give it what `rankine export ADAPTER --to peft --out DIR` writes";
const TO_GGUF: &str = "give it what `rankine export ADAPTER --to gguf --out FILE` writes, a merged \
    model";
const TO_GGUF_ADAPTER: &str = "`rankine export ADAPTER --to gguf-adapter --out FILE` scales it \
    right";
const TO_OLLAMA: &str = "give it what `rankine export ADAPTER --to ollama --out DIR` writes";
const TO_MLX: &str = "give it what `rankine export ADAPTER --to mlx --out DIR` writes";
/// The message for an adapter that adds a bias where the base has none. It cannot be merged either.
const LONE: &str = "takes no biases in an adapter, and this one cannot be merged: the base has no \
    biases to add them to";
const WITHOUT_BIAS: &str = "train without `lora_bias`";
/// The hint for programs that accept adapters of matrices only.
const TO_MERGED: &str = "give it the model that `rankine merge` writes, which has the rows";
const PLAIN: &str = "train a plain LoRA on attention and MLP projections";

/// Returns a consumer's findings on an adapter with these features; before training there is no
/// form.
pub fn findings(consumer: Consumer, facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    if facts.subject == Subject::Model {
        return of_model(consumer, form)
            .into_iter()
            .map(Finding::of_form)
            .collect();
    }
    if let Some(loader) = loader_of_scores(facts) {
        return vec![of_score_head(consumer, loader)];
    }
    if facts.has(Feature::Embedder) {
        return vec![of_embedder(consumer)];
    }
    match consumer {
        Consumer::Vllm => vllm(facts, form),
        Consumer::LlamaCpp => llama_cpp(facts, form),
        Consumer::Ollama => ollama(facts, form),
        Consumer::LmStudio => lm_studio(facts, form),
        Consumer::Peft => peft(facts, form),
        Consumer::Mlx => mlx(facts, form),
    }
}

/// Returns the class of transformers that loads a model with the score head of an adapter, if it
/// has one.
fn loader_of_scores(facts: &Features) -> Option<&'static str> {
    match () {
        () if facts.has(Feature::ScoreHead) => Some("AutoModelForSequenceClassification"),
        () if facts.has(Feature::TokenScoreHead) => Some("AutoModelForTokenClassification"),
        () => None,
    }
}

/// Returns a consumer's finding on an adapter with a score head.
fn of_score_head(consumer: Consumer, loader: &str) -> Finding {
    let name = consumer.name();
    match consumer {
        Consumer::Peft => Finding::changes(
            format!("PEFT loads the score head onto a base of `{loader}`"),
            "give `from_pretrained` the keywords in labels.json",
        )
        .of_form(),
        Consumer::Vllm => Finding::changes(
            "vLLM loads adapters with a score head in recent versions only",
            "use its latest version, or score texts with `rankine classify`",
        ),
        Consumer::LlamaCpp | Consumer::Ollama | Consumer::LmStudio | Consumer::Mlx => {
            Finding::rejects(
                format!("{name} takes adapters of language models, this one has a score head"),
                "score texts with `rankine classify`, or load the adapter in PEFT",
            )
        }
    }
}

/// Returns a consumer's finding on an adapter that makes vectors.
fn of_embedder(consumer: Consumer) -> Finding {
    let name = consumer.name();
    match consumer {
        Consumer::Peft => Finding::changes(
            "PEFT loads the adapter of an embedder onto a base of `AutoModel`",
            "load it so, or the folder in sentence-transformers",
        )
        .of_form(),
        Consumer::Vllm => Finding::changes(
            "adapters of embedders have not been tried with vLLM",
            "make vectors with `rankine embed`, or load the folder in sentence-transformers",
        ),
        Consumer::LlamaCpp | Consumer::Ollama | Consumer::LmStudio | Consumer::Mlx => {
            Finding::rejects(
                format!(
                    "{name} takes adapters of language models, this one makes vectors of texts"
                ),
                "make vectors with `rankine embed`, or load the folder in sentence-transformers",
            )
        }
    }
}

/// Returns a consumer's finding on a whole model, whose folder some consumers read as it is.
fn of_model(consumer: Consumer, form: Option<ShippedForm>) -> Option<Finding> {
    let name = consumer.name();
    match (consumer, form) {
        (Consumer::Peft, None) => Some(Finding::changes(
            "PEFT has nothing to load of a whole model",
            "give its folder to transformers",
        )),
        (Consumer::Vllm | Consumer::Mlx | Consumer::Peft, Some(form)) => {
            let words = format!("{name} does not read {}", form.words());
            let next = if consumer == Consumer::Peft {
                "give the model's folder to transformers"
            } else {
                "give it the model's folder"
            };
            Some(Finding::rejects(words, next))
        }
        (Consumer::LlamaCpp | Consumer::LmStudio, None) => {
            let next = "write one with `rankine export --to gguf`";
            Some(Finding::changes(
                format!("{name} reads models as GGUF files"),
                next,
            ))
        }
        (Consumer::Ollama, None | Some(ShippedForm::Gguf)) => {
            let next = "write it with `rankine export --to ollama`";
            Some(Finding::changes(
                "Ollama needs a Modelfile with template and stops",
                next,
            ))
        }
        _ => None,
    }
}

/// Returns one line for each consumer that does not accept this adapter as it is.
pub fn portability(facts: &Features) -> Vec<String> {
    let all = Consumer::ALL
        .into_iter()
        .flat_map(|consumer| findings(consumer, facts, None));
    all.filter(|finding| finding.cause == Cause::Content)
        .map(|finding| finding.line())
        .collect()
}

fn found(findings: impl IntoIterator<Item = Option<Finding>>) -> Vec<Finding> {
    findings.into_iter().flatten().collect()
}

/// Returns the finding for a form that the consumer does not read.
fn unread(consumer: Consumer, form: ShippedForm, reads: &str, next: &str) -> Vec<Finding> {
    vec![
        Finding::rejects(
            format!("{} reads {reads}, not {}", consumer.name(), form.words()),
            next,
        )
        .of_form(),
    ]
}

fn vllm(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    if let Some(
        form @ (ShippedForm::GgufAdapter
        | ShippedForm::Ollama
        | ShippedForm::Mlx
        | ShippedForm::Gguf),
    ) = form
    {
        let next = if form == ShippedForm::Gguf {
            "give it the folder that `rankine merge` writes"
        } else {
            TO_PEFT
        };
        return unread(
            Consumer::Vllm,
            form,
            "adapters in PEFT's format and models in Hugging Face's",
            next,
        );
    }
    let saved = (!facts.saved_modules.is_empty()).then(|| {
        Finding::rejects(
            format!(
                "vLLM takes no `modules_to_save`, this adapter has `{}`",
                facts.saved_modules.join("`, `")
            ),
            PLAIN,
        )
    });
    let dora = facts
        .has(Feature::Dora)
        .then(|| Finding::rejects("vLLM takes no DoRA", PLAIN));
    let bias = facts
        .has(Feature::Biases)
        .then(|| Finding::rejects("vLLM takes no biases in an adapter", PLAIN));
    let outside = facts.outside_layers.first().map(|module| {
        Finding::rejects(
            format!("vLLM takes no adapter of the head or the embedding, this one has `{module}`"),
            PLAIN,
        )
    });
    let misnamed = facts.misnamed.as_ref().map(|key| {
        let words =
            format!("vLLM finds no module for tensor `{key}` and serves the base without a word");
        Finding::rejects(words, "names begin with `base_model.model.model.layers.`")
    });
    let stray = facts
        .stray
        .as_ref()
        .filter(|_| facts.saved_modules.is_empty())
        .filter(|_| {
            ![Feature::Dora, Feature::Biases, Feature::TokenRows]
                .into_iter()
                .any(|feature| facts.has(feature))
        });
    let rows = facts.has(Feature::TokenRows).then(|| {
        Finding::rejects(
            "vLLM takes no rows of tokens in an adapter (`trainable_token_indices`), and no tokens \
            that the base does not have",
            TO_MERGED,
        )
    });
    let stray = stray.map(|key| {
        Finding::rejects(
            format!("vLLM takes matrices A and B only, this adapter has tensor `{key}`"),
            PLAIN,
        )
    });
    let patterns = facts.has(Feature::Patterns).then(|| {
        let words =
            "vLLM's older releases scale every module by the one `lora_alpha` and `r`, not by \
            `rank_pattern` and `alpha_pattern`";
        Finding::changes(words, "use a release whose `PEFTHelper` reads the patterns, or merge the \
            adapter")
    });
    found([
        saved,
        dora,
        bias,
        outside,
        misnamed,
        rows,
        stray,
        vllm_rank(facts.rank),
        patterns,
    ])
}

/// Checks the rank for vLLM, whose option accepts only certain values.
fn vllm_rank(rank: usize) -> Option<Finding> {
    if rank <= VLLM_DEFAULT_RANK {
        return None;
    }
    Some(match VLLM_RANKS.into_iter().find(|value| *value >= rank) {
        Some(value) => Finding::changes(
            format!(
                "vLLM takes an adapter of rank {rank} only with `--max-lora-rank {value}` or more"
            ),
            "",
        ),
        None => Finding::rejects(
            format!("vLLM takes ranks up to 512, this adapter has {rank}"),
            "lower `r`, or merge the adapter",
        ),
    })
}

fn llama_cpp(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    match form {
        Some(ShippedForm::Gguf | ShippedForm::GgufAdapter | ShippedForm::Ollama) => Vec::new(),
        Some(ShippedForm::Mlx) => {
            unread(Consumer::LlamaCpp, ShippedForm::Mlx, "GGUF files", TO_GGUF)
        }
        Some(ShippedForm::Peft) => {
            let scaled = "llama.cpp's converter ignores `use_rslora` and scales the adapter \
                wrongly";
            let patterned = "llama.cpp's converter ignores `alpha_pattern` and scales the adapter \
                wrongly where it applies";
            let rslora = facts
                .has(Feature::RsLora)
                .then(|| Finding::rejects(scaled, TO_GGUF_ADAPTER));
            let patterns = facts
                .has(Feature::Patterns)
                .then(|| Finding::rejects(patterned, TO_GGUF_ADAPTER));
            let reads = Finding::changes(
                "llama.cpp reads GGUF files, a folder in PEFT's format through its converter only",
                TO_GGUF_ADAPTER,
            );
            let rows = rejected_rows("llama.cpp", facts, TO_GGUF);
            found([
                rows,
                llama_cpp_stray(facts),
                rslora,
                patterns,
                Some(reads.of_form()),
            ])
        }
        None => {
            let scaled = "llama.cpp's converter ignores `use_rslora` and scales the adapter \
                wrongly";
            let rslora = facts
                .has(Feature::RsLora)
                .then(|| Finding::changes(scaled, TO_GGUF_ADAPTER));
            let reads = Finding::changes(
                "llama.cpp reads GGUF files, not PEFT's folder",
                "write one with `rankine export --to gguf-adapter`",
            );
            found([
                rejected_rows("llama.cpp", facts, TO_GGUF),
                llama_cpp_stray(facts),
                rslora,
                Some(reads.of_form()),
            ])
        }
    }
}

/// Returns the finding for trained token rows, which only a merged model has for this consumer.
fn token_rows(name: &str, facts: &Features, next: &str) -> Option<Finding> {
    let words =
        || format!("{name} takes no rows of tokens in an adapter (`trainable_token_indices`)");
    facts
        .has(Feature::TokenRows)
        .then(|| Finding::changes(words(), next))
}

/// Returns the same finding for a consumer that accepts other adapters.
fn rejected_rows(name: &str, facts: &Features, next: &str) -> Option<Finding> {
    token_rows(name, facts, next).map(|finding| Finding::rejects(finding.words, finding.next))
}

fn llama_cpp_stray(facts: &Features) -> Option<Finding> {
    let key = facts
        .stray
        .as_ref()
        .filter(|_| !facts.has(Feature::TokenRows))?;
    Some(Finding::rejects(
        format!(
            "llama.cpp's converter takes matrices A and B only, this adapter has tensor `{key}`"
        ),
        PLAIN,
    ))
}

fn ollama(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    let lone = facts
        .has(Feature::LoneBiases)
        .then(|| Finding::rejects(format!("Ollama {LONE}"), WITHOUT_BIAS));
    let alpha = facts.broken_alpha.map(|alpha| {
        format!("Ollama takes whole numbers for alpha only, this adapter has {alpha}")
    });
    let family = facts
        .architecture
        .filter(|name| !OLLAMA_CONVERTS.contains(name))
        .map(|name| {
            format!(
                "Ollama converts safetensors adapters of the architectures `llama` and `gemma2` \
                only, this base is `{name}`"
            )
        });
    match form {
        Some(ShippedForm::Ollama) => Vec::new(),
        Some(ShippedForm::Gguf | ShippedForm::GgufAdapter) => {
            let words = "Ollama takes a GGUF file through a Modelfile, without whose template and \
                stops an answer does not end";
            vec![Finding::changes(words, TO_OLLAMA).of_form()]
        }
        Some(ShippedForm::Mlx) => unread(
            Consumer::Ollama,
            ShippedForm::Mlx,
            "GGUF files and safetensors adapters in PEFT's format",
            TO_OLLAMA,
        ),
        Some(ShippedForm::Peft) => {
            let scaled = (facts.has(Feature::RsLora) || facts.has(Feature::Patterns)).then(|| {
                "Ollama scales every module by alpha / r, this adapter has `use_rslora` or patterns"
                    .to_owned()
            });
            let stray = facts.stray.as_ref().map(|key| {
                format!("Ollama takes matrices A and B only, this adapter has tensor `{key}`")
            });
            let rejected = [alpha, family, scaled, stray]
                .into_iter()
                .flatten()
                .map(|words| Finding::rejects(words, TO_OLLAMA));
            let words = "Ollama takes an adapter through a Modelfile, without whose template and \
                stops an answer does not end";
            rejected
                .chain([Finding::changes(words, TO_OLLAMA).of_form()])
                .collect()
        }
        None => {
            let alpha =
                alpha.map(|words| Finding::changes(words, "a merged or GGUF export has none"));
            let reads = "Ollama needs a Modelfile with template and stops".to_owned();
            found([
                lone,
                token_rows("Ollama", facts, TO_OLLAMA),
                alpha,
                Some(
                    Finding::changes(
                        family.unwrap_or(reads),
                        "write it with `rankine export --to ollama`",
                    )
                    .of_form(),
                ),
            ])
        }
    }
}

fn lm_studio(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    match form {
        Some(ShippedForm::Gguf | ShippedForm::Ollama) => Vec::new(),
        Some(form) => unread(
            Consumer::LmStudio,
            form,
            "models as GGUF files and takes no adapter",
            TO_GGUF,
        ),
        None => {
            let next = "write a merged model with `rankine export --to gguf`";
            let lone = facts
                .has(Feature::LoneBiases)
                .then(|| Finding::rejects(format!("LM Studio {LONE}"), WITHOUT_BIAS));
            let reads = Finding::changes(
                "LM Studio takes no adapter, only models as GGUF files",
                next,
            );
            found([lone, Some(reads.of_form())])
        }
    }
}

/// Returns PEFT's findings. PEFT only warns of keys that it does not find, and continues with the
/// base.
fn peft(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    if let Some(
        form @ (ShippedForm::Gguf
        | ShippedForm::GgufAdapter
        | ShippedForm::Ollama
        | ShippedForm::Mlx),
    ) = form
    {
        return unread(
            Consumer::Peft,
            form,
            "adapter_config.json and adapter_model.safetensors",
            TO_PEFT,
        );
    }
    let misnamed = facts.misnamed.as_ref().map(|key| {
        let words =
            format!("PEFT finds no module for tensor `{key}`, warns and computes with the base");
        Finding::rejects(words, "names begin with `base_model.model.model.layers.`")
    });
    found([misnamed])
}

fn mlx(facts: &Features, form: Option<ShippedForm>) -> Vec<Finding> {
    match form {
        Some(ShippedForm::Mlx) => Vec::new(),
        Some(form) => unread(
            Consumer::Mlx,
            form,
            "adapters.safetensors and its own adapter_config.json",
            TO_MLX,
        ),
        None => {
            let rows = rejected_rows("mlx-lm", facts, TO_MERGED);
            let stray = facts.stray.as_ref().filter(|_| rows.is_none()).map(|key| {
                Finding::rejects(
                    format!("mlx-lm's format has matrices A and B only, this adapter has `{key}`"),
                    PLAIN,
                )
            });
            let reads = Finding::changes(
                "mlx-lm does not read PEFT's files",
                "write its own with `rankine export --to mlx`",
            );
            found([rows, stray, Some(reads.of_form())])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn vllm_takes_ranks_up_to_the_values_of_its_option() {
        let of = |rank| vllm_rank(rank).map(|finding| (finding.severity, finding.words));
        assert_eq!((of(1), of(16)), (None, None));
        let (severity, words) = of(33).expect("a finding");
        assert!(
            severity == Severity::Changes && words.contains("`--max-lora-rank 64`"),
            "{words}"
        );
        assert_eq!(of(513).expect("a finding").0, Severity::Rejects);
    }

    #[test]
    fn every_form_is_read_by_somebody_as_it_is() {
        let plain = Features {
            rank: 8,
            architecture: Some("llama"),
            ..Features::default()
        };
        for form in [
            ShippedForm::Peft,
            ShippedForm::GgufAdapter,
            ShippedForm::Gguf,
            ShippedForm::Ollama,
            ShippedForm::Mlx,
        ] {
            assert!(
                Consumer::ALL
                    .into_iter()
                    .any(|consumer| findings(consumer, &plain, Some(form)).is_empty()),
                "{form:?}"
            );
        }
        assert_eq!(
            portability(&plain),
            Vec::<String>::new(),
            "plain LoRA is portable"
        );
    }
}
