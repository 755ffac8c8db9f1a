//! Tests that the schema and the reader agree on the broken recipes of the tests, the shipped
//! recipes, and values of many kinds for every key.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::schema::{Key, known};
use super::tests::{BROKEN, NEEDED};
use super::tree::{Node, NodeValue};
use super::*;

/// Validates a value against a JSON Schema, for the keywords that the recipe's schema uses. Any
/// other keyword fails the test.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let Value::Object(words) = schema else {
        return schema == &json!(true);
    };
    words.iter().all(|(word, says)| match word.as_str() {
        "$schema" | "$id" | "title" | "description" | "default" => true,
        "type" => has_type(says, value),
        "enum" => says
            .as_array()
            .is_some_and(|choices| choices.contains(value)),
        "anyOf" => says
            .as_array()
            .is_some_and(|choices| choices.iter().any(|choice| is_valid(choice, value))),
        "minimum" => value
            .as_f64()
            .is_none_or(|number| number >= says.as_f64().unwrap_or_default()),
        "maximum" => value
            .as_f64()
            .is_none_or(|number| number <= says.as_f64().unwrap_or_default()),
        "exclusiveMinimum" => value
            .as_f64()
            .is_none_or(|number| number > says.as_f64().unwrap_or_default()),
        "exclusiveMaximum" => value
            .as_f64()
            .is_none_or(|number| number < says.as_f64().unwrap_or_default()),
        "minLength" => value
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 >= says.as_u64().unwrap_or_default()),
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() as u64 >= says.as_u64().unwrap_or_default()),
        "not" => !is_valid(says, value),
        "propertyNames" => value
            .as_object()
            .is_none_or(|object| object.keys().all(|key| is_valid(says, &json!(key)))),
        "pattern" => {
            let pattern = Regex::new(says.as_str().unwrap_or_default()).expect("a pattern");
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| is_valid(says, item))),
        "required" => value.as_object().is_none_or(|object| {
            says.as_array()
                .into_iter()
                .flatten()
                .all(|key| object.contains_key(key.as_str().unwrap_or_default()))
        }),
        "properties" => value.as_object().is_none_or(|object| {
            object
                .iter()
                .all(|(key, value)| says.get(key).is_none_or(|schema| is_valid(schema, value)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let named = words.get("properties").and_then(Value::as_object);
            let others = object
                .iter()
                .filter(|(key, _)| named.is_none_or(|named| !named.contains_key(*key)));
            others.into_iter().all(|(_, value)| {
                if says == &json!(false) {
                    false
                } else {
                    is_valid(says, value)
                }
            })
        }),
        other => panic!("`{other}` is not known"),
    })
}

fn has_type(says: &Value, value: &Value) -> bool {
    if let Value::Array(choices) = says {
        return choices.iter().any(|choice| has_type(choice, value));
    }
    match says.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type `{other}`"),
    }
}

/// Returns a tree as YAML 1.2 reads it, which is what editors do.
fn to_json(node: &Node) -> Value {
    let is_number =
        Regex::new(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$").expect("a pattern");
    match &node.kind {
        NodeValue::Scalar {
            text, plain: true, ..
        } => match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => json!(true),
            "false" | "False" | "FALSE" => json!(false),
            text if is_number.is_match(text) => text
                .parse::<i64>()
                .map(|number| json!(number))
                .or_else(|_| text.parse::<f64>().map(|number| json!(number)))
                .unwrap_or_default(),
            text => json!(text),
        },
        NodeValue::Scalar { text, .. } => json!(text),
        NodeValue::List(nodes) => nodes.iter().map(to_json).collect(),
        NodeValue::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, entry)| (key.clone(), to_json(&entry.value)))
                .collect::<Map<_, _>>(),
        ),
        NodeValue::Refused => Value::Null,
    }
}

/// Returns whether the schema accepts a text; `None` if it is not YAML of a recipe.
fn judged(text: &str) -> Option<bool> {
    let notes = Notes::default();
    let tree = source::tree(Path::new("x.yaml"), text.as_bytes(), &notes)?;
    if !notes.into_faults().is_empty() {
        return None;
    }
    Some(is_valid(&schema(), &to_json(&tree)))
}

/// Returns whether a fault concerns the form of a single value or key.
fn is_of_form(message: &str) -> bool {
    let others = [
        "does not go with",
        " goes with ",
        "needs validation rows",
        "regular expression that is understood",
        "more than 2^31",
        "has no column",
        "`matryoshka_dims` has",
        "has no roles",
        // Texts that could be a pattern; only the reader knows what another trainer means by them.
        "a list of names, found `all`",
        "a list of names, found `q_proj,v_proj`",
    ];
    !others.iter().any(|other| message.contains(other))
}

/// Returns whether a fault is one that JSON cannot express: it has no difference between 16 and
/// 16.0.
fn is_written_otherwise(message: &str) -> bool {
    message.ends_with(".0`")
}

