//! The values of `adapter_config.json` and their effect on an adapter's numbers. Some change what
//! is computed and are refused, some only tell how training began, and some have no effect on a
//! linear map.

use serde_json::Value;

use crate::adapter::AdapterError;

/// Keys of PEFT's config that change what the adapter computes, with the only supported values.
const BUILT: [(&str, &[&str]); 17] = [
    ("alora_invocation_tokens", &["null"]),
    ("arrow_config", &["null"]),
    // Biases that train are in the file, where they are left over.
    ("bias", &["null", "\"none\"", "\"all\"", "\"lora_only\""]),
    // A head that is the embedding shares what is trained of it then, and is saved all the same.
    ("ensure_weight_tying", &["false", "null"]),
    // Of a linear map PEFT takes it for false.
    ("fan_in_fan_out", &["false", "true", "null"]),
    ("kasa_config", &["null"]),
    ("layer_replication", &["null", "[]"]),
    ("lora_bias", &["false", "true", "null"]),
    ("monteclora_config", &["null"]),
    ("peft_type", &["\"LORA\""]),
    (
        "task_type",
        &[
            "\"CAUSAL_LM\"",
            "\"FEATURE_EXTRACTION\"",
            "\"SEQ_CLS\"",
            "\"TOKEN_CLS\"",
            "null",
        ],
    ),
    ("use_bdlora", &["null", "false"]),
    ("use_dora", &["false", "true", "null"]),
    ("use_qalora", &["false", "null"]),
    ("use_rslora", &["false", "true", "null"]),
    ("velora_config", &["null"]),
    ("enable_lora", &["null"]),
];

/// Keys of other PEFT releases whose value changes no number of a trained adapter.
const PASSED_OVER: [&str; 6] = [
    "lora_ga_config",
    "merge_weights",
    "qalora_group_size",
    "runtime_config",
    "eva_config",
    "corda_config",
];

/// Initializations that leave the base as it is, as words of `init_lora_weights`.
const PLAIN_STARTS: [&str; 5] = ["gaussian", "orthogonal", "eva", "mica", "default"];

/// Initializations that subtract the initial product from the base's weights.
const MOVING_STARTS: [&str; 4] = ["pissa", "olora", "corda", "lora_ga"];

/// Refuses values that change the numbers and are not supported; returns notes about what is
/// ignored.
///
/// # Errors
/// The first key with such a value is the error.
pub(super) fn judge(
    config: &Value,
    place: &str,
    known: &Value,
) -> Result<Vec<String>, AdapterError> {
    let refused = |key: &str, value: &Value, hint: Option<String>| AdapterError::Unsupported {
        place: place.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
        hint,
    };
    for (key, built) in BUILT {
        if let Some(value) = config
            .get(key)
            .filter(|value| !built.contains(&value.to_string().as_str()))
        {
            return Err(refused(key, value, None));
        }
    }
    let start = config.get("init_lora_weights").unwrap_or(&Value::Null);
    check_start(start).map_err(|hint| refused("init_lora_weights", start, Some(hint)))?;
    let mut notes: Vec<String> = notes_of_values(config);
    for (key, value) in config.as_object().into_iter().flatten() {
        if known.get(key).is_some()
            || PASSED_OVER.contains(&key.as_str())
            || BUILT.iter().any(|(built, _)| built == key)
        {
            continue;
        }
        if !is_neutral(value) {
            let hint = "a newer PEFT wrote it, and what it changes is not known here; where it \
                changes nothing for this adapter, remove it from adapter_config.json";
            return Err(refused(key, value, Some(hint.to_owned())));
        }
        notes.push(format!(
            "its config has `{key}`, which is not known here, as `{value}`, which says nothing; it \
            is passed over"
        ));
    }
    Ok(notes)
}

/// The note about `fan_in_fan_out: true`, which is right where the base has weights [in, out].
pub(super) const FAN_IN_FAN_OUT: &str = "its config has `fan_in_fan_out: true`, which is for \
    Conv1D; the base has linear maps, for which it counts as false as in PEFT";

/// Returns notes about values that look like a change but are none.
fn notes_of_values(config: &Value) -> Vec<String> {
    let mut notes = Vec::new();
    if config["fan_in_fan_out"] == Value::Bool(true) {
        notes.push(FAN_IN_FAN_OUT.to_owned());
    }
    let start = config["init_lora_weights"].as_str().unwrap_or_default();
    for (key, word) in [
        ("loftq_config", "loftq"),
        ("eva_config", "eva"),
        ("corda_config", "corda"),
        ("lora_ga_config", "lora_ga"),
    ] {
        if !is_neutral(&config[key]) && !start.eq_ignore_ascii_case(word) {
            notes.push(format!(
                "its config has a `{key}` and does not begin as `{word}`; it is \
                passed over as in PEFT"
            ));
        }
    }
    let bias = config["bias"].as_str().unwrap_or("none");
    if bias != "none" {
        notes.push(format!(
            "its config has `bias: {bias}` and its file no bias of the base; there is none to load"
        ));
    }
    notes
}

