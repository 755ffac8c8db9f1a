//! llama.cpp's pre-tokenizers by name (`llama-vocab.cpp`), as steps of a `tokenizer.json`.

use serde_json::{Value, json};

/// Words of Llama 3: digits in threes.
pub const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of Qwen 2: digits one by one.
pub const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of Qwen 3.5: marks belong to their letters.
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of GPT-4o: a word begins anew at a capital letter.
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of Mistral's Tekken: as those of GPT-4o, without contractions, digits one by one.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of Ling and `LLaDA`.
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);
/// Words of Seed-Coder: line ends do not belong to punctuation.
const SEED_CODER: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|",
    r" ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Words of EXAONE's mixtures of experts, which span spaces.
const EXAONE_MOE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|",
    r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
);
/// Words of `MiniCPM` 5, after its digits.
const MINICPM5: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const JAIS2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|",
    r"\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
);
/// Digits in threes from the right.
const DIGITS_FROM_RIGHT: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
/// Cased letters that `DeepSeek` LLM takes as words.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ",
    r"Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ",
    r"Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
);
/// Han characters, Hangul and what lies between them, of the first models of `DeepSeek`.
const DEEPSEEK_HAN: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
/// Words of `DeepSeek` V3, after digits in threes and runs of Han and kana.
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|",
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// A step that cuts the pieces of the step before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Matches of an expression, and what lies between them.
    Matches(&'static str),
    /// Digits, one by one or in runs.
    Digits { each: bool },
    /// Runs of punctuation.
    Punctuation,
    /// GPT-2's words, in its alphabet of bytes.
    Gpt2,
}

/// How a text is cut before pairs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    steps: &'static [Step],
    /// The base's own tokenizer brings a text into normal form C.
    normalizes: bool,
    /// A word that is a token is not put together from pairs.
    pub ignores_merges: bool,
    /// BOS begins a text where the file does not say.
    pub adds_bos: bool,
}

impl PreTokenizer {
    const fn new(steps: &'static [Step]) -> Self {
        Self {
            steps,
            normalizes: false,
            ignores_merges: false,
            adds_bos: false,
        }
    }

    const fn normalizing(self) -> Self {
        Self {
            normalizes: true,
            ..self
        }
    }

    const fn whole_words(self, adds_bos: bool) -> Self {
        Self {
            ignores_merges: true,
            adds_bos,
            ..self
        }
    }

    /// Returns the pre-tokenizer of a name.
    pub fn named(name: &str) -> Option<Self> {
        use Step::{Digits, Gpt2, Matches, Punctuation};
        Some(match name {
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" => Self::new(&[Matches(LLAMA3)]).whole_words(true),
            "dbrx" | "smaug-bpe" | "glm4" | "chatglm-bpe" => Self::new(&[Matches(LLAMA3)]),
            "qwen2" | "stablelm2" | "megrez" | "kormo" => {
                Self::new(&[Matches(QWEN2)]).normalizing()
            }
            "deepseek-r1-qwen" | "hunyuan" | "solar-open" | "grok-2" => {
                Self::new(&[Matches(QWEN2)])
            }
            "qwen35" => Self::new(&[Matches(QWEN35)]).normalizing(),
            "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "jais" | "trillion"
            | "granite-docling" | "exaone4" => Self::new(&[Gpt2]),
            "olmo" | "mpt" => Self::new(&[Gpt2]).normalizing(),
            "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b"
            | "mellum2" => Self::new(&[Digits { each: true }, Gpt2]),
            "command-r" => Self::new(&[Digits { each: true }, Gpt2]).normalizing(),
            "falcon" => Self::new(&[
                Punctuation,
                Gpt2,
                Digits { each: false },
                Matches("[0-9][0-9][0-9]"),
            ]),
            "tekken" => Self::new(&[Matches(TEKKEN)]).whole_words(true),
            "gpt-4o" | "llama4" | "kanana2" | "minimax-m2" => Self::new(&[Matches(GPT4O)]),
            "tiny_aya" => Self::new(&[Matches(DIGITS_FROM_RIGHT), Matches(GPT4O)]),
            "deepseek-llm" => Self::new(&[
                Matches(r"[\r\n]"),
                Matches(DEEPSEEK_LETTERS),
                Matches(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                Matches(r"\s+$"),
                Matches(DEEPSEEK_HAN),
                Matches(r"\p{N}+"),
            ]),
            "deepseek-coder" => Self::new(&[
                Matches(r"[\r\n]"),
                Matches(r"\s?\p{L}+"),
                Matches(r"\s?\p{P}+"),
                Matches(DEEPSEEK_HAN),
                Matches(r"\p{N}"),
            ]),
            "deepseek-v3" | "hunyuan-dense" => Self::new(&[
                Matches(r"\p{N}{1,3}"),
                Matches("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                Matches(DEEPSEEK3),
            ]),
            "bailingmoe" | "bailingmoe2" | "llada-moe" => Self::new(&[Matches(BAILING)]),
            "seed-coder" => Self::new(&[Matches(SEED_CODER)]),
            "exaone-moe" => Self::new(&[Matches(EXAONE_MOE)]),
            "minicpm5" => {
                Self::new(&[Matches(r"\p{N}{1,3}"), Matches(MINICPM5)]).whole_words(false)
            }
            "jais-2" => Self::new(&[Matches(JAIS2)]),
            _ => return None,
        })
    }

    /// Returns the `normalizer` of a `tokenizer.json`.
    pub fn normalizer(self) -> Value {
        if self.normalizes {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }

    /// Returns the `pre_tokenizer` of a `tokenizer.json`, which ends in GPT-2's alphabet of bytes.
    pub fn json(self) -> Value {
        let bytes = |cuts: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": cuts,
            })
        };
        let step = |step: &Step| match step {
            Step::Matches(expression) => json!({
                "type": "Split",
                "pattern": {"Regex": expression},
                "behavior": "Isolated",
                "invert": false,
            }),
            Step::Digits { each } => json!({"type": "Digits", "individual_digits": each}),
            Step::Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Step::Gpt2 => bytes(true),
        };
        let mut steps: Vec<Value> = self.steps.iter().map(step).collect();
        if !self.steps.contains(&Step::Gpt2) {
            steps.push(bytes(false));
        }
        match steps.len() {
            1 => steps.remove(0),
            _ => json!({"type": "Sequence", "pretokenizers": steps}),
        }
    }
}
