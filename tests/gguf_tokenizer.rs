//! Tokenizers of GGUF files: those that our export writes have the ids of the `tokenizer.json` they
//! come from, and files that contradict themselves are refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rankine::data::tokenize::Tokenizer;
use rankine::data::tokenizer_gguf::{GgufTokenizer, GgufTokenizerError};
use rankine::export::gguf::{GgmlType, write_gguf_model};
use rankine::fault::{Exit, Explain};
use rankine::files::gguf::Gguf;

/// Texts on which tokenizers differ.
const HARD: [&str; 24] = [
    "",
    " ",
    "  two  spaces   three    four     five",
    "a\n\nb\r\n\r\nc\td\t\te \n \n x",
    "I'm you'RE they'll WE'VE don't d'été it'S",
    "0 1 12 123 1234 12345 1,234.56 3.14e-10 ½ ² Ⅷ ٣٤٥",
    "Grüße straße ÀÉÎ e\u{301}te\u{301} n\u{303} ﬁ",
    "你好，世界。日本語のテキスト ひらがな カタカナ 한국어 텍스트",
    "👨‍👩‍👧‍👦 🙂🩺 🏳️‍🌈 ❤️ 🇨🇭",
    "مرحبا بالعالم שלום नमस्ते สวัสดี",
    "\u{1}\u{7f}\0\u{1b}[31m \u{200b}zero\u{feff}width\u{a0}nbsp",
    "fn main() { println!(\"{:?}\", x[0..n].iter()); } // ->=> ::<>",
    "HTTPServer camelCase snake_case SCREAMING kebab-case",
    "https://example.com/a?b=c&d=%20#e user@host.org",
    "▁ ▁▁a b▁ <0x0A> <0xE2>",
    "<s>text</s> <unk> <pad><bos>x<eos>",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<start_of_turn>model\nyes<end_of_turn> <think>\n</think>",
    "[INST] a [/INST] b <|end|> <|user|>  c",
    "$100 + 5% = ~`^|\\ {[(<>)]} !?.,;:'\"",
    "...  --- *** ///\n    indented\n\tand\n",
    "\u{fffd} \u{10ffff} 𝔘𝔫𝔦 𐍈",
    "the fever sterilizes water in streets",
];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn write(model: &Path, path: &Path) -> bool {
    let interrupt = AtomicBool::new(false);
    write_gguf_model(model, path, GgmlType::F16, &interrupt, &|_| {}).is_ok()
}

/// Reads a tokenizer from a GGUF file, through the files of a folder.
fn described(path: &Path, folder: &Path) -> Result<Tokenizer, GgufTokenizerError> {
    let files = GgufTokenizer::of(&Gguf::open(path).unwrap())?;
    for (name, value) in [
        ("tokenizer.json", files.tokenizer),
        ("tokenizer_config.json", files.config),
        ("generation_config.json", files.generation),
    ] {
        fs::write(folder.join(name), value.to_string()).unwrap();
    }
    Ok(Tokenizer::open(folder).unwrap())
}

fn assert_same(name: &str, own: &Tokenizer, read: &Tokenizer) {
    assert_eq!(own.first_other_token(read), None, "{name}");
    assert_eq!(own.bos_id(), read.bos_id(), "{name}");
    assert_eq!(own.eos_id(), read.eos_id(), "{name}");
    assert_eq!(own.pad_id(), read.pad_id(), "{name}");
    assert_eq!(own.chat_template(), read.chat_template(), "{name}");
    for id in own.eos_ids() {
        assert!(read.eos_ids().contains(id), "{name}: {id}");
    }
    for text in HARD {
        for special in [false, true] {
            let (expected, found) = (own.ids(text, special), read.ids(text, special));
            let (expected, found) = (expected.unwrap(), found.unwrap());
            assert_eq!(expected, found, "{name}: {text:?}");
            assert_eq!(
                own.decode(&expected, false).unwrap(),
                read.decode(&found, false).unwrap(),
                "{name}: {text:?}"
            );
        }
        let (expected, found) = (own.encode(text, true), read.encode(text, true));
        assert_eq!(expected.unwrap(), found.unwrap(), "{name}: {text:?}");
    }
}

