//! The base's tokenizer: text to token ids and back, with the special tokens and chat templates of
//! the model folder.

use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};

use super::added::Files;
pub use super::error::TokenizeError;
use super::files::{CONFIG, GENERATION, TOKENIZER, TokenizerFiles};
use super::parsed::{Parsed, parse};
use super::renumbered::{self, RenumberedToken};
use super::special::TokenRole;
pub use super::special::{ENDS_OF_TURNS, SpecialTokens};
use super::templates::Templates;
use crate::files::{self, listed};

/// A tokenized text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, the range of bytes of the text that it stands for; `(0, 0)` for an added
    /// token. Tokens that share a character each have all its bytes.
    pub offsets: Vec<(usize, usize)>,
}

/// The tokens of one or two texts that are read as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The first token of the second type; the number of tokens where all are of one type.
    pub second: usize,
    /// Of two texts whether each token is of one of them, and not put there by the tokenizer.
    pub is_own: Vec<bool>,
    /// Tokens at the end that the tokenizer put there.
    pub closing: usize,
}

/// A Hugging Face tokenizer, used from many threads.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    eos_ids: Vec<u32>,
    chat_templates: Templates,
    /// Tokens that `tokenizer.json` does not have as added tokens, with their ids.
    new: Vec<(String, u32)>,
    renumbered: Vec<RenumberedToken>,
    /// BPE dropout in the file: the share of merges that it skips at random.
    dropout: Option<f32>,
    /// The tokens that it puts behind a text.
    closing: Vec<u32>,
    hash: files::Hash,
}

impl Tokenizer {
    /// Opens the tokenizer of a model folder: `tokenizer.json` and, if they exist,
    /// `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
    /// `chat_template.jinja` and `generation_config.json`. Tokens that only the other files name
    /// are added. Randomness in the file (BPE dropout, arXiv:1910.13267) is switched off, so that a
    /// text always has the same ids.
    ///
    /// # Errors
    /// The tokenizer is missing, or one of the files cannot be read or is broken.
    pub fn open(folder: &Path) -> Result<Self, TokenizeError> {
        Self::of(&TokenizerFiles::read(folder)?)
    }

    /// Opens the tokenizer of an adapter, or its base's if it has none: see
    /// [`TokenizerFiles::beside`].
    ///
    /// # Errors
    /// As for [`Tokenizer::open`].
    pub fn open_with(base: &Path, adapter: Option<&Path>) -> Result<Self, TokenizeError> {
        let own = adapter
            .map(|adapter| TokenizerFiles::beside(adapter, base))
            .transpose()?
            .flatten();
        own.map_or_else(|| Self::open(base), |own| Self::of(&own))
    }

    /// Opens the tokenizer from these files.
    ///
    /// # Errors
    /// As for [`Tokenizer::open`].
    pub fn of(files: &TokenizerFiles) -> Result<Self, TokenizeError> {
        let source = files
            .texts
            .get(TOKENIZER)
            .ok_or_else(|| missing(&files.folder))?;
        let Parsed {
            mut inner,
            padding,
            dropout,
        } = parse(&files.folder.join(TOKENIZER), source)?;
        let config = files.json(CONFIG)?;
        let splits_special = config.values.get("split_special_tokens") == Some(&Value::Bool(true));
        inner.set_encode_special_tokens(splits_special);
        let mut renumbered = renumbered::find(source, &inner);
        let added = Files::of(files, config)?.add_to(&mut inner, padding.as_deref())?;
        let mut special = SpecialTokens::of(&inner, &added.named);
        let chat_templates = files.all_templates()?;
        let mut eos_ids: Vec<u32> = special
            .eos
            .iter()
            .filter_map(|token| inner.token_to_id(token))
            .collect();
        eos_ids.extend(files.json(GENERATION)?.eos_ids()?);
        let mut seen = std::collections::HashSet::new();
        eos_ids.retain(|id| seen.insert(*id));
        special.ends = eos_ids
            .iter()
            .filter_map(|id| inner.id_to_token(*id))
            .collect();
        let mut changes = added.identity;
        changes.extend(splits_special.then(|| "split_special_tokens".to_owned()));
        changes.extend(dropout.map(|_| "dropout off".to_owned()));
        let hash = hash(source, &special, &eos_ids, &changes);
        renumbered.extend(added.renumbered);
        let mut tokenizer = Self {
            inner,
            special,
            eos_ids,
            chat_templates,
            new: added.new,
            renumbered,
            dropout,
            closing: Vec::new(),
            hash,
        };
        if let Ok(Framed { ids, closing, .. }) = tokenizer.framed("a", None) {
            tokenizer.closing = ids[ids.len() - closing..].to_vec();
        }
        Ok(tokenizer)
    }

