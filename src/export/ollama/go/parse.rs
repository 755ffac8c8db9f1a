//! Parses the pieces of a template into a tree.

use std::vec::IntoIter;

use super::GoTemplateError;
use super::lex::{GoToken, Word};

/// The most nested blocks and parentheses.
const MAX_DEPTH: usize = 64;
/// Functions with their least and most arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 7] = [
    ("eq", Function::Eq, 2, 16),
    ("ne", Function::Ne, 2, 2),
    ("and", Function::And, 1, 16),
    ("or", Function::Or, 1, 16),
    ("not", Function::Not, 1, 1),
    ("len", Function::Len, 1, 1),
    ("slice", Function::Slice, 2, 2),
];

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(usize, Value),
    /// A variable is declared or assigned.
    Set {
        line: usize,
        name: String,
        value: Value,
        is_new: bool,
    },
    If {
        line: usize,
        branches: Vec<(Value, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Range {
        line: usize,
        index: Option<String>,
        item: Option<String>,
        over: Value,
        body: Vec<Node>,
    },
}

/// An expression.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Whole(usize),
    Flag(bool),
    /// The dot and its fields.
    Field(Vec<String>),
    /// A variable with its fields; `""` is the whole data.
    Variable(String, Vec<String>),
    Call(Function, Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Eq,
    Ne,
    And,
    Or,
    Not,
    Len,
    Slice,
}

impl Function {
    pub fn name(self) -> &'static str {
        FUNCTIONS
            .iter()
            .find(|(_, function, ..)| *function == self)
            .map_or("", |(name, ..)| name)
    }
}

/// Parses the whole template.
pub(super) fn nodes(pieces: Vec<GoToken>) -> Result<Vec<Node>, GoTemplateError> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
    };
    let (nodes, end) = parser.block(0)?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(GoTemplateError::new(
            end.line,
            format!("`{}` belongs to nothing", end.word()),
        )),
    }
}

/// Returns whether a value in the nodes reads a field of this name.
pub(super) fn names(nodes: &[Node], field: &str) -> bool {
    fn reads(value: &Value, field: &str) -> bool {
        match value {
            Value::Field(fields) | Value::Variable(_, fields) => {
                fields.iter().any(|name| name == field)
            }
            Value::Call(_, values) => values.iter().any(|value| reads(value, field)),
            _ => false,
        }
    }
    nodes.iter().any(|node| match node {
        Node::Text(_) => false,
        Node::Print(_, value) | Node::Set { value, .. } => reads(value, field),
        Node::If {
            branches,
            otherwise,
            ..
        } => {
            names(otherwise, field)
                || branches
                    .iter()
                    .any(|(value, body)| reads(value, field) || names(body, field))
        }
        Node::Range { over, body, .. } => reads(over, field) || names(body, field),
    })
}

struct Parser {
    pieces: IntoIter<GoToken>,
}

/// An `else` or `end`, with the words after it.
struct End {
    line: usize,
    words: Vec<Word>,
}

impl End {
    fn word(&self) -> &str {
        match self.words.first() {
            Some(Word::Name(name)) => name,
            _ => "",
        }
    }
}

impl Parser {
    /// Parses nodes up to an `else` or `end`, or the end of the template.
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, Option<End>), GoTemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (line, words) = match piece {
                GoToken::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                GoToken::Action { line, words } => (line, words),
            };
            if depth > MAX_DEPTH {
                return Err(GoTemplateError::new(
                    line,
                    format!("more than {MAX_DEPTH} blocks lie in one another"),
                ));
            }
            let end = End { line, words };
            match end.word() {
                "else" | "end" => return Ok((nodes, Some(end))),
                "if" => nodes.push(self.branch(line, end.words, depth)?),
                "range" => nodes.push(self.range(line, end.words, depth)?),
                _ => nodes.push(action(line, end.words)?),
            }
        }
        Ok((nodes, None))
    }

    fn branch(
        &mut self,
        line: usize,
        words: Vec<Word>,
        depth: usize,
    ) -> Result<Node, GoTemplateError> {
        let (mut branches, mut condition) = (
            Vec::new(),
            value(line, words.into_iter().skip(1).collect())?,
        );
        loop {
            let (body, end) = self.block(depth + 1)?;
            let end = end.ok_or_else(|| GoTemplateError::new(line, "`if` has no `end`"))?;
            branches.push((condition, body));
            match end.words.as_slice() {
                [Word::Name(name)] if name == "end" => {
                    return Ok(Node::If {
                        line,
                        branches,
                        otherwise: Vec::new(),
                    });
                }
                [Word::Name(_)] => break,
                [Word::Name(_), Word::Name(name), rest @ ..] if name == "if" => {
                    condition = value(end.line, rest.to_vec())?;
                }
                _ => {
                    return Err(GoTemplateError::new(
                        end.line,
                        format!("more stands beside `{}`", end.word()),
                    ));
                }
            }
        }
        let (otherwise, end) = self.block(depth + 1)?;
        closed(line, "if", end)?;
        Ok(Node::If {
            line,
            branches,
            otherwise,
        })
    }

    fn range(
        &mut self,
        line: usize,
        words: Vec<Word>,
        depth: usize,
    ) -> Result<Node, GoTemplateError> {
        let name = |word: &Word| match word {
            Word::Variable(name, fields) if fields.is_empty() && !name.is_empty() => {
                Ok(Some(name.clone()))
            }
            _ => Err(GoTemplateError::new(
                line,
                "`range` has no variable where one is expected",
            )),
        };
        let is = |word: &Word, sign: &str| matches!(word, Word::Sign(found) if *found == sign);
        let (index, item, over) = match &words[1..] {
            [first, comma, second, set, over @ ..] if is(comma, ",") && is(set, ":=") => {
                (name(first)?, name(second)?, over)
            }
            [only, set, over @ ..] if is(set, ":=") => (None, name(only)?, over),
            over => (None, None, over),
        };
        let over = value(line, over.to_vec())?;
        let (body, end) = self.block(depth + 1)?;
        closed(line, "range", end)?;
        Ok(Node::Range {
            line,
            index,
            item,
            over,
            body,
        })
    }
}