#[test]
fn tokenizers_of_our_own_files_have_the_same_ids() {
    let archs = fs::read_dir(golden("tests/golden/archs")).unwrap();
    let mut models: Vec<PathBuf> = archs
        .map(|entry| entry.unwrap().path().join("model"))
        .collect();
    models.push(golden("checkpoints/rankine-tiny"));
    let mut read = 0;
    for model in models {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        if !write(&model, &path) {
            continue;
        }
        let own = Tokenizer::open(&model).unwrap();
        let name = model.display().to_string();
        assert_same(&name, &own, &described(&path, folder.path()).unwrap());
        read += 1;
    }
    assert!(
        read >= 25,
        "{read} of our models were written as GGUF files"
    );
}

/// A value of made-up metadata.
enum Value<'a> {
    Text(&'a str),
    Texts(&'a [&'a str]),
    Kinds(&'a [i32]),
    Scores(&'a [f32]),
    Id(u32),
    Flag(bool),
}

fn file(pairs: &[(&str, Value)]) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    fn list(bytes: &mut Vec<u8>, kind: u32, count: usize) {
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
    }
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut bytes, &format!("tokenizer.{key}"));
        match value {
            Value::Text(words) => {
                bytes.extend(8_u32.to_le_bytes());
                text(&mut bytes, words);
            }
            Value::Texts(texts) => {
                list(&mut bytes, 8, texts.len());
                texts.iter().for_each(|words| text(&mut bytes, words));
            }
            Value::Kinds(kinds) => {
                list(&mut bytes, 5, kinds.len());
                kinds
                    .iter()
                    .for_each(|kind| bytes.extend(kind.to_le_bytes()));
            }
            Value::Scores(scores) => {
                list(&mut bytes, 6, scores.len());
                scores
                    .iter()
                    .for_each(|score| bytes.extend(score.to_le_bytes()));
            }
            Value::Id(id) => {
                bytes.extend(4_u32.to_le_bytes());
                bytes.extend(id.to_le_bytes());
            }
            Value::Flag(flag) => {
                bytes.extend(7_u32.to_le_bytes());
                bytes.push(u8::from(*flag));
            }
        }
    }
    bytes
}

fn read(pairs: &[(&str, Value)]) -> Result<Tokenizer, GgufTokenizerError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made-up.gguf");
    fs::write(&path, file(pairs)).unwrap();
    described(&path, folder.path())
}

const PIECES: [&str; 12] = [
    "<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab", "▁ab", "  ", "",
];
const KINDS: [i32; 12] = [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 4, 5];
const SCORES: [f32; 12] = [
    0.0, 0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -1.0, -2.0, -3.0, 0.0, 0.0,
];

fn pieces<'a>(more: Vec<(&'static str, Value<'a>)>) -> Vec<(&'static str, Value<'a>)> {
    let mut pairs = vec![
        ("ggml.model", Value::Text("llama")),
        ("ggml.tokens", Value::Texts(&PIECES)),
        ("ggml.token_type", Value::Kinds(&KINDS)),
        ("ggml.scores", Value::Scores(&SCORES)),
    ];
    for (key, value) in more {
        pairs.retain(|(known, _)| *known != key);
        pairs.push((key, value));
    }
    pairs
}

/// What a file does not say is as in llama.cpp: BOS 1 before a text, and a space.
#[test]
fn scores_say_what_is_merged_first() {
    let tokenizer = read(&pieces(Vec::new())).unwrap();
    let ids = |text: &str| tokenizer.ids(text, true).unwrap();
    assert_eq!(ids("ab"), [1, 9], "▁a, then ▁ab");
    assert_eq!(ids("bab"), [1, 4, 6, 8]);
    assert_eq!(ids("a\n"), [1, 7, 3], "a byte");
    assert_eq!(ids("b  b"), [1, 4, 6, 10, 6], "a run of spaces");
    assert_eq!(ids("c"), [1, 4, 0], "unknown");
    assert_eq!(tokenizer.decode(&[7, 10, 5], true).unwrap(), "a  a");
    let bare = read(&pieces(vec![
        ("ggml.add_space_prefix", Value::Flag(false)),
        ("ggml.add_bos_token", Value::Flag(false)),
        ("ggml.add_eos_token", Value::Flag(true)),
    ]));
    assert_eq!(bare.unwrap().ids("ab", true).unwrap(), [8, 2]);
}

