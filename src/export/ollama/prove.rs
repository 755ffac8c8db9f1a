//! Proves that a Go template renders what the model was trained on: both templates render the test
//! conversations, and the texts must be equal.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use super::OllamaError;
use super::conversations::{Golden, golden, with_blanks};
use super::go::GoTemplate;
use super::stock;
use crate::data::template::{self, ChatTemplate, Conversation};
use crate::data::tokenize::Tokenizer;
use crate::data::tokenizer::templates::TEMPLATE_BYTES;
use crate::files::read_text_up_to;

/// An Ollama template that equals the chat template, with the stops of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The name of the format, or the file.
    pub name: String,
    /// The Go template.
    pub template: String,
    /// Texts that end an answer; the end of a turn comes first.
    pub stops: Vec<String>,
    /// The number of conversations that were compared.
    pub conversations: usize,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// The chat template's rendering of a conversation, without the bos token that Ollama puts before
/// it.
struct Expected {
    golden: Golden,
    text: String,
}

/// Finds a Go template for the model of a folder, or checks the one in the file `named`. `source`
/// is the chat template if it is not the folder's own.
///
/// # Errors
/// There is no chat template, no Go template renders the same, or nothing ends an answer.
pub fn prove(
    folder: &Path,
    source: Option<&str>,
    named: Option<&Path>,
) -> Result<Proof, OllamaError> {
    prove_with(&Tokenizer::open(folder)?, (folder, source), named)
}

/// Like [`prove`], with a tokenizer that is not the folder's own.
///
/// # Errors
/// As for [`prove`].
pub fn prove_with(
    tokenizer: &Tokenizer,
    (folder, source): (&Path, Option<&str>),
    named: Option<&Path>,
) -> Result<Proof, OllamaError> {
    let source = source
        .or(tokenizer.chat_template())
        .ok_or_else(|| OllamaError::NoTemplate {
            folder: folder.to_owned(),
        })?;
    let (expected, refused) = expected(source, tokenizer)?;
    let candidates = match named {
        Some(path) => own(path)?,
        None => known(&expected, tokenizer),
    };
    let (name, template) = first_equal(candidates, &expected)?;
    let stops = stops(&expected, tokenizer)?;
    let mut notes = Vec::new();
    if refused > 0 {
        notes.push(format!(
            "the chat template refuses {refused} of {} conversations, those with a \
            system message among them or others; Ollama refuses none",
            refused + expected.len()
        ));
    }
    if trims(source, tokenizer)? {
        notes.push(
            "the chat template takes blanks around a message away, which Ollama's templates cannot"
                .to_owned(),
        );
    }
    Ok(Proof {
        name,
        template: template.source().to_owned(),
        stops,
        conversations: expected.len(),
        notes,
    })
}

/// Returns the user's template without the final line break that editors add, and with it, because
/// some formats end in one.
fn own(path: &Path) -> Result<Vec<(String, GoTemplate)>, OllamaError> {
    let text = read_text_up_to(path, TEMPLATE_BYTES)?;
    let unbroken = text
        .strip_suffix("\r\n")
        .or_else(|| text.strip_suffix('\n'));
    let template =
        |text: &str| GoTemplate::new(text).map(|template| (path.display().to_string(), template));
    let all = unbroken
        .into_iter()
        .chain([text.as_str()])
        .map(template)
        .collect::<Result<_, _>>();
    all.map_err(|cause| OllamaError::Template {
        path: path.to_owned(),
        cause,
    })
}

/// Returns every known template as it is, then with the bos token before it if all texts begin with
/// one: if it is also the start of a turn, the template writes it.
fn known(expected: &[Expected], tokenizer: &Tokenizer) -> Vec<(String, GoTemplate)> {
    let without_system = &expected[0].text;
    let bos = Some(prefix(expected, tokenizer)).filter(|bos| !bos.is_empty());
    let prefixed = bos
        .iter()
        .flat_map(|bos| stock::candidates(without_system, bos));
    stock::candidates(without_system, "")
        .into_iter()
        .chain(prefixed)
        .collect()
}

/// Returns the expected texts, and how many conversations the chat template rejects.
fn expected(source: &str, tokenizer: &Tokenizer) -> Result<(Vec<Expected>, usize), OllamaError> {
    // A template that prints the day renders another text tomorrow.
    let days = [0, 400 * 86_400].map(|second| Timestamp::from_second(second).expect("in range"));
    let [today, later] = days.map(|day| ChatTemplate::new(source, tokenizer.special(), day));
    let (today, later) = (today?, later?);
    let (mut expected, mut refused) = (Vec::new(), 0);
    for golden in golden() {
        let conversation = Conversation {
            messages: golden.messages(),
            ..Conversation::default()
        };
        let text = match today.render(&conversation, true) {
            Err(template::TemplateError::Raised { .. }) => {
                refused += 1;
                continue;
            }
            text => text?,
        };
        if later.render(&conversation, true)? != text {
            return Err(OllamaError::TellsTheDay);
        }
        expected.push(Expected {
            text: without_bos(text, tokenizer)?,
            golden,
        });
    }
    if expected.is_empty() {
        Err(OllamaError::RefusesAll {
            conversations: refused,
        })
    } else {
        Ok((expected, refused))
    }
}

