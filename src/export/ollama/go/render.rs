//! A template's tree and a conversation to text.

use super::Error;
use super::parse::{Function, Node, Value};

/// Nodes that are rendered, at most: a conversation of ours takes some hundred.
const MAX_STEPS: usize = 100_000;
/// Bytes of a rendering, at most: one of ours has some hundred.
const MAX_BYTES: usize = 16 << 20;

/// A turn as Ollama hands it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Turn {
    pub role: String,
    pub content: String,
}

/// A value at hand.
#[derive(Debug, Clone, PartialEq)]
enum Found<'a> {
    Text(String),
    Whole(usize),
    Flag(bool),
    Turns(&'a [Turn]),
    Turn(&'a Turn),
    /// All of the data.
    Root,
}

struct Renderer<'a> {
    turns: &'a [Turn],
    /// Innermost last.
    variables: Vec<(String, Found<'a>)>,
    dot: Found<'a>,
    steps: usize,
    text: String,
}

/// Renders the nodes.
pub(super) fn render(nodes: &[Node], turns: &[Turn]) -> Result<String, Error> {
    let mut renderer = Renderer { turns, variables: Vec::new(), dot: Found::Root, steps: 0, text: String::new() };
    renderer.block(nodes)?;
    Ok(renderer.text)
}

impl<'a> Renderer<'a> {
    /// Variables that are made within are gone after it.
    fn block(&mut self, nodes: &[Node]) -> Result<(), Error> {
        let before = self.variables.len();
        nodes.iter().try_for_each(|node| self.node(node))?;
        self.variables.truncate(before);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), Error> {
        match node {
            Node::Text(text) => self.text.push_str(text),
            Node::Print(line, value) => {
                let text = match self.value(*line, value)? {
                    Found::Text(text) => text,
                    Found::Whole(number) => number.to_string(),
                    Found::Flag(flag) => flag.to_string(),
                    _ => return Err(Error::new(*line, "a list or a whole message is not printed")),
                };
                self.text.push_str(&text);
            }
            Node::Set { line, name, value, is_new } => {
                let value = self.value(*line, value)?;
                match self.variables.iter().rposition(|(known, _)| known == name) {
                    _ if *is_new => self.variables.push((name.clone(), value)),
                    Some(place) => self.variables[place].1 = value,
                    None => return Err(Error::new(*line, format!("`${name}` is not set"))),
                }
            }
            Node::If { line, branches, otherwise } => {
                for (condition, body) in branches {
                    if is_true(&self.value(*line, condition)?) {
                        return self.block(body);
                    }
                }
                self.block(otherwise)?;
            }
            Node::Range { line, index, item, over, body } => self.range(*line, [index, item], over, body)?,
        }
        Ok(())
    }

    fn range(&mut self, line: usize, names: [&Option<String>; 2], over: &Value, body: &[Node]) -> Result<(), Error> {
        let Found::Turns(turns) = self.value(line, over)? else { return Err(Error::new(line, "`range` is over no list")) };
        let dot = self.dot.clone();
        for (index, turn) in turns.iter().enumerate() {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.text.len() > MAX_BYTES {
                return Err(Error::new(
                    line,
                    format!("it takes more than {MAX_STEPS} steps or writes more than {MAX_BYTES} bytes"),
                ));
            }
            let before = self.variables.len();
            let values = [Found::Whole(index), Found::Turn(turn)];
            let bound = names.into_iter().zip(values).filter_map(|(name, value)| Some((name.clone()?, value)));
            self.variables.extend(bound);
            self.dot = Found::Turn(turn);
            self.block(body)?;
            self.variables.truncate(before);
        }
        self.dot = dot;
        Ok(())
    }

    fn value(&self, line: usize, value: &Value) -> Result<Found<'a>, Error> {
        match value {
            Value::Text(text) => Ok(Found::Text(text.clone())),
            Value::Whole(number) => Ok(Found::Whole(*number)),
            Value::Flag(flag) => Ok(Found::Flag(*flag)),
            Value::Field(fields) => self.fields(line, self.dot.clone(), fields),
            Value::Variable(name, fields) if name.is_empty() => self.fields(line, Found::Root, fields),
            Value::Variable(name, fields) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
                self.fields(line, found.ok_or_else(|| Error::new(line, format!("`${name}` is not set")))?, fields)
            }
            Value::Call(function @ (Function::And | Function::Or), values) => self.choice(line, *function, values),
            Value::Call(function, values) => {
                let values = values.iter().map(|value| self.value(line, value)).collect::<Result<Vec<_>, _>>()?;
                call(line, *function, &values)
            }
        }
    }

    /// The first value that decides, or the last.
    fn choice(&self, line: usize, function: Function, values: &[Value]) -> Result<Found<'a>, Error> {
        let mut found = Found::Flag(false);
        for value in values {
            found = self.value(line, value)?;
            if is_true(&found) == (function == Function::Or) {
                break;
            }
        }
        Ok(found)
    }

    /// What Ollama's data holds under a name. Nobody calls tools, thinks or sends images in the conversations here.
    fn fields(&self, line: usize, of: Found<'a>, fields: &[String]) -> Result<Found<'a>, Error> {
        let unknown = |name: &str| Err(Error::new(line, format!("`.{name}` is not known there")));
        let system = || self.turns.iter().filter(|turn| turn.role == "system").map(|turn| turn.content.as_str());
        fields.iter().try_fold(of, |of, name| match (of, name.as_str()) {
            (Found::Root, "Messages") => Ok(Found::Turns(self.turns)),
            (Found::Root, "System") => Ok(Found::Text(system().collect::<Vec<_>>().join("\n\n"))),
            (Found::Root, "Response") | (Found::Turn(_), "Thinking") => Ok(Found::Text(String::new())),
            (Found::Root, "Tools") | (Found::Turn(_), "ToolCalls" | "Images") => Ok(Found::Turns(&[])),
            (Found::Root, "Think" | "IsThinkSet") => Ok(Found::Flag(false)),
            (Found::Turn(turn), "Role") => Ok(Found::Text(turn.role.clone())),
            (Found::Turn(turn), "Content") => Ok(Found::Text(turn.content.clone())),
            (_, name) => unknown(name),
        })
    }
}

