//! Limits on a `tokenizer.json`, checked before the tokenizers crate builds it: a small file can
//! make the crate fill the memory, at once or at the first text.
//!
//! Real files stay far below each limit. The largest in use has two million values and takes half a
//! GiB to build.

use serde::Deserialize;
use serde_json::Value;

/// Maximum number of keys, values and lists. The crate takes up to 250 bytes for each while it
/// builds.
const MAX_VALUES: usize = 3_500_000;
/// Maximum bytes of text in the added tokens. The automaton that finds them takes 70 times as much.
const MAX_ADDED_BYTES: usize = 4 << 20;
/// Maximum bytes of all regular expressions and replacements.
const MAX_STEP_BYTES: usize = 256 << 10;
/// Maximum factor by which the steps may lengthen a text. Compatibility forms of Unicode take 18.
const MAX_GROWTH: f64 = 300.0;
/// Maximum number of pieces put around a text, and of ids in each.
const MAX_PIECES: usize = 64;

#[derive(Deserialize)]
struct VocabularyParts {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

/// Checks a `tokenizer.json` against the limits.
///
/// # Errors
/// The limit that is exceeded, with both values, or the reason why it is not JSON.
pub(super) fn vet(source: &str) -> Result<(), String> {
    limit("values", count_values(source) as f64, MAX_VALUES as f64)?;
    let parts: VocabularyParts = serde_json::from_str(source).map_err(|error| error.to_string())?;
    let added: usize = parts
        .added_tokens
        .iter()
        .map(|token| token.content.len())
        .sum();
    limit(
        "bytes of added tokens",
        added as f64,
        MAX_ADDED_BYTES as f64,
    )?;
    let encoding = Value::Array(vec![
        parts.normalizer,
        parts.pre_tokenizer,
        parts.post_processor,
    ]);
    for steps in [encoding, parts.decoder] {
        limit(
            "bytes of patterns",
            text_bytes(&steps) as f64,
            MAX_STEP_BYTES as f64,
        )?;
        limit(
            "pieces around a text",
            most_pieces(&steps) as f64,
            MAX_PIECES as f64,
        )?;
        limit("times the length of a text", growth(&steps), MAX_GROWTH)?;
    }
    Ok(())
}

fn limit(what: &str, found: f64, most: f64) -> Result<(), String> {
    if found > most {
        Err(format!(
            "it asks for {found} {what}, expected at most {most}"
        ))
    } else {
        Ok(())
    }
}

/// Counts the values and keys of a JSON text, by the punctuation outside its strings.
fn count_values(source: &str) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (0, false, false);
    for byte in source.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// Returns the values directly inside a value.
fn inside(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(entries) => Box::new(entries.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// Returns the bytes of text in all steps. A table of characters is data, and counts by how much it
/// lengthens a text.
fn text_bytes(value: &Value) -> usize {
    let own = value.as_str().map_or(0, str::len);
    let table = value["precompiled_charsmap"].as_str().map_or(0, str::len);
    own + inside(value).map(text_bytes).sum::<usize>() - table
}

/// Returns the length of the longest list of pieces or ids that a post-processor puts around a
/// text.
fn most_pieces(value: &Value) -> usize {
    let length = |key: &str| value[key].as_array().map_or(0, Vec::len);
    let own = ["single", "pair", "ids", "tokens"]
        .map(length)
        .into_iter()
        .max()
        .unwrap_or(0);
    inside(value).map(most_pieces).fold(own, usize::max)
}

/// Returns the factor by which the steps in a value, applied in sequence, lengthen a text.
fn growth(value: &Value) -> f64 {
    let own = match (value["content"].as_str(), &value["pattern"]) {
        // An expression may match nothing, and then puts its content between any two characters.
        (Some(content), pattern @ Value::Object(_)) => {
            let matched = pattern["String"].as_str().map_or(0, str::len);
            if matched == 0 {
                content.len() as f64 + 1.0
            } else {
                content.len() as f64 / matched as f64
            }
        }
        _ => 1.0,
    };
    let table = value["precompiled_charsmap"]
        .as_str()
        .map_or(1.0, table_growth);
    let pieces = value["single"].as_array().map_or(0, |pieces| {
        pieces.iter().filter(|it| !it["Sequence"].is_null()).count()
    });
    own.max(1.0) * table * (pieces as f64).max(1.0) * inside(value).map(growth).product::<f64>()
}

/// Returns the growth factor of a sentencepiece table in base64: its replacements end with NUL, and
/// the longest stands for at least one character.
fn table_growth(base64: &str) -> f64 {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let sextets: Vec<u8> = base64.bytes().filter_map(sextet).collect();
    let whole = sextets.chunks(4).flat_map(|four| {
        let bits = four
            .iter()
            .fold(0u32, |bits, sextet| bits << 6 | u32::from(*sextet));
        let bits = bits << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..].to_vec()
    });
    let bytes: Vec<u8> = whole.collect();
    let trie = bytes
        .first_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let replacements = bytes
        .get(4 + trie..)
        .unwrap_or_default()
        .split(|byte| *byte == 0);
    replacements
        .map(|text| text.len() as f64)
        .fold(1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(steps: &Value) -> String {
        vet(&steps.to_string()).err().unwrap_or_default()
    }

    #[test]
    fn a_text_grows_by_each_step_in_turn() {
        let step = |from: &str, to: &str| {
            let pattern = json!({"String": from});
            json!({"type": "Replace", "pattern": pattern, "content": to})
        };
        let normalizer =
            |steps: Vec<Value>| json!({"normalizer": {"type": "Sequence", "normalizers": steps}});
        assert_eq!(
            verdict(&normalizer(vec![
                step(" ", "▁"),
                step("``", "\""),
                step("▁", " ")
            ])),
            ""
        );
        assert_eq!(
            verdict(&normalizer(vec![step("a", "aa"); 9])),
            "it asks for 512 times the length of a text, expected at most 300"
        );
        let between =
            json!({"normalizer": {"pattern": {"Regex": "x*"}, "content": "y".repeat(300)}});
        assert!(verdict(&between).starts_with("it asks for 301 times the length"));
    }

    #[test]
    fn a_table_grows_a_text_by_its_longest_replacement() {
        // A trie of four bytes, then `ab`, NUL, `c`, NUL.
        let table = "BAAAAAAAAABhYgBjAA==";
        assert!((table_growth(table) - 2.0).abs() < 1e-9);
        let step = json!({"precompiled_charsmap": table});
        let twice = json!({"normalizer": [step, step]});
        assert!((growth(&twice) - 4.0).abs() < 1e-9);
        assert_eq!(text_bytes(&twice), 0);
    }

    #[test]
    fn pieces_repeat_a_text_and_are_counted() {
        let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
        let pieces = |count| json!({"post_processor": {"single": vec![piece.clone(); count]}});
        assert_eq!(verdict(&pieces(64)), "");
        assert_eq!(
            verdict(&pieces(65)),
            "it asks for 65 pieces around a text, expected at most 64"
        );
        let processors = vec![pieces(18)["post_processor"].clone(); 2];
        let twice = json!({"post_processor": {"processors": processors}});
        assert!(verdict(&twice).starts_with("it asks for 324 times the length"));
    }

    #[test]
    fn text_and_values_are_counted_outside_of_strings() {
        assert_eq!(count_values(r#"{"a,\":[": [1, "\\", {}], "b": ""}"#), 8);
        let added = json!({"added_tokens": vec![json!({"content": "x".repeat(1 << 20)}); 5]});
        assert!(verdict(&added).starts_with("it asks for 5242880 bytes of added tokens"));
        let patterns = json!({"pre_tokenizer": {"pattern": {"Regex": "x".repeat(300 << 10)}}});
        assert!(verdict(&patterns).starts_with("it asks for 307200 bytes of patterns"));
        assert!(vet(&"[".repeat(4_000_000)).is_err());
        assert!(
            vet("{\"normalizer\": null, \"normalizer\": null}").is_err(),
            "the last one would be vetted, the first be used"
        );
    }
}
