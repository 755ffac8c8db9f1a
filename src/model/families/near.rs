//! Models of families that are not known, with what they have that none of the known ones has, and
//! the known ones that are nearest.

use super::list;

/// A `model_type`, the model's name, what it has, and the nearest known families.
type Unknown = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const UNKNOWN: [Unknown; 8] = [
    ("gemma3n", GEMMA_3N, ALTERNATING, &["gemma4", "gemma3"]),
    (
        "gemma3n_text",
        GEMMA_3N,
        ALTERNATING,
        &["gemma4_text", "gemma3_text"],
    ),
    ("llama4", LLAMA_4, CHUNKED, &["llama", "mixtral"]),
    ("llama4_text", LLAMA_4, CHUNKED, &["llama", "mixtral"]),
    (
        "mistral4",
        "Mistral Small 4",
        LATENT,
        &["deepseek_v3", "mistral"],
    ),
    ("mistral_large4", LARGE_4, SPARSE, &["deepseek_v3"]),
    ("mistral_large4_text", LARGE_4, SPARSE, &["deepseek_v3"]),
    (
        "recurrent_gemma",
        "RecurrentGemma",
        "a gated linear recurrence",
        &["gemma2", "gemma"],
    ),
];
const GEMMA_3N: &str = "Gemma 3n";
const ALTERNATING: &str = "alternating updates of several streams and low-rank residuals";
const LLAMA_4: &str = "Llama 4";
const CHUNKED: &str = "attention within chunks and experts whose inputs are weighted";
const LATENT: &str = "latent attention with queries scaled by position";
const LARGE_4: &str = "Mistral Large 4";
const SPARSE: &str = "latent attention that looks at chosen tokens only";
/// The fewest letters that names of related families begin with.
const ALIKE: usize = 4;

/// Returns what a family has and what is near, for a hint; `None` where nothing is.
pub(super) fn hint(family: &str, known: &[&str]) -> Option<String> {
    if let Some((_, name, has, nearest)) = UNKNOWN.iter().find(|(of, ..)| *of == family) {
        return Some(format!(
            "{name} has {has}, which is not built; the nearest known are {}",
            list(nearest)
        ));
    }
    let alike = |known: &str| {
        let pairs = known.chars().zip(family.chars());
        pairs.take_while(|(left, right)| left == right).count()
    };
    let most = known.iter().map(|known| alike(known)).max()?;
    let nearest: Vec<&str> = known
        .iter()
        .copied()
        .filter(|known| most >= ALIKE && alike(known) == most)
        .collect();
    (!nearest.is_empty()).then(|| format!("the nearest known by name are {}", list(&nearest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_named() {
        let known = ["gemma3_text", "llama", "qwen2", "qwen3"];
        let said = hint("gemma3n", &known).expect("it is listed");
        assert_eq!(
            said,
            "Gemma 3n has alternating updates of several streams and low-rank residuals, which is \
            not built; the nearest known are `gemma4`, `gemma3`"
        );
        assert_eq!(
            hint("qwen3_next", &known).as_deref(),
            Some("the nearest known by name are `qwen3`")
        );
        assert_eq!(
            hint("qwen9", &known).as_deref(),
            Some("the nearest known by name are `qwen2`, `qwen3`")
        );
        assert_eq!(hint("bloom", &known), None);
    }
}
