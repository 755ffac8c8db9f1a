//! A tokenizer under llama.cpp's keys. llama.cpp has its own code to split a text, chosen by name.
//! A tokenizer that splits differently from all of them is refused, because the model would read
//! other tokens than in training.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use super::GgufError;
use crate::data::tokenize::{ENDS_OF_TURNS, Tokenizer};
use crate::data::tokenizer_gguf::{LLAMA3, QWEN2, TokenKind, filler};
use crate::files::read_text_up_to;
use crate::model::gguf::Value;

/// The largest size of a tokenizer file.
const TOKENIZER_BYTES: u64 = 64 << 20;

/// How llama.cpp splits a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Splitting {
    /// Byte-level, split by the pre-tokenizer of this name.
    Bytes(&'static str),
    /// `SentencePiece`, with or without a space before the text.
    Pieces { adds_blank: bool },
}

/// Returns every key and value of the tokenizer in a model's folder, for an embedding of `rows`
/// rows.
pub(super) fn vocabulary(folder: &Path, rows: usize) -> Result<Vec<(String, Value)>, GgufError> {
    let tokenizer = Tokenizer::open(folder)?;
    let path = folder.join("tokenizer.json");
    let other = |reason: &str| GgufError::Tokenizer {
        path: path.clone(),
        reason: reason.to_owned(),
    };
    let file: Json = serde_json::from_str(&read_text_up_to(&path, TOKENIZER_BYTES)?)
        .map_err(|error| other(&error.to_string()))?;
    let splitting = splitting(&file).map_err(|reason| other(&reason))?;
    let (tokens, kinds) = tokens(&file, &tokenizer.added_tokens(), rows, splitting)
        .map_err(|reason| other(&reason))?;
    let pair = |key: &str, value: Value| (format!("tokenizer.{key}"), value);
    let mut pairs = Vec::new();
    match splitting {
        Splitting::Bytes(name) => {
            pairs.push(pair("ggml.model", Value::Text("gpt2".to_owned())));
            pairs.push(pair("ggml.pre", Value::Text(name.to_owned())));
            pairs.push(pair(
                "ggml.merges",
                Value::Texts(
                    merges(&file)
                        .into_iter()
                        .map(|pair| pair.join(" "))
                        .collect(),
                ),
            ));
        }
        Splitting::Pieces { adds_blank } => {
            pairs.push(pair("ggml.model", Value::Text("llama".to_owned())));
            pairs.push(pair("ggml.pre", Value::Text("default".to_owned())));
            pairs.push(pair(
                "ggml.scores",
                Value::F32s(scores(&merges(&file), &tokens)),
            ));
            pairs.push(pair("ggml.add_space_prefix", Value::Bool(adds_blank)));
        }
    }
    pairs.push(pair("ggml.tokens", Value::Texts(tokens)));
    pairs.push(pair(
        "ggml.token_type",
        Value::I32s(kinds.into_iter().map(|kind| kind as i32).collect()),
    ));
    pairs.extend(
        special(&tokenizer)?
            .into_iter()
            .map(|(key, value)| pair(key, value)),
    );
    Ok(pairs)
}

/// Returns the bos, eos and padding tokens, whether they are added to a text, and the chat
/// template.
fn special(tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Value)>, GgufError> {
    let words = tokenizer.special();
    let id = |word: &Option<String>| {
        word.as_deref()
            .and_then(|word| tokenizer.token_to_id(word))
            .map(Value::U32)
    };
    let ids = tokenizer.encode("a", true)?.ids;
    let begins = tokenizer.bos_id().is_some() && ids.first().copied() == tokenizer.bos_id();
    let ends = ids
        .last()
        .is_some_and(|last| tokenizer.eos_ids().contains(last));
    // Ends of a turn by their known names llama.cpp finds itself.
    let is_known = |id: &u32| {
        ENDS_OF_TURNS
            .iter()
            .any(|known| tokenizer.token_to_id(known) == Some(*id))
    };
    let mut further = tokenizer
        .eos_ids()
        .iter()
        .copied()
        .skip(1)
        .filter(|id| !is_known(id));
    let found = [
        ("ggml.bos_token_id", id(&words.bos)),
        ("ggml.eos_token_id", tokenizer.eos_id().map(Value::U32)),
        ("ggml.eot_token_id", further.next().map(Value::U32)),
        ("ggml.eom_token_id", further.next().map(Value::U32)),
        ("ggml.padding_token_id", id(&words.pad)),
        ("ggml.unknown_token_id", id(&words.unk)),
        ("ggml.add_bos_token", Some(Value::Bool(begins))),
        ("ggml.add_eos_token", Some(Value::Bool(ends))),
        (
            "chat_template",
            tokenizer
                .chat_template()
                .map(|template| Value::Text(template.to_owned())),
        ),
    ];
    Ok(found
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect())
}

/// Finds llama.cpp's way of splitting that equals this tokenizer's.
fn splitting(file: &Json) -> Result<Splitting, String> {
    let (model, cutter, normalizer) = (&file["model"], &file["pre_tokenizer"], &file["normalizer"]);
    if model["type"] != "BPE" {
        return Err(format!("its model is {}, expected \"BPE\"", model["type"]));
    }
    if model["byte_fallback"] == true {
        return pieces(normalizer, cutter).map(|adds_blank| Splitting::Pieces { adds_blank });
    }
    if !normalizer.is_null() && normalizer["type"] != "NFC" {
        return Err(format!(
            "its normalizer is {}, expected none or NFC",
            normalizer["type"]
        ));
    }
    let name = bytes(cutter).ok_or(
        "its pre_tokenizer is none that llama.cpp has: those of GPT-2, Llama 3, Qwen 2 and SmolLM",
    )?;
    match (name, model["ignore_merges"] == true) {
        // The same words, which are merged step by step there.
        ("llama-bpe", false) => Ok(Splitting::Bytes("dbrx")),
        ("llama-bpe", true) | (_, false) => Ok(Splitting::Bytes(name)),
        (_, true) => Err(format!(
            "`ignore_merges` is true, which it is not in llama.cpp's `{name}`"
        )),
    }
}