    /// Returns the special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Returns the chat template: `chat_template.jinja`, otherwise the one in
    /// `tokenizer_config.json`; among several the one named `default`.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_templates.default_source()
    }

    /// Returns the chat templates by name, as transformers reads them: the files
    /// `chat_template.jinja` and `additional_chat_templates/*.jinja`, otherwise those in
    /// `tokenizer_config.json`.
    pub fn chat_templates(&self) -> &Templates {
        &self.chat_templates
    }

    /// Tokenizes a text; `add_special_tokens` adds the special tokens that the tokenizer puts
    /// around a sequence, such as BOS.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, TokenizeError> {
        let encoding = guarded(text, || self.inner.encode(text, add_special_tokens))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// Tokenizes a text like [`Tokenizer::encode`], without the offsets, in less time.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoding = guarded(text, || self.inner.encode_fast(text, add_special_tokens))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokenizes a text, or a pair of texts, that is read as a whole, with the special tokens that
    /// the tokenizer puts around one or two.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the texts.
    pub fn framed(&self, text: &str, pair: Option<&str>) -> Result<Framed, TokenizeError> {
        let encoding = match pair {
            None => guarded(text, || self.inner.encode_fast(text, true))?,
            Some(pair) => {
                let bytes = text.len() + pair.len();
                let encoding = files::guarded(|| self.inner.encode_fast((text, pair), true));
                let encoding =
                    encoding.map_err(|cause| TokenizeError::Panicked { bytes, cause })?;
                encoding.map_err(|error| TokenizeError::Encode {
                    bytes,
                    cause: error.to_string(),
                })?
            }
        };
        let (ids, types) = (encoding.get_ids().to_vec(), encoding.get_type_ids());
        let is_added = |place: usize| encoding.get_special_tokens_mask()[place] == 1;
        let closing = (0..ids.len()).rev().take_while(|place| is_added(*place));
        Ok(Framed {
            second: types.iter().position(|kind| *kind > 0).unwrap_or(ids.len()),
            closing: closing.count(),
            is_own: (0..ids.len())
                .map(|place| pair.is_none() || !is_added(place))
                .collect(),
            ids,
        })
    }

    /// Returns the tokens that the tokenizer puts behind a text.
    pub fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Returns the padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.token_to_id(self.special.pad.as_deref()?)
    }

    /// Tokenizes a rendered conversation: returns the ids, and for each token whether it lies in
    /// one of `spans` (bytes of `text`). Nothing is added, because a chat template writes its own
    /// BOS.
    ///
    /// # Errors
    /// The tokenizer has no tokens for the text.
    pub fn encode_with_spans(
        &self,
        text: &str,
        spans: &[Range<usize>],
    ) -> Result<(Vec<u32>, Vec<bool>), TokenizeError> {
        let Encoding { ids, offsets } = self.encode(text, false)?;
        let mut trained = vec![false; ids.len()];
        for span in spans {
            trained[tokens_of(span, &offsets)].fill(true);
        }
        Ok((ids, trained))
    }

    /// Decodes tokens to text.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizeError> {
        let failed = |cause: String| TokenizeError::Decode {
            tokens: ids.len(),
            cause,
        };
        let text =
            files::guarded(|| self.inner.decode(ids, skip_special_tokens)).map_err(failed)?;
        text.map_err(|error| failed(error.to_string()))
    }

    /// Returns the id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the token of an id, as it stands in the vocabulary.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the number of tokens, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the token that begins a sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_to_id(self.special.bos.as_deref()?)
    }

    /// Returns the token that ends a sequence: the tokenizer's, otherwise the first of the
    /// generation config.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_ids.first().copied()
    }

    /// Returns every token at which generation stops: the tokenizer's and those of the generation
    /// config.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Returns every token that ends a document or a turn: the eos tokens, and the stock templates'
    /// ends of a turn that the tokenizer has.
    pub fn end_ids(&self) -> Vec<u32> {
        let of_turns = ENDS_OF_TURNS
            .into_iter()
            .filter_map(|token| self.token_to_id(token));
        self.eos_ids.iter().copied().chain(of_turns).collect()
    }

    /// Whether a token was added to the vocabulary, special or not.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .contains_key(&id)
    }

    /// Whether a token was added to the vocabulary as a special one.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|token| token.special)
    }

    /// Returns every added token with its id and whether it is special, by id.
    pub fn added_tokens(&self) -> Vec<(u32, String, bool)> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let mut added: Vec<_> = added
            .map(|(id, token)| (id, token.content, token.special))
            .collect();
        added.sort_unstable();
        added
    }

    /// Returns notes on how the folder is read, for an embedding with this many rows.
    pub fn notes(&self, rows: usize) -> Vec<String> {
        let named = |(token, id): &(String, u32)| format!("`{token}` ({id})");
        let list = |tokens: &mut dyn Iterator<Item = &(String, u32)>| {
            listed(&tokens.map(named).collect::<Vec<_>>()).join(", ")
        };
        let has_row = |(_, id): &&(String, u32)| (*id as usize) < rows;
        let added = list(&mut self.new.iter().filter(has_row));
        let beyond = list(&mut self.new.iter().filter(|token| !has_row(token)));
        let added = (!added.is_empty()).then(|| {
            format!(
                "tokens that only the files beside tokenizer.json name are added, as \
                transformers does: {added}"
            )
        });
        let beyond = (!beyond.is_empty()).then(|| {
            format!(
                "tokens that only the files beside tokenizer.json name have no row in the \
                embedding, which has {rows}: {beyond}; a text with one of them is refused"
            )
        });
        let dropout = self.dropout.map(|dropout| {
            format!(
                "tokenizer.json asks for a BPE dropout of {dropout}, which is off here: with \
                it a text would have other tokens each time"
            )
        });
        let renumbered = self.renumbered.first().map(ToString::to_string);
        renumbered
            .into_iter()
            .chain(added)
            .chain(beyond)
            .chain(dropout)
            .collect()
    }

    /// Returns the ids of special tokens that differ from another tokenizer's, by the keys of a
    /// model's config.
    pub fn ids_unlike(&self, other: &Self) -> Vec<(String, Value)> {
        let id = |of: &Self, token: Option<&str>| {
            token
                .and_then(|token| of.token_to_id(token))
                .map(|id| json!(id))
        };
        let ends = |of: &Self| match of.eos_ids() {
            [] => None,
            [only] => Some(json!(only)),
            all => Some(json!(all)),
        };
        let all = [
            (
                TokenRole::Bos,
                id(self, self.special.bos.as_deref()),
                id(other, other.special.bos.as_deref()),
            ),
            (TokenRole::Eos, ends(self), ends(other)),
            (
                TokenRole::Pad,
                id(self, self.special.pad.as_deref()),
                id(other, other.special.pad.as_deref()),
            ),
        ];
        let changed = all.into_iter().filter(|(_, own, of_other)| own != of_other);
        changed
            .filter_map(|(role, own, _)| Some((role.id_key(), own?)))
            .collect()
    }

    /// Returns the identity of the tokenizer: its file and its special tokens. The chat template is
    /// not part of it.
    pub fn hash(&self) -> files::Hash {
        self.hash
    }
}

