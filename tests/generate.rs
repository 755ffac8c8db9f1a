//! What a model says: the cache against the full forward, greedy tokens against transformers', text
//! as it comes, and the verb `generate` with what is refused.

mod common;
mod support;

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::*;
use rankine::data::tokenize::Tokenizer;
use rankine::infer::{GenerateConfig, Generated, Sampling, Stop, TextStream, generate};
use rankine::model::{Cache, Decoder};
use rankine::nn::attention::Span;
use serde_json::{Value, json as object};
use support::*;

const LOGITS: f32 = 1e-5;

/// Logits behind each token of a text, computed without a cache.
fn full(decoder: &Decoder, text: &[u32]) -> Vec<Vec<f32>> {
    let ids: Vec<i32> = text.iter().map(|id| id.cast_signed()).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), &Device::flex());
    let logits: Vec<f32> = decoder
        .logits(ids, &[text.len()])
        .into_data()
        .iter()
        .collect();
    logits
        .chunks(decoder.spec.vocabulary)
        .map(<[f32]>::to_vec)
        .collect()
}

fn likeliest(logits: &[f32]) -> u32 {
    (0..)
        .zip(logits)
        .fold((0, f32::NEG_INFINITY), |best, (id, logit)| {
            if *logit > best.1 { (id, *logit) } else { best }
        })
        .0
}

/// Some text within a golden vocabulary.
fn text(tokens: usize) -> Vec<u32> {
    (0..tokens)
        .map(|place| ((place * place * 7 + place * 31 + 5) % 290) as u32)
        .collect()
}