fn bytes(cutter: &Json) -> Option<&'static str> {
    let is_bytes = |part: &Json, uses_regex: bool| {
        part["type"] == "ByteLevel"
            && part["use_regex"].as_bool().unwrap_or(true) == uses_regex
            && part["add_prefix_space"] == false
    };
    if is_bytes(cutter, true) {
        return Some("gpt-2");
    }
    let [first, second] = cutter["pretokenizers"].as_array()?.as_slice() else {
        return None;
    };
    if first["type"] == "Digits" && first["individual_digits"] == true && is_bytes(second, true) {
        return Some("smollm");
    }
    let is_split =
        first["type"] == "Split" && first["behavior"] == "Isolated" && first["invert"] == false;
    match first["pattern"]["Regex"]
        .as_str()
        .filter(|_| is_split && is_bytes(second, false))?
    {
        LLAMA3 => Some("llama-bpe"),
        QWEN2 => Some("qwen2"),
        _ => None,
    }
}

/// Returns whether a `SentencePiece` tokenizer puts a space before a text; spaces are `▁` in it.
fn pieces(normalizer: &Json, cutter: &Json) -> Result<bool, String> {
    let replaces = |part: &Json| {
        part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁"
    };
    let parts = normalizer["normalizers"].as_array().map(Vec::as_slice);
    // At blanks there is nothing to cut once they are replaced.
    let cuts_blanks = cutter["type"] == "Split" && cutter["pattern"]["String"] == " ";
    match (parts, cutter["type"].as_str().filter(|_| !cuts_blanks)) {
        (Some([first, second]), None)
            if first["type"] == "Prepend" && first["prepend"] == "▁" && replaces(second) =>
        {
            Ok(true)
        }
        (Some([only]), None) if replaces(only) => Ok(false),
        (None, None) if replaces(normalizer) => Ok(false),
        (None, Some("Metaspace")) if normalizer.is_null() && cutter["split"] == false => {
            Ok(cutter["prepend_scheme"] != "never")
        }
        _ => Err(
            "its normalizer and pre_tokenizer are not those of a SentencePiece tokenizer"
                .to_owned(),
        ),
    }
}

/// Returns text and type of every id. Ids without a token are filled like in llama.cpp's converter.
fn tokens(
    file: &Json,
    added: &[(u32, String, bool)],
    rows: usize,
    splitting: Splitting,
) -> Result<(Vec<String>, Vec<TokenKind>), String> {
    let mut texts: Vec<String> = (0..rows).map(filler).collect();
    let mut kinds = vec![TokenKind::Unused; rows];
    let mut put = |id: Option<u64>, text: &str, kind: TokenKind| match id
        .and_then(|id| usize::try_from(id).ok())
        .filter(|id| *id < rows)
    {
        Some(id) => {
            (texts[id], kinds[id]) = (text.to_owned(), kind);
            Ok(())
        }
        None => Err(format!(
            "token `{text}` has no row in the embedding, which has {rows}"
        )),
    };
    let is_pieces = matches!(splitting, Splitting::Pieces { .. });
    let is_byte = |text: &str| is_pieces && text.starts_with("<0x") && text.len() == 6;
    for (text, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        put(
            id.as_u64(),
            text,
            if is_byte(text) {
                TokenKind::Byte
            } else {
                TokenKind::Normal
            },
        )?;
    }
    for (id, text, is_special) in added {
        let kind = match (file["model"]["unk_token"] == *text, is_special) {
            (true, _) => TokenKind::Unknown,
            (_, true) => TokenKind::Control,
            _ => TokenKind::UserDefined,
        };
        // Runs of blanks, which llama.cpp looks for in the text as it is and writes as they are.
        let text = if is_pieces && kind == TokenKind::UserDefined {
            text.replace('▁', " ")
        } else {
            text.to_owned()
        };
        put(Some(u64::from(*id)), &text, kind)?;
    }
    Ok((texts, kinds))
}

/// Returns the merges, in order.
fn merges(file: &Json) -> Vec<[&str; 2]> {
    let merges = file["model"]["merges"].as_array().into_iter().flatten();
    merges.filter_map(split_merge).collect()
}

/// Splits a merge, which is a text with a space in it, or a list of two.
fn split_merge(merge: &Json) -> Option<[&str; 2]> {
    match merge.as_str() {
        Some(text) => text.split_once(' ').map(|(left, right)| [left, right]),
        None => Some([merge[0].as_str()?, merge[1].as_str()?]),
    }
}

/// Returns scores in the order of merges, since `SentencePiece` merges the highest score first.
fn scores(merges: &[[&str; 2]], tokens: &[String]) -> Vec<f32> {
    let ranks: HashMap<String, usize> = merges
        .iter()
        .enumerate()
        .rev()
        .map(|(rank, pair)| (pair.concat(), rank))
        .collect();
    tokens
        .iter()
        .map(|token| -(ranks.get(token).copied().unwrap_or(merges.len()) as f32))
        .collect()
}