/// Gemma 4 has merges in place of scores.
#[test]
fn merges_of_pieces_are_read() {
    let pairs = pieces(vec![
        ("ggml.model", Value::Text("gemma4")),
        ("ggml.merges", Value::Texts(&["a b", "▁ a", "▁ ab"])),
        ("ggml.bos_token_id", Value::Id(1)),
    ]);
    let tokenizer = read(&pairs).unwrap();
    assert_eq!(tokenizer.ids(" ab a\n", true).unwrap(), [1, 9, 7, 3]);
}

#[test]
fn named_templates_are_read() {
    let tokenizer = read(&pieces(vec![
        ("chat_template", Value::Text("plain")),
        ("chat_templates", Value::Texts(&["tool_use"])),
        ("chat_template.tool_use", Value::Text("tools")),
    ]));
    let tokenizer = tokenizer.unwrap();
    assert_eq!(tokenizer.chat_template(), Some("plain"));
    assert_eq!(tokenizer.chat_templates().get("tool_use"), Some("tools"));
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_refused() {
    let long = ["<unk>", "<s>", "</s>", &"x".repeat(600)];
    let cases: Vec<(Vec<(&str, Value)>, &str)> = vec![
        (Vec::new(), "`tokenizer.ggml.model` is missing"),
        (
            pieces(vec![("ggml.model", Value::Text("bert"))]),
            "`tokenizer.ggml.model` is `bert`, which is not read from GGUF files",
        ),
        (
            pieces(vec![("ggml.model", Value::Text("t5"))]),
            "`tokenizer.ggml.model` is `t5`, which is not read",
        ),
        (
            pieces(vec![
                ("ggml.model", Value::Text("gpt2")),
                ("ggml.pre", Value::Text("kimi-k2")),
            ]),
            "`tokenizer.ggml.pre` is `kimi-k2`, which is not read",
        ),
        (
            pieces(vec![("ggml.model", Value::Text("gpt2"))]),
            "`tokenizer.ggml.pre` is missing",
        ),
        (
            pieces(vec![
                ("ggml.model", Value::Text("gpt2")),
                ("ggml.pre", Value::Text("qwen2")),
            ]),
            "`tokenizer.ggml.merges` is missing",
        ),
        (
            pieces(vec![
                ("ggml.model", Value::Text("gpt2")),
                ("ggml.pre", Value::Text("qwen2")),
                ("ggml.merges", Value::Texts(&["a b", "ab"])),
            ]),
            "`tokenizer.ggml.merges` has `ab`, expected two pieces with a space between",
        ),
        (
            pieces(vec![("ggml.scores", Value::Scores(&SCORES[..3]))]),
            "`tokenizer.ggml.scores` has 3 items, expected one for each of 12 tokens",
        ),
        (
            pieces(vec![("ggml.token_type", Value::Kinds(&KINDS[..5]))]),
            "`tokenizer.ggml.token_type` has 5 items, expected one for each of 12 tokens",
        ),
        (
            pieces(vec![("ggml.token_type", Value::Kinds(&[9; 12]))]),
            "`tokenizer.ggml.token_type` is 9 for token 0, expected 1 to 6",
        ),
        (
            pieces(vec![("ggml.tokens", Value::Texts(&["a"; 12]))]),
            "tokens 0 and 1 are both `a`, expected two",
        ),
        (
            pieces(vec![("ggml.eos_token_id", Value::Id(12))]),
            "`tokenizer.ggml.eos_token_id` is 12, expected the id of one of 12 tokens",
        ),
        (
            pieces(vec![("ggml.add_sep_token", Value::Flag(true))]),
            "`tokenizer.ggml.add_sep_token` is true, expected false",
        ),
        (
            pieces(vec![
                ("ggml.tokens", Value::Texts(&long)),
                ("ggml.token_type", Value::Kinds(&[2, 3, 3, 1])),
                ("ggml.scores", Value::Scores(&SCORES[..4])),
            ]),
            "one of its pieces has 600 bytes, expected at most 512",
        ),
        (
            pieces(vec![
                ("ggml.model", Value::Text("gemma4")),
                ("ggml.merges", Value::Texts(&[])),
            ]),
            "`tokenizer.ggml.bos_token_id` is missing",
        ),
    ];
    for (pairs, said) in cases {
        let error = read(&pairs).unwrap_err();
        assert!(error.to_string().contains(said), "{error}, expected {said}");
        assert!(error.to_string().contains("made-up.gguf"), "{error}");
        assert_eq!(error.exit(), Exit::Input);
        assert!(error.hint().is_some(), "{error}");
    }
}