/// Returns the tokens of a span, by the rule of transformers: from the token of its first character
/// to the token of its last. A character without a token (a space that the tokenizer drops) counts
/// as the next one, or at the end as the one before.
fn tokens_of(span: &Range<usize>, offsets: &[(usize, usize)]) -> Range<usize> {
    let holds = |byte: usize| {
        offsets
            .iter()
            .position(|(start, end)| (*start..*end).contains(&byte))
    };
    let first = holds(span.start).or_else(|| {
        offsets
            .iter()
            .position(|(start, end)| *start >= span.start && start < end)
    });
    let last = holds(span.end.saturating_sub(1)).or_else(|| {
        offsets
            .iter()
            .rposition(|(start, end)| *end <= span.end && start < end)
    });
    match (first, last) {
        (Some(first), Some(last)) if first <= last => first..last + 1,
        _ => 0..0,
    }
}

/// Returns the identity of a tokenizer; `changes` lists its differences from the file.
fn hash(source: &str, special: &SpecialTokens, eos_ids: &[u32], changes: &[String]) -> files::Hash {
    let SpecialTokens {
        bos,
        eos,
        pad,
        unk,
        all,
        ..
    } = special;
    let tokenizer = files::hash_bytes(source.as_bytes()).to_string();
    let mut identity = vec![
        json!(tokenizer),
        json!(bos),
        json!(eos),
        json!(pad),
        json!(unk),
        json!(all),
        json!(eos_ids),
    ];
    identity.extend((!changes.is_empty()).then(|| json!(changes)));
    files::hash_bytes(Value::Array(identity).to_string().as_bytes())
}