/// Refuses any end of a block other than `end`.
fn closed(line: usize, block: &str, end: Option<End>) -> Result<(), GoTemplateError> {
    match end {
        Some(End { words, .. }) if words == [Word::Name("end".to_owned())] => Ok(()),
        Some(end) => Err(GoTemplateError::new(
            end.line,
            format!("`{}` is not known at the end of `{block}`", end.word()),
        )),
        None => Err(GoTemplateError::new(
            line,
            format!("`{block}` has no `end`"),
        )),
    }
}

/// Parses an action that is not a block: a value that is printed or assigned.
fn action(line: usize, mut words: Vec<Word>) -> Result<Node, GoTemplateError> {
    if let [
        Word::Variable(name, fields),
        Word::Sign(sign @ (":=" | "=")),
        ..,
    ] = words.as_slice()
        && fields.is_empty()
        && !name.is_empty()
    {
        let (name, is_new) = (name.clone(), *sign == ":=");
        return Ok(Node::Set {
            line,
            name,
            value: value(line, words.split_off(2))?,
            is_new,
        });
    }
    Ok(Node::Print(line, value(line, words)?))
}

/// Parses all of the words as one value.
fn value(line: usize, words: Vec<Word>) -> Result<Value, GoTemplateError> {
    let mut words = words.into_iter();
    let value = command(line, &mut words, 0)?;
    match words.next() {
        None => Ok(value),
        Some(_) => Err(GoTemplateError::new(line, "`)` has no `(`")),
    }
}

/// Parses a function with its arguments, or one value, up to `)` or the end.
fn command(
    line: usize,
    words: &mut IntoIter<Word>,
    depth: usize,
) -> Result<Value, GoTemplateError> {
    if depth > MAX_DEPTH {
        return Err(GoTemplateError::new(
            line,
            format!("more than {MAX_DEPTH} parentheses lie in one another"),
        ));
    }
    let (mut function, mut values) = (None, Vec::new());
    while let Some(word) = words.next() {
        match word {
            Word::Sign(")") if depth > 0 => return called(line, function, values),
            Word::Sign(")") => return Err(GoTemplateError::new(line, "`)` has no `(`")),
            Word::Sign("(") => values.push(command(line, words, depth + 1)?),
            Word::Sign(sign) => {
                return Err(GoTemplateError::new(
                    line,
                    format!("`{sign}` is not known here"),
                ));
            }
            Word::Name(name) if name == "true" || name == "false" => {
                values.push(Value::Flag(name == "true"));
            }
            Word::Name(name) if function.is_none() && values.is_empty() => {
                let known = FUNCTIONS.iter().find(|(known, ..)| *known == name);
                function = Some(*known.ok_or_else(|| {
                    GoTemplateError::new(line, format!("`{name}` is not known here"))
                })?);
            }
            Word::Name(name) => {
                return Err(GoTemplateError::new(
                    line,
                    format!("`{name}` is not known here"),
                ));
            }
            Word::Field(fields) => values.push(Value::Field(fields)),
            Word::Variable(name, fields) => values.push(Value::Variable(name, fields)),
            Word::Text(text) => values.push(Value::Text(text)),
            Word::Whole(number) => values.push(Value::Whole(number)),
        }
    }
    if depth > 0 {
        Err(GoTemplateError::new(line, "`(` has no `)`"))
    } else {
        called(line, function, values)
    }
}

fn called(
    line: usize,
    function: Option<(&str, Function, usize, usize)>,
    mut values: Vec<Value>,
) -> Result<Value, GoTemplateError> {
    match function {
        Some((_, function, least, most)) if (least..=most).contains(&values.len()) => {
            Ok(Value::Call(function, values))
        }
        Some((name, ..)) => Err(GoTemplateError::new(
            line,
            format!(
                "`{name}` has {} values, which it does not take",
                values.len()
            ),
        )),
        None if values.len() == 1 => Ok(values.remove(0)),
        None => Err(GoTemplateError::new(
            line,
            format!(
                "{} values stand side by side, expected one or a function",
                values.len()
            ),
        )),
    }
}
