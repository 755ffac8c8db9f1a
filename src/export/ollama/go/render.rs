//! Renders a template's tree with a conversation.

use super::GoTemplateError;
use super::parse::{Function, Node, Value};

/// The most nodes to render; a test conversation takes some hundred.
const MAX_STEPS: usize = 100_000;
/// The most bytes of a rendering; a test conversation takes some hundred.
const MAX_BYTES: usize = 16 << 20;

/// A turn as Ollama passes it to a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Turn {
    pub role: String,
    pub content: String,
}

/// A value during rendering.
#[derive(Debug, Clone, PartialEq)]
enum GoValue<'a> {
    Text(String),
    Whole(usize),
    Flag(bool),
    Turns(&'a [Turn]),
    Turn(&'a Turn),
    /// The whole data.
    Root,
}

struct Renderer<'a> {
    turns: &'a [Turn],
    /// Variables in scope, innermost last.
    variables: Vec<(String, GoValue<'a>)>,
    dot: GoValue<'a>,
    steps: usize,
    text: String,
}

/// Renders the nodes.
pub(super) fn render(nodes: &[Node], turns: &[Turn]) -> Result<String, GoTemplateError> {
    let mut renderer = Renderer {
        turns,
        variables: Vec::new(),
        dot: GoValue::Root,
        steps: 0,
        text: String::new(),
    };
    renderer.block(nodes)?;
    Ok(renderer.text)
}

impl<'a> Renderer<'a> {
    /// Renders a block. Variables declared in it end with it.
    fn block(&mut self, nodes: &[Node]) -> Result<(), GoTemplateError> {
        let before = self.variables.len();
        nodes.iter().try_for_each(|node| self.node(node))?;
        self.variables.truncate(before);
        Ok(())
    }

    fn node(&mut self, node: &Node) -> Result<(), GoTemplateError> {
        match node {
            Node::Text(text) => self.text.push_str(text),
            Node::Print(line, value) => {
                let text = match self.value(*line, value)? {
                    GoValue::Text(text) => text,
                    GoValue::Whole(number) => number.to_string(),
                    GoValue::Flag(flag) => flag.to_string(),
                    _ => {
                        return Err(GoTemplateError::new(
                            *line,
                            "a list or a whole message is not printed",
                        ));
                    }
                };
                self.text.push_str(&text);
            }
            Node::Set {
                line,
                name,
                value,
                is_new,
            } => {
                let value = self.value(*line, value)?;
                match self.variables.iter().rposition(|(known, _)| known == name) {
                    _ if *is_new => self.variables.push((name.clone(), value)),
                    Some(place) => self.variables[place].1 = value,
                    None => {
                        return Err(GoTemplateError::new(*line, format!("`${name}` is not set")));
                    }
                }
            }
            Node::If {
                line,
                branches,
                otherwise,
            } => {
                for (condition, body) in branches {
                    if is_true(&self.value(*line, condition)?) {
                        return self.block(body);
                    }
                }
                self.block(otherwise)?;
            }
            Node::Range {
                line,
                index,
                item,
                over,
                body,
            } => self.range(*line, [index, item], over, body)?,
        }
        Ok(())
    }

    fn range(
        &mut self,
        line: usize,
        names: [&Option<String>; 2],
        over: &Value,
        body: &[Node],
    ) -> Result<(), GoTemplateError> {
        let GoValue::Turns(turns) = self.value(line, over)? else {
            return Err(GoTemplateError::new(line, "`range` is over no list"));
        };
        let dot = self.dot.clone();
        for (index, turn) in turns.iter().enumerate() {
            self.steps += 1;
            if self.steps > MAX_STEPS || self.text.len() > MAX_BYTES {
                return Err(GoTemplateError::new(
                    line,
                    format!(
                        "it takes more than {MAX_STEPS} steps or writes more than {MAX_BYTES} bytes"
                    ),
                ));
            }
            let before = self.variables.len();
            let values = [GoValue::Whole(index), GoValue::Turn(turn)];
            let bound = names
                .into_iter()
                .zip(values)
                .filter_map(|(name, value)| Some((name.clone()?, value)));
            self.variables.extend(bound);
            self.dot = GoValue::Turn(turn);
            self.block(body)?;
            self.variables.truncate(before);
        }
        self.dot = dot;
        Ok(())
    }

    fn value(&self, line: usize, value: &Value) -> Result<GoValue<'a>, GoTemplateError> {
        match value {
            Value::Text(text) => Ok(GoValue::Text(text.clone())),
            Value::Whole(number) => Ok(GoValue::Whole(*number)),
            Value::Flag(flag) => Ok(GoValue::Flag(*flag)),
            Value::Field(fields) => self.fields(line, self.dot.clone(), fields),
            Value::Variable(name, fields) if name.is_empty() => {
                self.fields(line, GoValue::Root, fields)
            }
            Value::Variable(name, fields) => {
                let found = self
                    .variables
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone());
                self.fields(
                    line,
                    found.ok_or_else(|| {
                        GoTemplateError::new(line, format!("`${name}` is not set"))
                    })?,
                    fields,
                )
            }
            Value::Call(function @ (Function::And | Function::Or), values) => {
                self.choice(line, *function, values)
            }
            Value::Call(function, values) => {
                let values = values
                    .iter()
                    .map(|value| self.value(line, value))
                    .collect::<Result<Vec<_>, _>>()?;
                call(line, *function, &values)
            }
        }
    }

    /// Returns the first value that decides `and` or `or`, else the last.
    fn choice(
        &self,
        line: usize,
        function: Function,
        values: &[Value],
    ) -> Result<GoValue<'a>, GoTemplateError> {
        let mut found = GoValue::Flag(false);
        for value in values {
            found = self.value(line, value)?;
            if is_true(&found) == (function == Function::Or) {
                break;
            }
        }
        Ok(found)
    }

    /// Returns the value of a name in Ollama's data. The conversations here have no tool calls,
    /// thinking or images.
    fn fields(
        &self,
        line: usize,
        of: GoValue<'a>,
        fields: &[String],
    ) -> Result<GoValue<'a>, GoTemplateError> {
        let unknown = |name: &str| {
            Err(GoTemplateError::new(
                line,
                format!("`.{name}` is not known there"),
            ))
        };
        let system = || {
            self.turns
                .iter()
                .filter(|turn| turn.role == "system")
                .map(|turn| turn.content.as_str())
        };
        fields
            .iter()
            .try_fold(of, |of, name| match (of, name.as_str()) {
                (GoValue::Root, "Messages") => Ok(GoValue::Turns(self.turns)),
                (GoValue::Root, "System") => {
                    Ok(GoValue::Text(system().collect::<Vec<_>>().join("\n\n")))
                }
                (GoValue::Root, "Response") | (GoValue::Turn(_), "Thinking") => {
                    Ok(GoValue::Text(String::new()))
                }
                (GoValue::Root, "Tools") | (GoValue::Turn(_), "ToolCalls" | "Images") => {
                    Ok(GoValue::Turns(&[]))
                }
                (GoValue::Root, "Think" | "IsThinkSet") => Ok(GoValue::Flag(false)),
                (GoValue::Turn(turn), "Role") => Ok(GoValue::Text(turn.role.clone())),
                (GoValue::Turn(turn), "Content") => Ok(GoValue::Text(turn.content.clone())),
                (_, name) => unknown(name),
            })
    }
}