fn missing(folder: &Path) -> TokenizeError {
    let has = |name: &str| folder.join(name).exists();
    let instead = match () {
        () if has("tokenizer.model") || has("spiece.model") => ", only a sentencepiece model",
        () if has("vocab.json") && has("merges.txt") => ", only `vocab.json` and `merges.txt`",
        () => "",
    };
    TokenizeError::Missing {
        folder: folder.to_owned(),
        instead,
    }
}

/// Runs an encoding of a text. A regular expression that backtracks too often makes its crate panic.
fn guarded(
    text: &str,
    encode: impl FnOnce() -> tokenizers::Result<tokenizers::Encoding>,
) -> Result<tokenizers::Encoding, TokenizeError> {
    let bytes = text.len();
    files::guarded(encode)
        .map_err(|cause| TokenizeError::Panicked { bytes, cause })?
        .map_err(|error| TokenizeError::Encode {
            bytes,
            cause: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Explain;

    /// Creates a folder with a tokenizer of four words and the given files.
    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let special = |id: u32, content: &str| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {
                "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
            },
            "padding": null,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null,
            "decoder": null,
            "model": {
                "type": "WordLevel",
                "vocab": {"<s>": 0, "</s>": 1, "a": 2, "ü": 3},
                "unk_token": "a",
            },
        });
        for (name, content) in files.iter().chain(&[("tokenizer.json", tokenizer)]) {
            let content = content
                .as_str()
                .map_or_else(|| content.to_string(), str::to_owned);
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn message(folder: &tempfile::TempDir) -> String {
        let place = format!("{}/", folder.path().display());
        Tokenizer::open(folder.path())
            .unwrap_err()
            .to_string()
            .replace(&place, "")
    }

    #[test]
    fn special_tokens_are_strings_or_objects_and_the_map_counts_first() {
        let folder = folder(&[
            (
                "tokenizer_config.json",
                json!({"bos_token": {"content": "<s>"}, "eos_token": "a", "unk_token": null}),
            ),
            (
                "special_tokens_map.json",
                json!({"eos_token": "</s>", "pad_token": "<pad>"}),
            ),
            ("generation_config.json", json!({"eos_token_id": [3, 1]})),
        ]);
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let all = ["<s>", "</s>", "<pad>"].map(str::to_owned).to_vec();
        let (bos, eos, pad) = (
            all.first().cloned(),
            all.get(1).cloned(),
            all.get(2).cloned(),
        );
        let ends = ["</s>", "ü"].map(str::to_owned).to_vec();
        assert_eq!(
            *tokenizer.special(),
            SpecialTokens {
                bos,
                eos,
                pad,
                unk: None,
                all,
                ends
            }
        );
        assert_eq!(
            (
                tokenizer.bos_id(),
                tokenizer.eos_id(),
                tokenizer.token_to_id("<pad>")
            ),
            (Some(0), Some(1), Some(4))
        );
        assert_eq!(tokenizer.eos_ids(), [1, 3]);
        assert_eq!(tokenizer.vocab_size(), 5);
    }

    #[test]
    fn the_template_file_wins_over_the_config_and_a_list_gives_its_default() {
        let list = json!({"chat_template": [
            {"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d"},
        ]});
        let template = |files: &[_]| {
            Tokenizer::open(folder(files).path())
                .unwrap()
                .chat_template()
                .map(str::to_owned)
        };
        assert_eq!(
            template(&[("tokenizer_config.json", list.clone())]).as_deref(),
            Some("d")
        );
        assert_eq!(
            template(&[
                ("tokenizer_config.json", list),
                ("chat_template.jinja", "f".into())
            ])
            .as_deref(),
            Some("f")
        );
        assert_eq!(template(&[]), None);
    }

    #[test]
    fn rows_are_not_cut_by_the_tokenizer() {
        let tokenizer = Tokenizer::open(folder(&[]).path()).unwrap();
        assert_eq!(tokenizer.encode("a a a a", true).unwrap().ids.len(), 4);
    }

    #[test]
    fn spans_reach_from_the_token_of_their_first_character_to_that_of_their_last() {
        let tokenizer = Tokenizer::open(folder(&[]).path()).unwrap();
        let text = "<s>ü a  ü a</s>";
        let mask = |span: Range<usize>| {
            let (ids, trained) = tokenizer.encode_with_spans(text, &[span]).unwrap();
            assert_eq!(ids, [0, 3, 2, 3, 2, 1]);
            trained.into_iter().map(u8::from).collect::<Vec<_>>()
        };
        assert_eq!(mask(3..7), [0, 1, 1, 0, 0, 0]);
        assert_eq!(mask(11..17), [0, 0, 0, 0, 1, 1]);
        assert_eq!(mask(7..12), [0, 0, 0, 1, 0, 0]);
        assert_eq!(mask(7..9), [0; 6]);
    }

    #[test]
    fn what_is_not_a_tokenizer_is_refused_in_words() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tokenizer::open(empty.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("`{}` holds no `tokenizer.json`", empty.path().display())
        );
        std::fs::write(empty.path().join("tokenizer.model"), "").unwrap();
        let error = Tokenizer::open(empty.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("`tokenizer.json`, only a sentencepiece model"),
            "{error}"
        );
        assert!(error.hint().unwrap().starts_with("convert it once"));
        let broken = folder(&[("tokenizer_config.json", "{".into())]);
        assert!(message(&broken).starts_with("`tokenizer_config.json` is not a JSON object: "));
        let wrong = folder(&[("tokenizer_config.json", json!({"bos_token": 7}))]);
        assert_eq!(
            message(&wrong),
            "`bos_token` in `tokenizer_config.json` is `7`, expected a token"
        );
        let wrong = folder(&[("generation_config.json", json!({"eos_token_id": "x"}))]);
        assert!(message(&wrong).ends_with("is `\"x\"`, expected a token id or a list of them"));
    }

    #[test]
    fn the_hash_follows_the_special_tokens() {
        let hash = |files: &[_]| Tokenizer::open(folder(files).path()).unwrap().hash();
        assert_eq!(hash(&[]), hash(&[("chat_template.jinja", "f".into())]));
        assert_ne!(
            hash(&[]),
            hash(&[("tokenizer_config.json", json!({"eos_token": "</s>"}))])
        );
    }
}
