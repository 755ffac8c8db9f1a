//! YAML as a tree of located nodes. Recipes use a small part of YAML: one document, without
//! anchors, aliases or tags.
//!
//! A serde derive would stop at the first fault and lose locations; the parser's events keep both.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use serde_yaml::granit_parser::{
    Event, Marker, Options, Parser, ScalarStyle, Span, StrInput, options,
};

use super::notes::Notes;
use super::place::Location;
use crate::fault::Fault;

/// The highest nesting of collections; the schema needs five.
pub(super) const MAX_DEPTH: usize = 16;
/// The most characters of a value that a message quotes.
const MAX_SHOWN: usize = 60;

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub place: Location,
    pub kind: NodeValue,
}

/// The content of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NodeValue {
    /// Text after unescaping; `plain` is false for text in quotes, `written` is the source text
    /// including quotes.
    Scalar {
        text: String,
        written: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(BTreeMap<String, KeyValue>),
    /// A value that has its fault already. Readers treat it as unset and add no other fault.
    Refused,
}

/// A key's place and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeyValue {
    pub place: Location,
    pub value: Node,
}

impl Node {
    /// Returns a blank value.
    pub fn blank(place: Location) -> Self {
        Self {
            place,
            kind: NodeValue::Scalar {
                text: String::new(),
                written: String::new(),
                plain: true,
            },
        }
    }

    /// Returns the value of a key; `None` if this is no map or has no such key.
    pub fn into_entry(self, key: &str) -> Option<Self> {
        let NodeValue::Map(mut entries) = self.kind else {
            return None;
        };
        Some(entries.remove(key)?.value)
    }

    /// Describes the value for a message of what was found.
    pub fn found(&self) -> String {
        if self.is_blank() {
            "nothing".into()
        } else {
            format!("`{}`", self.shown())
        }
    }

    /// Returns the value as written, collections in flow style, cut so that messages stay short.
    pub fn shown(&self) -> String {
        let whole = match &self.kind {
            NodeValue::Scalar { written, .. } => written.clone(),
            NodeValue::List(nodes) => format!(
                "[{}]",
                nodes.iter().map(Self::shown).collect::<Vec<_>>().join(", ")
            ),
            NodeValue::Map(entries) => {
                let pairs: Vec<_> = entries
                    .iter()
                    .map(|(key, entry)| format!("{key}: {}", entry.value.shown()))
                    .collect();
                format!("{{{}}}", pairs.join(", "))
            }
            NodeValue::Refused => "...".into(),
        };
        shorten(&whole)
    }
}

/// Returns the first line of a text, cut to fit in a message.
pub(super) fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim_end();
    let start: String = line.chars().take(MAX_SHOWN).collect();
    if start.len() == text.trim_end().len() {
        start
    } else {
        format!("{start}...")
    }
}

/// Reads YAML into a tree; a text without a value is a blank node. `locate` turns the parser's
/// marks into places.
///
/// Returns `None` if the text has no tree; the fault is then in `notes`. Other faults leave a tree
/// to continue with.
pub(super) fn parse(
    text: &str,
    locate: &dyn Fn(&Marker) -> Location,
    notes: &Notes,
) -> Option<Node> {
    let parser = Parser::new_from_str_with_options(text, strict());
    let mut builder = Builder {
        text,
        parser,
        locate,
        notes,
    };
    let mut root = None;
    loop {
        match builder.next()? {
            (Event::StreamEnd, _) => break,
            (Event::DocumentStart(..), span) if root.is_some() => {
                let fault = Fault::new("a second document starts here, expected one");
                notes.say(
                    &locate(&span.start),
                    fault.hint("keep one recipe in a file, without a `---` line"),
                );
                break;
            }
            (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
            (event, span) => root = Some(builder.node(event, &span, 0)?),
        }
    }
    Some(root.unwrap_or_else(|| Node::blank(locate(&Marker::new(0, 1, 0)))))
}

fn strict() -> Options {
    options! { emit_comments: false, emit_anchor_events: true, emit_unresolved_aliases: true }
}

/// Builds nodes from events. Its methods return `None` when reading cannot continue; the fault is
/// then in `notes`.
struct Builder<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    locate: &'a dyn Fn(&Marker) -> Location,
    notes: &'a Notes,
}

