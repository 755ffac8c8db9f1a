//! Changes to a tokenizer's special tokens, and additions of tokens that its files lack. The files
//! are changed as transformers would write them, and the tokenizer is then opened from the files
//! that will be read later.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use super::added::DECODER;
use super::error::TokenizeError;
use super::files::{ADDED, CONFIG, GENERATION, MAP, TOKENIZER, TokenizerFiles};
use super::special::TokenRole;
use super::tokenize::Tokenizer;

/// Changes to a tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision {
    /// New special tokens by role.
    pub roles: Vec<(TokenRole, String)>,
    /// Tokens at which generation stops, besides eos.
    pub ends: Vec<String>,
    /// Tokens to add, each once, and whether they are left out of decoded text.
    pub new: Vec<(String, bool)>,
}

impl Revision {
    /// Returns the tokens that are special because of their role.
    fn named(&self) -> impl Iterator<Item = &String> {
        self.roles.iter().map(|(_, token)| token).chain(&self.ends)
    }

    /// Returns the tokens to add to the vocabulary: new tokens, which match text before
    /// normalization, and tokens that become special.
    fn tokens(&self, tokenizer: &Tokenizer) -> Vec<AddedToken> {
        let new = self.new.iter().map(|(token, special)| {
            let special = *special || self.named().any(|named| named == token);
            AddedToken {
                special,
                ..as_written(token)
            }
        });
        let is_new = |token: &&String| self.new.iter().any(|(new, _)| new == *token);
        let become_special = self.named().filter(|token| !is_new(token)).map(|token| {
            let known = tokenizer
                .inner
                .get_added_tokens_decoder()
                .into_values()
                .find(|known| known.content == *token);
            AddedToken {
                special: true,
                ..known.unwrap_or_else(|| as_written(token))
            }
        });
        new.chain(become_special).collect()
    }
}

impl TokenizerFiles {
    /// Changes the files from which `tokenizer` was opened. Tokens are added after the existing
    /// ones, as transformers numbers them.
    ///
    /// # Errors
    /// A file is not a JSON object, or a token cannot be added.
    pub fn revise(
        &mut self,
        tokenizer: &Tokenizer,
        revision: &Revision,
    ) -> Result<Tokenizer, TokenizeError> {
        let mut inner = tokenizer.inner.clone();
        let failed = |error: tokenizers::Error| TokenizeError::Broken {
            path: self.folder.join(TOKENIZER),
            expected: "a tokenizer that takes these tokens",
            cause: error.to_string(),
        };
        inner
            .add_tokens(revision.tokens(tokenizer))
            .map_err(failed)?;
        let mut added: Vec<(u32, AddedToken)> =
            inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        self.add(tokenizer, revision, &added)?;
        self.edit(CONFIG, |file| put_roles(file, revision))?;
        if self.texts.contains_key(MAP) {
            self.edit(MAP, |file| put_roles(file, revision))?;
        }
        self.stop_at(tokenizer, revision, |token| inner.token_to_id(token))?;
        Tokenizer::of(self)
    }