fn is_true(value: &Found) -> bool {
    match value {
        Found::Text(text) => !text.is_empty(),
        Found::Whole(number) => *number != 0,
        Found::Flag(flag) => *flag,
        Found::Turns(turns) => !turns.is_empty(),
        Found::Turn(_) | Found::Root => true,
    }
}

fn call<'a>(line: usize, function: Function, values: &[Found<'a>]) -> Result<Found<'a>, Error> {
    let wrong = || Error::new(line, format!("`{}` does not take these values", function.name()));
    let equal = |left: &Found, right: &Found| match (left, right) {
        (Found::Text(_), Found::Text(_)) | (Found::Whole(_), Found::Whole(_)) | (Found::Flag(_), Found::Flag(_)) => {
            Ok(left == right)
        }
        _ => Err(wrong()),
    };
    match (function, values) {
        (Function::Eq, [left, rights @ ..]) => {
            let equals = rights.iter().map(|right| equal(left, right)).collect::<Result<Vec<_>, _>>()?;
            Ok(Found::Flag(equals.contains(&true)))
        }
        (Function::Ne, [left, right]) => Ok(Found::Flag(!equal(left, right)?)),
        (Function::Not, [value]) => Ok(Found::Flag(!is_true(value))),
        (Function::Len, [Found::Text(text)]) => Ok(Found::Whole(text.len())),
        (Function::Len, [Found::Turns(turns)]) => Ok(Found::Whole(turns.len())),
        (Function::Slice, [Found::Turns(turns), Found::Whole(from)]) => {
            let from = turns.get(*from..);
            from.map(Found::Turns).ok_or_else(|| Error::new(line, format!("a slice {} is out of the list", show(&values[1]))))
        }
        _ => Err(wrong()),
    }
}

fn show(value: &Found) -> String {
    if let Found::Whole(number) = value { format!("from {number}") } else { String::new() }
}