impl<'a> Builder<'a> {
    /// Returns the next event that is not an anchor.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        loop {
            match self.parser.next()? {
                Ok((Event::Anchor(_, name), span)) => {
                    let fault = Fault::new(format!(
                        "anchor `&{}` is not allowed in a recipe",
                        shorten(&name)
                    ));
                    self.say(
                        &span.start,
                        fault.hint("write the value out where it is used"),
                    );
                }
                Ok(located) => return Some(located),
                Err(error) => {
                    self.say(
                        error.marker(),
                        Fault::new(format!("not YAML: {}", error.info())),
                    );
                    return None;
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            self.say(
                &span.start,
                Fault::new(format!(
                    "more than {MAX_DEPTH} collections within each other"
                )),
            );
            return None;
        }
        if let Some(tag) = span.tag_span() {
            let fault = Fault::new(format!(
                "tag `{}` is not allowed in a recipe",
                shorten(tag.slice(self.text).unwrap_or("!"))
            ));
            self.say(
                &tag.start,
                fault.hint("remove it; a text that starts with `!` needs quotes"),
            );
        }
        let kind = match event {
            Event::Scalar(text, style, ..) => self.scalar(text.into_owned(), style, span),
            Event::SequenceStart(..) => self.list(depth)?,
            Event::MappingStart(..) => self.map(depth)?,
            // Of the parser's nodes only aliases are left, known and unknown ones.
            _ => {
                let fault = Fault::new(format!(
                    "alias `{}` is not allowed in a recipe",
                    shorten(span.slice(self.text).unwrap_or("*"))
                ));
                self.say(
                    &span.start,
                    fault.hint("write the value out; a text that starts with `*` needs quotes"),
                );
                NodeValue::Refused
            }
        };
        Some(Node {
            place: (self.locate)(&span.start),
            kind,
        })
    }

    fn scalar(&self, text: String, style: ScalarStyle, span: &Span) -> NodeValue {
        let plain = style == ScalarStyle::Plain;
        let written = if plain {
            text.clone()
        } else {
            span.slice(self.text).unwrap_or(&text).to_owned()
        };
        NodeValue::Scalar {
            text,
            written,
            plain,
        }
    }

    fn list(&mut self, depth: usize) -> Option<NodeValue> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(NodeValue::List(nodes)),
                (event, span) => nodes.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<NodeValue> {
        let mut entries = BTreeMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Some(NodeValue::Map(entries)),
                (event, span) => self.node(event, &span, depth + 1)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            self.insert(&mut entries, key, value);
        }
    }

    /// Adds an entry; of a duplicate key the first one stays.
    fn insert(&self, entries: &mut BTreeMap<String, KeyValue>, key: Node, value: Node) {
        let name = match &key.kind {
            NodeValue::Scalar { text, .. } if !key.is_blank() => text.clone(),
            NodeValue::Refused => return,
            _ => {
                let fault = Fault::new(format!(
                    "expected a name before the colon, found {}",
                    key.found()
                ));
                return self.notes.say(&key.place, fault);
            }
        };
        match entries.entry(name) {
            Slot::Vacant(slot) => {
                slot.insert(KeyValue {
                    place: key.place,
                    value,
                });
            }
            Slot::Occupied(slot) => {
                let fault = Fault::new(format!(
                    "double key `{}`, first at {}",
                    shorten(slot.key()),
                    slot.get().place
                ));
                self.notes
                    .say(&key.place, fault.hint("keep one of the two"));
            }
        }
    }

    fn say(&self, mark: &Marker, fault: Fault) {
        self.notes.say(&(self.locate)(mark), fault);
    }
}