    /// Writes all added tokens to the files that list them; `tokenizer` has the tokens from before.
    fn add(
        &mut self,
        tokenizer: &Tokenizer,
        revision: &Revision,
        added: &[(u32, AddedToken)],
    ) -> Result<(), TokenizeError> {
        let before = tokenizer.added_tokens();
        let is_changed = |(id, token): &&(u32, AddedToken)| {
            !before.contains(&(*id, token.content.clone(), token.special))
        };
        let changed: Vec<&(u32, AddedToken)> = added.iter().filter(is_changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let with_id = |(id, token): &(u32, AddedToken)| {
            let id = ("id".to_owned(), json!(id));
            Value::Object([id].into_iter().chain(flags(token)).collect())
        };
        self.edit(TOKENIZER, |file| {
            file.insert(
                "added_tokens".to_owned(),
                added.iter().map(with_id).collect(),
            );
        })?;
        self.edit(CONFIG, |file| {
            if let Some(Value::Object(decoder)) = file.get_mut(DECODER) {
                decoder.extend(
                    changed
                        .iter()
                        .map(|(id, token)| (id.to_string(), Value::Object(flags(token)))),
                );
            }
        })?;
        if self.texts.contains_key(ADDED) {
            let is_new = |(_, token): &&&(u32, AddedToken)| {
                revision.new.iter().any(|(new, _)| *new == token.content)
            };
            let new = changed
                .iter()
                .filter(is_new)
                .map(|(id, token)| (token.content.clone(), json!(id)));
            self.edit(ADDED, |file| file.extend(new))?;
        }
        Ok(())
    }

    /// Writes the ids of special tokens and those at which generation stops. Tokens that ended an
    /// answer before still do.
    fn stop_at(
        &mut self,
        tokenizer: &Tokenizer,
        revision: &Revision,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Result<(), TokenizeError> {
        let of_role = |role: TokenRole| {
            revision
                .roles
                .iter()
                .find(|(found, _)| *found == role)
                .and_then(|(_, token)| id(token))
        };
        let (eos, known) = (of_role(TokenRole::Eos), tokenizer.eos_ids().iter().copied());
        let ends = revision.ends.iter().filter_map(|token| id(token));
        let ends: Vec<u32> = match eos {
            Some(eos) => [eos].into_iter().chain(ends).chain(known).collect(),
            None => known.chain(ends).collect(),
        };
        let others = [TokenRole::Bos, TokenRole::Pad]
            .into_iter()
            .filter_map(|role| Some((role.id_key(), json!(of_role(role)?))));
        let others: Vec<(String, Value)> = others.collect();
        let changes_ends = eos.is_some() || !revision.ends.is_empty();
        if !changes_ends && others.is_empty() {
            return Ok(());
        }
        self.edit(GENERATION, |file| {
            if changes_ends {
                file.insert(TokenRole::Eos.id_key(), one_or_all(&ends));
            }
            file.extend(others);
        })
    }

    /// Changes one of the JSON files, which is created if it is missing. A file that the change
    /// leaves as it is keeps its bytes.
    fn edit(
        &mut self,
        name: &'static str,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), TokenizeError> {
        let old = self.json(name)?.values;
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            let text = serde_json::to_string_pretty(&new).expect("JSON values can be printed");
            self.texts.insert(name, text + "\n");
        }
        Ok(())
    }
}

/// Creates a token that matches text before normalization.
fn as_written(token: &str) -> AddedToken {
    AddedToken {
        content: token.to_owned(),
        normalized: false,
        ..AddedToken::default()
    }
}

/// Formats a token as in `added_tokens` of `tokenizer.json` and in `added_tokens_decoder`.
fn flags(token: &AddedToken) -> Map<String, Value> {
    let AddedToken {
        content,
        single_word,
        lstrip,
        rstrip,
        normalized,
        special,
    } = token;
    let flags = [
        ("single_word", single_word),
        ("lstrip", lstrip),
        ("rstrip", rstrip),
        ("normalized", normalized),
        ("special", special),
    ];
    let flags = flags.map(|(key, value)| (key.to_owned(), json!(value)));
    [("content".to_owned(), json!(content))]
        .into_iter()
        .chain(flags)
        .collect()
}

fn put_roles(file: &mut Map<String, Value>, revision: &Revision) {
    for (role, token) in &revision.roles {
        file.insert(role.token_key(), json!(token));
    }
}

/// Returns the ids as a list, each once, or a single id alone.
fn one_or_all(ids: &[u32]) -> Value {
    let mut all: Vec<u32> = Vec::new();
    for id in ids {
        if !all.contains(id) {
            all.push(*id);
        }
    }
    if let [only] = all[..] {
        json!(only)
    } else {
        json!(all)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn files(contents: &[(&str, Value)]) -> (tempfile::TempDir, TokenizerFiles) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "normalizer": {"type": "Lowercase"},
            "added_tokens": [{
                "id": 0, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            }],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null,
            "decoder": null,
            "model": {
                "type": "WordLevel",
                "vocab": {"<s>": 0, "a": 1, "stop": 2},
                "unk_token": "a",
            },
        });
        for (name, content) in contents.iter().chain(&[(TOKENIZER, tokenizer)]) {
            std::fs::write(folder.path().join(name), content.to_string()).expect("written");
        }
        let files = TokenizerFiles::read(folder.path()).expect("files");
        (folder, files)
    }

    fn revised(mut files: TokenizerFiles, revision: &Revision) -> (TokenizerFiles, Tokenizer) {
        let tokenizer = Tokenizer::of(&files).expect("a tokenizer");
        let revised = files.revise(&tokenizer, revision).expect("revised");
        (files, revised)
    }

    /// Writes the files and opens the tokenizer from them.
    fn written(files: &TokenizerFiles) -> Tokenizer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        crate::files::write_all(folder.path(), &files.contents()).expect("written");
        Tokenizer::open(folder.path()).expect("a tokenizer")
    }

    #[test]
    fn new_tokens_follow_on_those_that_any_file_names() {
        let contents = [
            (
                CONFIG,
                json!({"eos_token": "<s>", "added_tokens_decoder": {
                    "0": {"content": "<s>", "special": true},
                    "3": {"content": "<old>", "special": false},
                }}),
            ),
            (ADDED, json!({"<old>": 3})),
            (MAP, json!({"eos_token": "<s>"})),
            (GENERATION, json!({"eos_token_id": 0, "temperature": 0.5})),
        ];
        let (_folder, files) = files(&contents);
        let revision = Revision {
            roles: vec![(TokenRole::Pad, "<New>".to_owned())],
            ends: vec!["stop".to_owned()],
            new: vec![("<New>".to_owned(), false), ("<b>".to_owned(), false)],
        };
        let (files, tokenizer) = revised(files, &revision);
        let ids = |token: &str| tokenizer.token_to_id(token);
        assert_eq!(
            [ids("<old>"), ids("<New>"), ids("<b>")],
            [Some(3), Some(4), Some(5)]
        );
        assert_eq!(
            tokenizer.ids("a <New> STOP<b>", false).expect("ids"),
            [1, 4, 2, 5],
            "as it is written, before anything is lowered"
        );
        assert_eq!(
            (
                tokenizer.is_special(4),
                tokenizer.is_special(5),
                tokenizer.is_special(2)
            ),
            (true, false, true)
        );
        assert_eq!(
            (tokenizer.eos_ids(), tokenizer.special().pad.as_deref()),
            (&[0, 2][..], Some("<New>"))
        );
        assert_eq!(files.json(ADDED).expect("JSON").values["<b>"], 5);
        assert_eq!(files.json(MAP).expect("JSON").values["pad_token"], "<New>");
        assert_eq!(
            files.json(CONFIG).expect("JSON").values[DECODER]["5"]["content"],
            "<b>"
        );
        let generation = files.json(GENERATION).expect("JSON").values;
        assert_eq!(
            (
                &generation["eos_token_id"],
                &generation["pad_token_id"],
                &generation["temperature"]
            ),
            (&json!([0, 2]), &json!(4), &json!(0.5))
        );
        assert_eq!(written(&files).hash(), tokenizer.hash());
    }

    #[test]
    fn files_that_need_no_change_keep_their_bytes_and_missing_ones_come_where_they_are_needed() {
        let (folder, files) = files(&[]);
        let (same, _) = revised(files.clone(), &Revision::default());
        assert_eq!(same.texts, files.texts);
        let eos = Revision {
            roles: vec![(TokenRole::Eos, "stop".to_owned())],
            ..Revision::default()
        };
        let (changed, tokenizer) = revised(files, &eos);
        assert_eq!(
            (tokenizer.eos_ids(), tokenizer.special().eos.as_deref()),
            (&[2][..], Some("stop"))
        );
        assert_eq!(
            changed.json(GENERATION).expect("JSON").values["eos_token_id"],
            2
        );
        let original = Tokenizer::open(folder.path()).expect("a tokenizer");
        assert_eq!(
            tokenizer.ids_unlike(&original),
            [("eos_token_id".to_owned(), json!(2))]
        );
        assert!(
            changed.folder == Path::new(folder.path()),
            "what is wrong is said of the base's folder"
        );
    }
}