fn is_true(value: &GoValue) -> bool {
    match value {
        GoValue::Text(text) => !text.is_empty(),
        GoValue::Whole(number) => *number != 0,
        GoValue::Flag(flag) => *flag,
        GoValue::Turns(turns) => !turns.is_empty(),
        GoValue::Turn(_) | GoValue::Root => true,
    }
}

fn call<'a>(
    line: usize,
    function: Function,
    values: &[GoValue<'a>],
) -> Result<GoValue<'a>, GoTemplateError> {
    let wrong = || {
        GoTemplateError::new(
            line,
            format!("`{}` does not take these values", function.name()),
        )
    };
    let equal = |left: &GoValue, right: &GoValue| match (left, right) {
        (GoValue::Text(_), GoValue::Text(_))
        | (GoValue::Whole(_), GoValue::Whole(_))
        | (GoValue::Flag(_), GoValue::Flag(_)) => Ok(left == right),
        _ => Err(wrong()),
    };
    match (function, values) {
        (Function::Eq, [left, rights @ ..]) => {
            let equals = rights
                .iter()
                .map(|right| equal(left, right))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(GoValue::Flag(equals.contains(&true)))
        }
        (Function::Ne, [left, right]) => Ok(GoValue::Flag(!equal(left, right)?)),
        (Function::Not, [value]) => Ok(GoValue::Flag(!is_true(value))),
        (Function::Len, [GoValue::Text(text)]) => Ok(GoValue::Whole(text.len())),
        (Function::Len, [GoValue::Turns(turns)]) => Ok(GoValue::Whole(turns.len())),
        (Function::Slice, [GoValue::Turns(turns), GoValue::Whole(from)]) => {
            let from = turns.get(*from..);
            from.map(GoValue::Turns).ok_or_else(|| {
                GoTemplateError::new(
                    line,
                    format!("a slice {} is out of the list", show(&values[1])),
                )
            })
        }
        _ => Err(wrong()),
    }
}

fn show(value: &GoValue) -> String {
    if let GoValue::Whole(number) = value {
        format!("from {number}")
    } else {
        String::new()
    }
}