/// Removes the bos token that Ollama puts before a text if the GGUF file says so, which depends on
/// the tokenizer.
fn without_bos(text: String, tokenizer: &Tokenizer) -> Result<String, OllamaError> {
    let Some(bos) = tokenizer
        .special()
        .bos
        .as_deref()
        .filter(|_| adds_bos(tokenizer))
    else {
        return Ok(text);
    };
    text.strip_prefix(bos)
        .map(str::to_owned)
        .ok_or_else(|| OllamaError::AddedBos {
            bos: bos.to_owned(),
        })
}

fn adds_bos(tokenizer: &Tokenizer) -> bool {
    let first = tokenizer
        .encode("a", true)
        .ok()
        .and_then(|encoding| encoding.ids.first().copied());
    tokenizer.bos_id().is_some() && first == tokenizer.bos_id()
}

/// Returns the bos token if every text begins with it; else an empty text.
fn prefix(expected: &[Expected], tokenizer: &Tokenizer) -> String {
    let bos = tokenizer.special().bos.clone().unwrap_or_default();
    if expected
        .iter()
        .all(|expected| expected.text.starts_with(&bos))
    {
        bos
    } else {
        String::new()
    }
}

/// Returns the first candidate that renders every text, else the difference of the nearest.
fn first_equal(
    candidates: Vec<(String, GoTemplate)>,
    expected: &[Expected],
) -> Result<(String, GoTemplate), OllamaError> {
    let mut nearest: Option<(usize, OllamaError)> = None;
    for (name, template) in candidates {
        match difference(&name, &template, expected) {
            None => return Ok((name, template)),
            Some((equal, error)) if nearest.as_ref().is_none_or(|(best, _)| equal > *best) => {
                nearest = Some((equal, error));
            }
            Some(_) => {}
        }
    }
    Err(nearest.expect("there is a candidate").1)
}

/// Returns how a template differs in the first conversation in which it does, and how many bytes
/// before that are equal.
fn difference(
    name: &str,
    template: &GoTemplate,
    expected: &[Expected],
) -> Option<(usize, OllamaError)> {
    let mut equal = 0;
    for Expected { golden, text } in expected {
        let found = match template.render(&golden.0) {
            Ok(found) => found,
            Err(cause) => {
                return Some((
                    equal,
                    OllamaError::Template {
                        path: name.into(),
                        cause,
                    },
                ));
            }
        };
        let same = found
            .bytes()
            .zip(text.bytes())
            .take_while(|(left, right)| left == right)
            .count();
        equal += same;
        if found != *text {
            let error = OllamaError::Different {
                name: name.to_owned(),
                roles: golden.roles(),
                found: around(&found, same),
                expected: around(text, same),
            };
            return Some((equal, error));
        }
    }
    None
}

/// Returns the text around a byte, on one line.
fn around(text: &str, place: usize) -> String {
    let (from, to) = (
        text.floor_char_boundary(place.saturating_sub(30)),
        text.floor_char_boundary((place + 60).min(text.len())),
    );
    format!(
        "{}{}{}",
        if from > 0 { ".." } else { "" },
        text[from..to].escape_debug(),
        if to < text.len() { ".." } else { "" }
    )
}

/// Returns the stops of an answer: the special tokens that follow assistant messages, and those
/// that end a text.
fn stops(expected: &[Expected], tokenizer: &Tokenizer) -> Result<Vec<String>, OllamaError> {
    let special = &tokenizer.special().all;
    let mut stops = Vec::new();
    for Expected { golden, text } in expected {
        for answer in golden.answers() {
            let place = text.find(answer).ok_or_else(|| OllamaError::NoEnd {
                follows: around(text, text.len()),
            })?;
            let after = &text[place + answer.len()..];
            let token = special.iter().filter(|token| {
                !token.is_empty() && after.trim_start().starts_with(token.as_str())
            });
            let token = token.max_by_key(|token| token.len());
            stops.push(token.cloned().ok_or_else(|| OllamaError::NoEnd {
                follows: around(after, 0),
            })?);
        }
    }
    let of_text = tokenizer
        .eos_ids()
        .iter()
        .filter_map(|id| tokenizer.decode(&[*id], false).ok());
    let mut seen = BTreeSet::new();
    Ok(stops
        .into_iter()
        .chain(of_text)
        .filter(|stop| !stop.trim().is_empty() && seen.insert(stop.clone()))
        .collect())
}

/// Returns whether the chat template changes the white space around a message.
fn trims(source: &str, tokenizer: &Tokenizer) -> Result<bool, OllamaError> {
    let (golden, template) = (
        with_blanks(),
        ChatTemplate::new(source, tokenizer.special(), Timestamp::UNIX_EPOCH)?,
    );
    let text = template.render(
        &Conversation {
            messages: golden.messages(),
            ..Conversation::default()
        },
        true,
    )?;
    Ok(golden.0.iter().any(|turn| !text.contains(&turn.content)))
}