#[test]
fn broken_recipes_are_invalid_where_the_fault_is_one_of_form() {
    let (mut invalid, mut valid) = (0, 0);
    for (lines, expected) in BROKEN {
        let message = expected.split(" | ").next().unwrap_or_default();
        let Some(verdict) = judged(&format!("{NEEDED}{lines}\n")) else {
            continue;
        };
        if is_written_otherwise(message) {
            continue;
        }
        assert_eq!(!verdict, is_of_form(message), "{lines}\n{message}");
        invalid += usize::from(!verdict);
        valid += usize::from(verdict);
    }
    assert!(
        invalid >= 45 && valid >= 15,
        "{invalid} are invalid, {valid} valid"
    );
}

#[test]
fn shipped_recipes_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    for file in std::fs::read_dir(folder).expect("recipes") {
        let path = file.expect("a recipe").path();
        let text = std::fs::read_to_string(&path).expect("a recipe");
        assert_eq!(judged(&text), Some(true), "{}", path.display());
    }
}

/// Values of every kind.
const VALUES: [&str; 40] = [
    "~",
    "true",
    "false",
    "0",
    "1",
    "2",
    "16",
    "64",
    "100",
    "-1",
    "0.5",
    "1.5",
    "1e-4",
    "1e31",
    "70000",
    "2000000",
    "\"16\"",
    "\"\"",
    "word",
    "auto",
    "none",
    "cpu",
    "cuda:1",
    "chat",
    "lora",
    "nf4",
    "pissa",
    "cosine",
    "all-linear",
    "12 GB",
    "[]",
    "[a]",
    "[0]",
    "[0.5]",
    "[a, 1]",
    "[{}]",
    "{}",
    "{a: 1}",
    "{a: b}",
    "{a: [1]}",
];

/// Returns the recipe with a value at a key.
fn with_value(key: &Key, value: &str) -> String {
    let needed = "base_model: m\ndatasets: [{path: d, format: chat}]\n";
    match (key.section.as_str(), key.name) {
        ("", "base_model") => {
            format!("base_model: {value}\ndatasets: [{{path: d, format: chat}}]\n")
        }
        ("", "datasets") => format!("base_model: m\ndatasets: {value}\n"),
        ("", name) => format!("{needed}{name}: {value}\n"),
        ("datasets", name) => {
            let rest = [("path", "d"), ("format", "chat")]
                .into_iter()
                .filter(|(known, _)| *known != name);
            let rest: String = rest
                .map(|(key, value)| format!(", {key}: {value}"))
                .collect();
            format!("base_model: m\ndatasets: [{{{name}: {value}{rest}}}]\n")
        }
        ("evaluation.datasets", name) => {
            let rest = [("path", "d"), ("format", "chat")]
                .into_iter()
                .filter(|(known, _)| *known != name);
            let rest: String = rest
                .map(|(key, value)| format!(", {key}: {value}"))
                .collect();
            format!("{needed}evaluation: {{datasets: [{{{name}: {value}{rest}}}]}}\n")
        }
        ("tokens.add", name) => {
            let rest = if name == "token" { "" } else { ", token: x" };
            format!("{needed}tokens: {{add: [{{{name}: {value}{rest}}}]}}\n")
        }
        (section, name) => format!("{needed}{section}: {{{name}: {value}}}\n"),
    }
}

/// Returns whether YAML 1.2 reads a text as something other than a text. The reader accepts it
/// where a text is expected; an editor asks for quotes.
fn reads_as_other(value: &str) -> bool {
    !matches!(value, "\"16\"" | "word") && !value.chars().all(|c| c.is_ascii_alphabetic())
        || matches!(value, "true" | "false" | "~")
}

#[test]
fn every_key_takes_what_the_schema_says() {
    let mut differing = Vec::new();
    for key in known() {
        for value in VALUES {
            let text = with_value(&key, value);
            let recipe = from_bytes(Path::new("x.yaml"), text.as_bytes(), &[]);
            let reads = !recipe.faults.iter().any(|fault| is_of_form(&fault.message));
            let valid = judged(&text).expect("a recipe");
            let tolerated = reads && !valid && reads_as_other(value);
            if reads != valid && !tolerated {
                differing.push(format!(
                    "{}: {value}: read {reads}, valid {valid}",
                    key.path()
                ));
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn variables_of_a_template_have_names_that_it_can_read() {
    let valid = |variables: &str| {
        judged(&format!("{NEEDED}chat_template_kwargs: {variables}\n")).expect("a recipe")
    };
    let reads = |variables: &str| {
        let text = format!("{NEEDED}chat_template_kwargs: {variables}\n");
        from_bytes(Path::new("x.yaml"), text.as_bytes(), &[])
            .faults
            .is_empty()
    };
    for variables in [
        "{enable_thinking: false}",
        "{_a1: [1, {b: c}]}",
        "{a:}",
        "{A: 'x y'}",
    ] {
        assert!(valid(variables) && reads(variables), "{variables}");
    }
    for variables in [
        "{1a: 1}",
        "{a-b: 1}",
        "{messages: []}",
        "{add_generation_prompt: true}",
        "{ü: 1}",
        "[a]",
        "a",
    ] {
        assert!(!valid(variables) && !reads(variables), "{variables}");
    }
}