/// Checks that A and B fit the unchanged base, however they began; the error has the reason and the
/// next step.
fn check_start(start: &Value) -> Result<(), String> {
    let Value::String(word) = start else {
        return if matches!(start, Value::Null | Value::Bool(_)) {
            Ok(())
        } else {
            Err(format!(
                "expected true, false or a word such as {}",
                PLAIN_STARTS[0]
            ))
        };
    };
    let word = word.to_lowercase();
    if PLAIN_STARTS.contains(&word.as_str()) {
        return Ok(());
    }
    if MOVING_STARTS.iter().any(|start| word.starts_with(start)) {
        return Err(format!(
            "`{word}` takes what A and B begin as out of the base's weights, so they do not go \
            with the base as it is: save it from PEFT with \
            `path_initial_model_for_weight_conversion`, which makes it a plain adapter; or, if \
            `--base` is the changed base that was saved with it, set `init_lora_weights` to true \
            in adapter_config.json"
        ));
    }
    if word == "loftq" {
        return Err(
            "`loftq` puts quantized weights in the place of the base's, and A and B go with \
            those: give that base with `--base`, as it was saved with the adapter, and set \
            `init_lora_weights` to true in adapter_config.json"
                .to_owned(),
        );
    }
    Err(format!(
        "known are true, false, {}",
        PLAIN_STARTS.map(|start| format!("`{start}`")).join(", ")
    ))
}

/// Whether the value of an unknown key has no effect.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::String(word) => ["", "none", "default"].contains(&word.to_lowercase().as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(edit: Value) -> Result<Vec<String>, String> {
        let mut config = json!({"peft_type": "LORA", "r": 4});
        config
            .as_object_mut()
            .expect("an object")
            .extend(edit.as_object().expect("an object").clone());
        judge(
            &config,
            "x",
            &json!({
                "r": 1,
                "peft_type": 1,
                "init_lora_weights": 1,
                "loftq_config": 1,
                "fan_in_fan_out": 1,
                "bias": 1,
            }),
        )
        .map_err(|error| crate::fault::Explain::faults(&error)[0].to_string())
    }

    #[test]
    fn starts_that_leave_the_base_are_plain() {
        for start in [
            json!(true),
            json!(false),
            json!(null),
            json!("gaussian"),
            json!("Gaussian"),
            json!("orthogonal"),
            json!("eva"),
            json!("mica"),
        ] {
            assert_eq!(
                judged(json!({"init_lora_weights": start})),
                Ok(vec![]),
                "{start}"
            );
        }
        for start in [
            "pissa",
            "pissa_niter_16",
            "olora",
            "OLoRA",
            "corda",
            "lora_ga",
            "loftq",
            "unheard_of",
        ] {
            let message = judged(json!({"init_lora_weights": start})).expect_err("refused");
            assert!(
                message.contains(&format!("`init_lora_weights` is `\"{start}\"`")),
                "{message}"
            );
        }
        assert!(judged(json!({"init_lora_weights": 3})).is_err());
    }

    #[test]
    fn keys_that_are_not_known_are_noted_or_refused() {
        for value in [
            json!(null),
            json!(false),
            json!([]),
            json!({}),
            json!("none"),
            json!(""),
        ] {
            let notes = judged(json!({"later_key": value})).expect("neutral");
            assert!(
                notes.len() == 1 && notes[0].contains("`later_key`"),
                "{notes:?}"
            );
        }
        for value in [
            json!(true),
            json!(3),
            json!(0.5),
            json!("on"),
            json!([1]),
            json!({"a": 1}),
        ] {
            let message = judged(json!({"later_key": value})).expect_err("refused");
            assert!(message.contains("`later_key`"), "{message}");
        }
        assert_eq!(
            judged(json!({"merge_weights": true, "enable_lora": null, "runtime_config": {"a": 1}})),
            Ok(vec![]),
            "keys of old ones"
        );
    }

    #[test]
    fn configs_of_starts_that_were_not_taken_say_nothing() {
        for (key, value) in [
            ("eva_config", json!({"rho": 2.0})),
            ("corda_config", json!({"corda_method": "ipm"})),
            ("loftq_config", json!({"loftq_bits": 4})),
        ] {
            let notes = judged(json!({key: value, "init_lora_weights": true})).expect("inert");
            assert!(notes[0].contains(key), "{notes:?}");
        }
        assert_eq!(
            judged(json!({"eva_config": {"rho": 2.0}, "init_lora_weights": "eva"})),
            Ok(vec![])
        );
        assert_eq!(
            judged(json!({"fan_in_fan_out": true}))
                .expect("noted")
                .len(),
            1
        );
        assert_eq!(judged(json!({"bias": "all"})).expect("noted").len(), 1);
        assert!(judged(json!({"bias": "some"})).is_err());
    }
}