fn say(decoder: &Decoder, prompt: &[u32], config: &GenerateConfig) -> Generated {
    let mut each = |_| ControlFlow::Continue(());
    generate(decoder, &mut Cache::new(decoder), prompt, config, &mut each).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateConfig {
    GenerateConfig {
        max_tokens,
        sampling: Sampling::GREEDY,
        stops: Vec::new(),
    }
}

/// Every family without and with an adapter.
fn decoders() -> impl Iterator<Item = (String, Decoder)> {
    FAMILIES.into_iter().flat_map(|family| {
        let folder = golden(&format!("archs/{family}"));
        let (base, mut adapted) = (load(&folder.join("model")), load(&folder.join("model")));
        attach_peft(&mut adapted, &folder.join("adapter"));
        vec![
            (family.to_owned(), base),
            (format!("{family} with an adapter"), adapted),
        ]
    })
}

#[test]
fn the_cached_forward_equals_the_full_forward() {
    for (name, decoder) in decoders() {
        let text = text(24);
        for pieces in [vec![24], vec![1; 24], vec![7, 1, 1, 9, 6]] {
            let (mut cache, mut read, mut worst) = (Cache::new(&decoder), 0, 0.0_f32);
            for piece in &pieces {
                let logits = decoder.read_on(&mut cache, &text[read..read + piece]);
                read += piece;
                // Of so many tokens: a rotation may depend on how many there are.
                worst = worst.max(difference(
                    &logits,
                    &full(&decoder, &text[..read])[read - 1],
                ));
            }
            println!("{name}, {} pieces: {worst:.1e}", pieces.len());
            assert!(worst <= LOGITS, "{name}, pieces {pieces:?}: {worst}");
        }
    }
}

#[test]
fn a_prompt_that_is_read_in_chunks_equals_the_full_forward() {
    for family in ["llama", "mistral"] {
        let decoder = load(&golden(&format!("archs/{family}/model")));
        let text = text(1100);
        let expected = full(&decoder, &text);
        let mut cache = Cache::new(&decoder);
        let worst = difference(&decoder.read_on(&mut cache, &text[..1099]), &expected[1098]);
        let worst = worst.max(difference(
            &decoder.read_on(&mut cache, &text[1099..]),
            &expected[1099],
        ));
        println!("{family}: {worst:.1e}");
        assert!(worst <= LOGITS, "{family}: {worst}");
    }
}

#[test]
fn a_text_that_outgrows_its_rope_equals_the_full_forward() {
    let variants = golden("archs/llama/variants/rope");
    for kind in ["default", "linear", "dynamic", "yarn", "longrope"] {
        let decoder = load_with_config(
            &golden("archs/llama/model"),
            &variants.join(format!("config_{kind}.json")),
        );
        let text = text(16);
        let mut cache = Cache::new(&decoder);
        for length in 1..=text.len() {
            let logits = decoder.read_on(&mut cache, &text[length - 1..length]);
            let expected = full(&decoder, &text[..length]);
            let worst = difference(&logits, &expected[length - 1]);
            assert!(worst <= LOGITS, "{kind}, {length} tokens: {worst}");
        }
        // Back to where the rotation was another.
        cache.rewind(&text[..4]);
        let worst = difference(
            &decoder.read_on(&mut cache, &text[4..5]),
            &full(&decoder, &text[..5])[4],
        );
        assert!(worst <= LOGITS, "{kind}, back: {worst}");
    }
}

#[test]
fn a_cache_goes_back_to_what_two_texts_share() {
    for (name, decoder) in decoders() {
        let (first, mut second) = (text(20), text(20));
        second[12..].reverse();
        let mut cache = Cache::new(&decoder);
        decoder.read_on(&mut cache, &first);
        let left = cache.rewind(&second[..19]);
        // A window has let go of the first keys, and no state goes back.
        let forgets = decoder
            .spec
            .layers
            .iter()
            .any(|layer| layer.mixer.span() != Span::Full || layer.mixer.carries());
        assert_eq!(left, if forgets { 0 } else { 12 }, "{name}");
        let logits = decoder.read_on(&mut cache, &second[left..]);
        assert!(
            difference(&logits, &full(&decoder, &second)[19]) <= LOGITS,
            "{name}"
        );
        assert_eq!(cache.tokens(), second, "{name}");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for family in FAMILIES {
        let folder = golden(&format!("archs/{family}"));
        let expected = &json(&folder.join("golden.json"))["greedy"];
        let ids =
            |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
        let said = say(
            &load(&folder.join("model")),
            &ids("prompt"),
            &greedy(ids("tokens").len()),
        );
        assert_eq!(
            said,
            Generated {
                tokens: ids("tokens"),
                stop: Stop::MaxTokens
            },
            "{family}"
        );
    }
}

#[test]
fn greedy_tokens_are_the_likeliest_of_the_full_forward() {
    for (name, mut decoder) in decoders() {
        // Learned positions end with the context.
        let count = if decoder.spec.learns_positions {
            decoder.spec.context - 6
        } else {
            decoder.spec.context = 128;
            64
        };
        let mut expected = text(5);
        for _ in 0..count {
            expected.push(likeliest(full(&decoder, &expected).last().unwrap()));
        }
        assert_eq!(
            say(&decoder, &expected[..5], &greedy(count)).tokens,
            expected[5..],
            "{name}"
        );
    }
}

#[test]
fn sampled_tokens_are_those_of_the_seed() {
    let decoder = load(&golden("archs/llama/model"));
    let sampling = |seed| Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::GREEDY
    };
    let said = |seed| {
        say(
            &decoder,
            &text(5),
            &GenerateConfig {
                sampling: sampling(seed),
                ..greedy(30)
            },
        )
        .tokens
    };
    assert_eq!(said(1), said(1));
    assert_ne!(said(1), said(2));
    // Token by token: what was drawn before does not matter.
    let seed_1 = said(1);
    let on = [text(5), seed_1[..10].to_vec()].concat();
    assert_eq!(
        say(
            &decoder,
            &on,
            &GenerateConfig {
                sampling: sampling(1),
                ..greedy(20)
            }
        )
        .tokens,
        seed_1[10..]
    );
}

#[test]
fn an_answer_ends_at_a_stop_at_its_limit_at_the_context_or_when_nobody_listens() {
    let decoder = load(&golden("archs/qwen3/model"));
    let prompt: Vec<u32> = vec![167, 241, 300, 283, 209]; // Greedy: 250, 281, 5, 173, ..
    let said = say(
        &decoder,
        &prompt,
        &GenerateConfig {
            stops: vec![9, 5],
            ..greedy(8)
        },
    );
    assert_eq!(
        said,
        Generated {
            tokens: vec![250, 281],
            stop: Stop::End(5)
        }
    );
    assert_eq!(say(&decoder, &prompt, &greedy(2)).stop, Stop::MaxTokens);
    let long = say(&decoder, &prompt, &greedy(1000));
    assert_eq!(
        (long.tokens.len() + prompt.len(), long.stop),
        (decoder.spec.context, Stop::Context)
    );
    let mut heard = 0;
    let mut each = |_| {
        heard += 1;
        if heard == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let said = generate(
        &decoder,
        &mut Cache::new(&decoder),
        &prompt,
        &greedy(8),
        &mut each,
    )
    .unwrap();
    assert_eq!((said.tokens.len(), said.stop), (3, Stop::Interrupted));
    // Where every layer slides there is no end.
    let sliding = load(&golden("archs/mistral/model"));
    assert_eq!(say(&sliding, &prompt, &greedy(100)).stop, Stop::MaxTokens);
    assert!(sliding.spec.context < 100);
}

#[test]
fn what_a_model_cannot_read_or_say_is_refused() {
    let mut decoder = load(&golden("archs/llama/model"));
    let refused = |decoder: &Decoder, prompt: &[u32]| {
        let mut each = |_| ControlFlow::Continue(());
        generate(
            decoder,
            &mut Cache::new(decoder),
            prompt,
            &greedy(1),
            &mut each,
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        refused(&decoder, &[]),
        "the prompt has no token, expected at least one"
    );
    assert_eq!(
        refused(&decoder, &[1, 304]),
        "the tokenizer made token id 304, the base's embedding has ids below 304"
    );
    let long = "the prompt has 128 tokens, expected fewer than 128, for which the base was made";
    assert_eq!(refused(&decoder, &text(128)), long);
    decoder.head.norm.weight = decoder.head.norm.weight.clone().mul_scalar(f32::NAN);
    assert_eq!(
        refused(&decoder, &[1, 2]),
        "after 2 tokens a logit is NaN, expected a finite number"
    );
}

/// The text of tokens one by one.
fn streamed(tokenizer: &Tokenizer, context: &[u32], tokens: &[u32]) -> (String, usize) {
    let (mut stream, mut text, mut pieces) =
        (TextStream::after(tokenizer, context), String::new(), 0);
    for token in tokens {
        let piece = stream.push(*token).unwrap();
        pieces += usize::from(!piece.is_empty());
        text.push_str(&piece);
    }
    (text + &stream.finish().unwrap(), pieces)
}

#[test]
fn text_comes_in_whole_characters_and_whole_in_the_end() {
    let texts = [
        "plain words, and more",
        "naïve café über straße",
        "日本語のテキスト 한국어",
        "🙂👩‍⚕️🇩🇪 mixed 日 in",
        "  two  spaces\n\n\tand tabs ",
    ];
    let folders = FAMILIES.map(|family| golden(&format!("archs/{family}/model")));
    for folder in folders
        .iter()
        .map(|folder| folder.as_path())
        .chain([Path::new("checkpoints/rankine-tiny")])
    {
        let tokenizer = Tokenizer::open(folder).unwrap();
        for text in texts {
            let ids = tokenizer.encode(text, false).unwrap().ids;
            let (all, pieces) = streamed(&tokenizer, &[], &ids);
            assert_eq!(
                all,
                tokenizer.decode(&ids, true).unwrap(),
                "{}",
                folder.display()
            );
            assert!(
                pieces > 3,
                "{}: `{text}` came in {pieces} pieces",
                folder.display()
            );
            for border in 1..ids.len() {
                let (before, after) = (
                    tokenizer.decode(&ids[..border], true).unwrap(),
                    &ids[border..],
                );
                if !before.ends_with(char::REPLACEMENT_CHARACTER) {
                    assert_eq!(
                        before + &streamed(&tokenizer, &ids[..border], after).0,
                        all,
                        "{}",
                        folder.display()
                    );
                }
            }
        }
    }
}

#[test]
fn pieces_of_characters_that_no_token_completes_come_at_the_end() {
    let tokenizer = Tokenizer::open(&golden("archs/llama/model")).unwrap();
    let ids = tokenizer.encode("é🙂", false).unwrap().ids;
    let cut = &ids[..ids.len() - 1];
    assert!(ids.len() > 2, "the characters are made of bytes: {ids:?}");
    let mut stream = TextStream::after(&tokenizer, &[]);
    let pieces: Vec<String> = cut.iter().map(|id| stream.push(*id).unwrap()).collect();
    assert!(
        !pieces.concat().contains(char::REPLACEMENT_CHARACTER),
        "{pieces:?}"
    );
    assert_eq!(
        pieces.concat() + &stream.finish().unwrap(),
        tokenizer.decode(cut, true).unwrap()
    );
}

#[test]
fn tokens_that_make_no_characters_are_not_held_back_for_ever() {
    let tokenizer = Tokenizer::open(&golden("archs/llama/model")).unwrap();
    let first_byte = tokenizer.encode("🙂", false).unwrap().ids[0];
    let (text, pieces) = streamed(&tokenizer, &[], &[first_byte; 50]);
    assert_eq!((text, pieces), ("\u{fffd}".repeat(50), 3));
}

/// The object of `generate --json`.
fn said(desk: &Desk, arguments: &[&str]) -> Value {
    let ran = desk.run(&[&["generate", "--base", "base", "--json"], arguments].concat());
    ran.says("generate", 0, &[]);
    let mut value: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "text",
            "tokens",
            "stop",
            "stop_token",
            "prompt_tokens",
            "seconds",
            "peak_memory_bytes"
        ]
    );
    value["seconds"].take();
    value["peak_memory_bytes"].take();
    value
}

#[test]
fn generate_prints_the_text_that_its_object_has() {
    let desk = Desk::new();
    let arguments = ["--prompt", "the term", "--max-tokens", "12"];
    let value = said(&desk, &arguments);
    let ran = desk.run(&[&["generate", "--base", "base"], arguments.as_slice()].concat());
    ran.says("generate", 0, &[]);
    assert_eq!(
        ran.stdout.trim_end_matches('\n'),
        value["text"].as_str().unwrap().trim_end_matches('\n')
    );
    assert_eq!(value["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(
        (&value["stop"], &value["stop_token"]),
        (&object!("max_tokens"), &Value::Null)
    );
    ran.says(
        "what cut it",
        0,
        &["note: answer cut at 12 tokens; more with `--max-tokens`"],
    );
}

#[test]
fn draws_are_those_of_the_seed() {
    let desk = Desk::new();
    let drawn = |seed| {
        said(
            &desk,
            &[
                "--prompt",
                "the term",
                "--max-tokens",
                "12",
                "--temperature",
                "1.5",
                "--seed",
                seed,
            ],
        )
    };
    assert_eq!(drawn("7"), drawn("7"));
    assert_ne!(drawn("7"), drawn("8"));
    let greedy = said(&desk, &["--prompt", "the term", "--max-tokens", "12"]);
    let narrow = said(
        &desk,
        &[
            "--prompt",
            "the term",
            "--max-tokens",
            "12",
            "--temperature",
            "1.5",
            "--top-k",
            "1",
        ],
    );
    assert_eq!(greedy["tokens"], narrow["tokens"]);
}

#[test]
fn a_conversation_is_what_the_template_makes_of_it() {
    let desk = Desk::new();
    let asked = said(&desk, &["--chat", "what is a tort?", "--max-tokens", "4"]);
    let turns = object!([{"role": "user", "content": "what is a tort?"}]);
    desk.write("list.json", turns.to_string());
    desk.write(
        "object.json",
        object!({"messages": turns, "tools": null}).to_string(),
    );
    desk.write(
        "sharegpt.json",
        r#"[{"from": "human", "value": "what is a tort?"}]"#,
    );
    for file in ["list.json", "object.json", "sharegpt.json"] {
        assert_eq!(
            said(&desk, &["--messages", file, "--max-tokens", "4"]),
            asked,
            "{file}"
        );
    }
    desk.write("template.jinja", "{{ messages[0].content }}");
    let own = said(
        &desk,
        &[
            "--chat",
            "the term",
            "--chat-template",
            "template.jinja",
            "--max-tokens",
            "4",
        ],
    );
    // The prompt has the bos that the tokenizer adds.
    assert_eq!(
        own["prompt_tokens"].as_u64().unwrap() + 1,
        said(&desk, &["--prompt", "the term"])["prompt_tokens"]
    );
}

#[test]
fn the_token_that_ends_a_turn_in_the_template_ends_an_answer() {
    let desk = Desk::new();
    desk.write("plain.jinja", "{{ messages[0].content }}");
    let ask = |template| {
        said(
            &desk,
            &[
                "--chat",
                "the term",
                "--chat-template",
                template,
                "--max-tokens",
                "12",
            ],
        )
    };
    let token = ask("plain.jinja")["tokens"][3].as_u64().unwrap() as u32;
    // A template that ends its turns with the token that comes fourth, which is an added one now.
    let tokenizer: Value = serde_json::from_str(&desk.read_text("base/tokenizer.json")).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let word = vocabulary
        .iter()
        .find(|(_, id)| **id == token)
        .unwrap()
        .0
        .clone();
    let mut marked = tokenizer.clone();
    let added = object!({
        "id": token,
        "content": word,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    });
    marked["added_tokens"]
        .as_array_mut()
        .unwrap()
        .insert(0, added);
    desk.write("base/tokenizer.json", marked.to_string());
    let end = serde_json::to_string(&word).unwrap();
    let source = format!(
        "{{% for m in messages %}}{{% if m.role == 'assistant' %}}{{% generation %}}{{{{ m.content \
        }}}}{{{{ {end} }}}}{{% endgeneration %}}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% \
        endfor %}}"
    );
    desk.write("ends.jinja", source);
    let value = ask("ends.jinja");
    assert_eq!(
        (&value["stop"], &value["stop_token"]),
        (&object!("end"), &object!(token)),
        "{value}"
    );
    assert!(value["tokens"].as_array().unwrap().len() <= 3, "{value}");
}

#[test]
fn an_adapter_brings_its_base_and_changes_the_answer() {
    let desk = Desk::new();
    desk.run(&[
        "train",
        "recipe.yaml",
        "training.learning_rate=0.1",
        "training.lr_scheduler=constant",
    ])
    .says("a run", 0, &[]);
    let plain = said(&desk, &["--prompt", "the term", "--max-tokens", "8"]);
    let with_both = said(
        &desk,
        &[
            "--prompt",
            "the term",
            "--max-tokens",
            "8",
            "--adapter",
            "run/adapter",
        ],
    );
    assert_ne!(plain["tokens"], with_both["tokens"]);
    // It was trained on `base`, which is a folder here.
    let ran = desk.run(&[
        "generate",
        "--adapter",
        "run/adapter",
        "--prompt",
        "the term",
        "--max-tokens",
        "8",
        "--json",
    ]);
    ran.says("without --base", 0, &[]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["tokens"],
        with_both["tokens"]
    );

    let generate = |adapter: &str| desk.run(&["generate", "--adapter", adapter, "--prompt", "x"]);
    generate("run").says("a run is its adapter", 0, &[]);
    generate("base").says("a base", 65, &["`base` holds no adapter: it is a model"]);
    generate("nowhere").says(
        "nothing",
        66,
        &["adapter `nowhere` does not exist", "hint: "],
    );
    desk.edit(
        "run/adapter/adapter_config.json",
        "\"base\",",
        "\"owner/name\",",
    );
    generate("run/adapter").says("the lock of its run has its base", 0, &[]);
    desk.remove("run/recipe.lock.yaml");
    generate("run/adapter").says(
        "a Hub id",
        69,
        &[
            "`owner/name` is not in the cache",
            "hint: fetch it with `rankine pull owner/name`",
        ],
    );
    desk.edit(
        "run/adapter/adapter_config.json",
        "\"owner/name\",",
        "null,",
    );
    generate("run/adapter").says(
        "no base",
        65,
        &["the adapter in `run/adapter` names no base", "`--base`"],
    );
}

#[test]
fn an_adapter_is_asked_with_the_template_that_it_was_trained_with() {
    let desk = Desk::new();
    desk.write("short.jinja", "{{ messages[0].content }}");
    desk.run(&["train", "recipe.yaml", "chat_template=short.jinja"])
        .says("a run", 0, &[]);
    let ask = |arguments: &[&str]| {
        let arguments = [
            &[
                "--chat",
                "the term",
                "--max-tokens",
                "4",
                "--adapter",
                "run/adapter",
            ],
            arguments,
        ]
        .concat();
        said(&desk, &arguments)["prompt_tokens"].clone()
    };
    assert_eq!(ask(&[]), ask(&["--chat-template", "short.jinja"]));
    desk.remove("run/recipe.lock.yaml");
    assert_ne!(ask(&[]), ask(&["--chat-template", "short.jinja"]));
}

#[test]
fn what_cannot_be_answered_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let run = |arguments: &[&str]| desk.run(&[&["generate"], arguments].concat());
    run(&["--prompt", "x"]).says("no base", 2, &["--base <DIR>"]);
    run(&["--base", "base"]).says(
        "no prompt",
        2,
        &["--prompt <TEXT>|--chat <TEXT>|--instruction <TEXT>|--messages <FILE.json>"],
    );
    run(&["--base", "base", "--prompt", "x", "--chat", "y"]).says(
        "two prompts",
        2,
        &["cannot be used with"],
    );
    run(&["--base", "nowhere", "--prompt", "x"]).says(
        "no such base",
        66,
        &["base `nowhere` does not exist", "hint: "],
    );
    let on_base = |arguments: &[&str]| run(&[&["--base", "base"], arguments].concat());
    for (name, value, expected) in [
        ("--temperature", "-1", "expected a number from 0"),
        ("--temperature", "nan", "expected a number from 0"),
        ("--top-p", "1.5", "expected a number above 0, at most 1"),
        ("--top-k", "0", "0 is not in 1.."),
        ("--repetition-penalty", "0", "expected a number above 0"),
        ("--max-tokens", "0", "0 is not in 1.."),
    ] {
        on_base(&["--prompt", "x", &format!("{name}={value}")]).says(name, 2, &[expected]);
    }
    for option in [["--top-p", "0.9"], ["--top-k", "5"], ["--seed", "1"]] {
        let parts = ["nothing is drawn, because `--temperature` is 0", "hint: "];
        on_base(&[&["--prompt", "x"], option.as_slice()].concat()).says(option[0], 2, &parts);
    }
    on_base(&["--prompt", &"word ".repeat(200)]).says(
        "too long",
        65,
        &["expected fewer than 128, for which the base was made"],
    );
    let doubled = "the prompt begins with the bos token twice, id 298";
    on_base(&["--prompt", "<|begin_of_text|>x"]).says("two bos", 65, &[doubled, "hint: "]);
    on_base(&["--messages", "none.json"]).says(
        "no file",
        66,
        &["--messages: `none.json` does not exist"],
    );
    for (content, expected) in [
        ("{", "holds no JSON (EOF"),
        ("7", "holds `7`, expected a list of messages"),
        ("[]", "holds no message"),
        (r#"{"turns": []}"#, "holds the key `turns`"),
        (r#"{"messages": 1}"#, "holds no list `messages`"),
        (
            r#"[{"role": "narrator", "content": "x"}]"#,
            "message 0 has role \"narrator\"",
        ),
        (
            r#"[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]"#,
            "ends with what the assistant says",
        ),
    ] {
        desk.write("messages.json", content);
        on_base(&["--messages", "messages.json"]).says(
            content,
            65,
            &["`messages.json`", expected, "hint: "],
        );
    }
    desk.write("raises.jinja", "{{ raise_exception('not today') }}");
    on_base(&["--chat", "x", "--chat-template", "raises.jinja"]).says("raises", 65, &["not today"]);
    on_base(&["--chat", "x", "--chat-template", "none.jinja"]).says(
        "no template",
        66,
        &["`none.jinja` does not exist"],
    );
    desk.write(
        "base/tokenizer_config.json",
        r#"{"bos_token": "<|begin_of_text|>"}"#,
    );
    let hint = "hint: give one with `--chat-template FILE`, or ask with `--instruction` or \
        `--prompt`";
    on_base(&["--chat", "x"]).says(
        "no template",
        65,
        &[
            "a conversation needs a chat template, the base has none",
            hint,
        ],
    );
}
