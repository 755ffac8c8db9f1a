//! The formats of a row: which columns each reads, and how their cells become one example.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::classes::{LabelReading, Labeled};
use super::conversation_error::ConversationError;
use super::turns::{self, Chat, chat, history};
use super::unread::Unread;
use crate::data::read::columns::wanted;
use crate::data::read::data_file::DataFile;
use crate::data::read::error::TableError;
use crate::data::read::likely::detected;
use crate::data::read::parquet::{self, Batch, ParquetTable};
use crate::terms::{Format, Term};

/// One row, before it is tokenized.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// A text; every token is trained.
    Text(String),
    /// A prompt and its completion.
    Completion {
        /// The given text.
        prompt: String,
        /// The text to learn.
        completion: String,
    },
    /// A task, its input and its answer.
    Instruction(Instruction),
    /// A whole conversation.
    Chat(Chat),
    /// A chosen and a rejected completion of the same prompt, each as prompt and completion.
    Pair(Box<[Self; 2]>),
    /// A prompt and its completion, and whether the completion is desirable.
    Rated(Box<Self>, bool),
    /// An anchor, a positive and negatives.
    Texts(Vec<String>),
    /// A pair, and by how much the score of the chosen completion is to exceed the other.
    Margin(Box<Self>, f32),
    /// A text or words with labels.
    Labeled(Labeled),
}

/// A task in Alpaca's form, with LLaMA-Factory's additions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instruction {
    /// System prompt, which replaces Alpaca's own first sentence; never empty.
    pub system: Option<String>,
    /// Earlier tasks with their answers.
    pub history: Vec<(String, String)>,
    /// The task.
    pub instruction: String,
    /// Input of the task; never empty.
    pub input: Option<String>,
    /// The answer.
    pub output: String,
}

/// An example read from a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The example.
    pub example: Example,
    /// Contents of the row that are not in the example.
    pub unread: Vec<Unread>,
}

impl From<Example> for Read {
    fn from(example: Example) -> Self {
        Self {
            example,
            unread: Vec::new(),
        }
    }
}

/// Error while an example is read from a row.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A cell cannot be read.
    #[error(transparent)]
    Cell(#[from] TableError),
    /// The content of a cell cannot be used.
    #[error("{cause}")]
    Content {
        /// The canonical name of its column.
        column: &'static str,
        /// The error.
        #[source]
        cause: Box<ConversationError>,
    },
}

/// Returns the number of rows of a file from its footer, after checking that the format's columns
/// are there and readable.
///
/// # Errors
/// The file is not whole, or a column is missing or holds something else.
pub fn inspect(
    file: &DataFile,
    format: Format,
    names: &BTreeMap<String, String>,
) -> Result<u64, TableError> {
    Ok(ParquetTable::open(file, &wanted(format, names))?.rows())
}

/// Map from canonical column names to the names in the file.
pub type ColumnNames = BTreeMap<String, String>;

/// Detects the format whose columns all files have, otherwise the one that the first file's columns
/// suggest. Returns it with the file's names of columns that are named differently.
///
/// # Errors
/// The first file cannot be opened.
pub fn guessed(files: &[DataFile]) -> Result<Option<(Format, ColumnNames)>, TableError> {
    let fits = |format: Format, names: &ColumnNames| {
        files
            .iter()
            .all(|file| inspect(file, format, names).is_ok())
    };
    let plain = BTreeMap::new();
    if let Some((_, format)) = Format::WORDS
        .iter()
        .find(|(_, format)| fits(*format, &plain))
    {
        return Ok(Some((*format, plain)));
    }
    let Some(first) = files.first() else {
        return Ok(None);
    };
    let Some((format, names)) = detected(&parquet::candidates(first)?) else {
        return Ok(None);
    };
    let names = names
        .into_iter()
        .map(|(own, name)| (own.to_owned(), name))
        .collect();
    Ok(fits(format, &names).then_some((format, names)))
}

/// Returns the columns of the files that the format does not read, each once. A file that cannot be
/// opened has none.
pub fn unread_columns(
    files: &[DataFile],
    format: Format,
    names: &BTreeMap<String, String>,
) -> Vec<String> {
    let wanted = wanted(format, names);
    let of_file = |file: &DataFile| {
        ParquetTable::open(file, &wanted)
            .map(|table| table.unread_columns())
            .unwrap_or_default()
    };
    let mut columns: Vec<String> = Vec::new();
    for column in files.iter().flat_map(of_file) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

/// Whether a chat template renders rows of any of these files. A file that cannot be opened does
/// not count.
pub fn any_rendered(files: &[DataFile], format: Format, names: &BTreeMap<String, String>) -> bool {
    let is_table = |file: &DataFile| {
        ParquetTable::open(file, &wanted(format, names))
            .is_ok_and(|table| is_rendered(format, &table))
    };
    files.iter().any(is_table) || format == Format::Chat
}

/// Whether rows of a table are rendered by a chat template.
pub fn is_rendered(format: Format, table: &ParquetTable) -> bool {
    match format {
        Format::Text | Format::Instruction | Format::Retrieval | Format::Classification => false,
        Format::Completion => table.has_lists("completion"),
        Format::Unpaired => table.has_lists("completion") || table.has_lists("chosen"),
        Format::Preference => table.has_lists("chosen"),
        Format::Chat => true,
    }
}

/// A completion of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The chosen one.
    Chosen,
    /// The rejected one.
    Rejected,
}

/// Reads the example of one completion of the pair in a row, with a label; `None` if there is
/// nothing to learn.
///
/// # Errors
/// As for [`read`].
pub fn read_half(
    half: Half,
    roles: &BTreeMap<String, String>,
    batch: &Batch,
    row: usize,
) -> Result<Option<Read>, FormatError> {
    let pair = Cells { roles, batch, row }.pair()?;
    Ok(pair.map(|read| Read {
        example: match read.example {
            Example::Pair(halves) => {
                let [chosen, rejected] = *halves;
                let example = match half {
                    Half::Chosen => chosen,
                    Half::Rejected => rejected,
                };
                Example::Rated(Box::new(example), half == Half::Chosen)
            }
            other => other,
        },
        unread: read.unread,
    }))
}

/// Reads the example in a row of a batch; `None` if there is nothing to learn: a needed cell is
/// null, or the text, completion, output or conversation is empty. `roles` maps further words to
/// roles; `labels` tells how labels and margins are read, where they are.
///
/// # Errors
/// A cell cannot be read, or a conversation is invalid.
pub fn read(
    format: Format,
    roles: &BTreeMap<String, String>,
    labels: Option<&LabelReading>,
    batch: &Batch,
    row: usize,
) -> Result<Option<Read>, FormatError> {
    let cells = Cells { roles, batch, row };
    Ok(match format {
        Format::Text => cells.filled("text")?.map(|text| Example::Text(text).into()),
        Format::Completion => cells.completion()?,
        Format::Instruction => cells
            .instruction()?
            .map(|task| Example::Instruction(task).into()),
        Format::Chat => cells.chat()?,
        Format::Preference => match (cells.pair()?, labels) {
            (Some(read), Some(LabelReading::Margin(source))) => {
                Some(read.and(cells.margin(*source)?))
            }
            (read, _) => read,
        },
        Format::Unpaired => cells.rated()?,
        Format::Retrieval => cells.texts()?,
        Format::Classification => match labels {
            Some(LabelReading::Classes(reading)) => cells.labeled(reading)?,
            _ => None,
        },
    })
}

/// The highest factor of a row's loss.
const MAX_LOSS_WEIGHT: f64 = 1e6;

/// Reads the factor of a row's loss; 1 where the cell is null or the file lacks the column.
///
/// # Errors
/// The cell cannot be read, or it is no number from 0 to a million.
pub fn loss_weight(batch: &Batch, row: usize) -> Result<f32, FormatError> {
    match batch.cell(Format::LOSS_WEIGHT, row)? {
        Value::Null if batch.is_null(Format::LOSS_WEIGHT, row) => Ok(1.0),
        found => found
            .as_f64()
            .filter(|weight| (0.0..=MAX_LOSS_WEIGHT).contains(weight))
            .map(|weight| weight as f32)
            .ok_or_else(|| FormatError::Content {
                column: Format::LOSS_WEIGHT,
                cause: ConversationError::LossWeight { found }.into(),
            }),
    }
}

/// The cells of a row.
pub(super) struct Cells<'a> {
    /// Further words for roles.
    pub(super) roles: &'a BTreeMap<String, String>,
    batch: &'a Batch,
    row: usize,
}

impl Cells<'_> {
    /// Whether the file has a column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.batch.has(column)
    }

    /// Returns a cell; null where the file lacks the column.
    pub(super) fn cell(&self, column: &str) -> Result<Value, FormatError> {
        Ok(self.batch.cell(column, self.row)?)
    }

    fn text(&self, column: &str) -> Result<Option<String>, FormatError> {
        Ok(self.cell(column)?.as_str().map(str::to_owned))
    }

    fn filled(&self, column: &str) -> Result<Option<String>, FormatError> {
        Ok(self.text(column)?.filter(|text| !text.is_empty()))
    }

    /// Parses a cell with one of the readers of conversations.
    pub(super) fn parsed<T>(
        &self,
        column: &'static str,
        read: impl Fn(Value) -> Result<T, ConversationError>,
    ) -> Result<T, FormatError> {
        read(self.cell(column)?).map_err(|cause| FormatError::Content {
            column,
            cause: cause.into(),
        })
    }

    fn instruction(&self) -> Result<Option<Instruction>, FormatError> {
        let (instruction, output) = (self.text("instruction")?, self.filled("output")?);
        let (input, system) = (self.filled("input")?, self.filled("system")?);
        let history = self.parsed("history", history)?;
        let task = |(instruction, output)| Instruction {
            system,
            history,
            instruction,
            input,
            output,
        };
        Ok(instruction.zip(output).map(task))
    }

    /// Reads a prompt and completion: texts, or TRL's conversational form with prompt messages and
    /// messages to learn.
    pub(super) fn completion(&self) -> Result<Option<Read>, FormatError> {
        let (prompt, completion) = (self.cell("prompt")?, self.cell("completion")?);
        let tools = self.parsed("tools", turns::tools)?;
        match (prompt, completion) {
            (Value::Null, _) | (_, Value::Null) => Ok(None),
            (Value::String(prompt), Value::String(completion)) => {
                let unread = tools.map(|_| Unread::Tools).into_iter().collect();
                let example = Example::Completion {
                    prompt,
                    completion: completion.clone(),
                };
                Ok(Some(Read { example, unread }).filter(|_| !completion.is_empty()))
            }
            (prompt, completion) if prompt.is_string() || completion.is_string() => {
                let form = |value: &Value| {
                    if value.is_string() {
                        "text"
                    } else {
                        "a list of messages"
                    }
                };
                let cause = ConversationError::Mixed {
                    found: form(&completion),
                    prompt: form(&prompt),
                };
                Err(FormatError::Content {
                    column: "completion",
                    cause: cause.into(),
                })
            }
            _ => self.turns_of_both(tools),
        }
    }

    fn turns_of_both(&self, tools: Option<Vec<Value>>) -> Result<Option<Read>, FormatError> {
        let Some(completion) = self.parsed("completion", turns::turns)? else {
            return Ok(None);
        };
        let read = |column, turns| {
            chat(turns, None, self.roles).map_err(|cause| FormatError::Content {
                column,
                cause: cause.into(),
            })
        };
        let mut whole = read(
            "prompt",
            self.parsed("prompt", turns::turns)?.unwrap_or_default(),
        )?;
        let learned = read("completion", completion)?;
        whole.prompt_turns = whole.trained.len();
        whole.conversation.tools = tools;
        whole.conversation.variables = self.parsed("chat_template_kwargs", turns::variables)?;
        whole
            .conversation
            .messages
            .extend(learned.conversation.messages);
        whole.trained.extend(learned.trained);
        Ok(Some(Example::Chat(whole).into()))
    }

    /// Builds the turns of a question and its answer; `None` if one of them is missing.
    fn question(&self) -> Result<Option<Vec<Value>>, FormatError> {
        let (prompt, completion) = (self.text("prompt")?, self.filled("completion")?);
        let turn = |role: &str, content: String| json!({"role": role, "content": content});
        Ok(prompt
            .zip(completion)
            .map(|(prompt, completion)| vec![turn("user", prompt), turn("assistant", completion)]))
    }

    fn chat(&self) -> Result<Option<Read>, FormatError> {
        let (tools, system) = (self.parsed("tools", turns::tools)?, self.filled("system")?);
        let (column, turns) = if self.batch.has("completion") {
            ("completion", self.question()?)
        } else {
            ("messages", self.parsed("messages", turns::turns)?)
        };
        let Some(turns) = turns else { return Ok(None) };
        let mut chat = chat(turns, tools, self.roles).map_err(|cause| FormatError::Content {
            column,
            cause: cause.into(),
        })?;
        chat.conversation.variables = self.parsed("chat_template_kwargs", turns::variables)?;
        Ok(Some(match system {
            Some(system) => with_system(chat, &system),
            None => Example::Chat(chat).into(),
        }))
    }
}

/// Whether a conversation has a system message of its own.
fn has_system(chat: &Chat) -> bool {
    let first = chat.conversation.messages.first();
    first.is_some_and(|first| first["role"] == "system" || first["role"] == "developer")
}

fn put_in_front(chat: &mut Chat, system: &str) {
    chat.conversation
        .messages
        .insert(0, json!({"role": "system", "content": system}));
    chat.trained.insert(0, None);
}

impl Read {
    /// Adds the margin of a pair.
    fn and(self, margin: Option<f32>) -> Self {
        let Some(margin) = margin else { return self };
        Self {
            example: Example::Margin(Box::new(self.example), margin),
            unread: self.unread,
        }
    }

    /// Adds the dataset's system message to a conversation that has none; other rows stay as they
    /// are.
    #[must_use]
    pub fn with_system(mut self, system: Option<&str>) -> Self {
        if let (Example::Chat(chat), Some(system)) = (&mut self.example, system)
            && !has_system(chat)
        {
            put_in_front(chat, system);
        }
        self
    }
}

/// Adds the system message of its column to a conversation that has none of its own.
fn with_system(mut chat: Chat, system: &str) -> Read {
    if has_system(&chat) {
        let unread = if chat.conversation.messages[0]["content"] == system {
            Vec::new()
        } else {
            vec![Unread::System]
        };
        return Read {
            example: Example::Chat(chat),
            unread,
        };
    }
    put_in_front(&mut chat, system);
    Example::Chat(chat).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;
    use crate::data::read::parquet::tests::{texts, write_table};

    fn read_all(
        format: Format,
        columns: Vec<(&str, ArrayRef)>,
    ) -> Result<Vec<Option<Read>>, FormatError> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.parquet");
        write_table(&path, columns, 1000);
        let table = ParquetTable::open(&path.into(), &wanted(format, &BTreeMap::new()))?;
        let start = table.row_groups().next().expect("a row group");
        let batch = table.read(&start)?.next().expect("a batch")?;
        (0..batch.rows())
            .map(|row| read(format, &BTreeMap::new(), None, &batch, row))
            .collect()
    }

    fn examples(
        format: Format,
        columns: Vec<(&str, ArrayRef)>,
    ) -> Result<Vec<Option<Example>>, FormatError> {
        Ok(read_all(format, columns)?
            .into_iter()
            .map(|read| read.map(|read| read.example))
            .collect())
    }

    #[test]
    fn empty_and_null_answers_have_nothing_to_learn() {
        let column =
            |rows: [Option<&str>; 4]| Arc::new(StringArray::from(rows.to_vec())) as ArrayRef;
        let given = column([Some("q"), Some(""), None, Some("q")]);
        let learned = column([Some("a"), Some("a"), Some("a"), Some("")]);
        let completion = |prompt: &str| {
            Some(Example::Completion {
                prompt: prompt.into(),
                completion: "a".into(),
            })
        };
        let read = examples(
            Format::Completion,
            vec![("prompt", given), ("completion", learned.clone())],
        )
        .expect("read");
        assert_eq!(read, [completion("q"), completion(""), None, None]);
        let read = examples(Format::Text, vec![("text", learned)]).expect("read");
        assert_eq!(read.iter().filter(|example| example.is_some()).count(), 3);
    }

    #[test]
    fn an_empty_input_is_none_and_a_file_may_do_without_the_column() {
        let columns = vec![
            ("instruction", texts(["i", "i"])),
            ("output", texts(["o", "o"])),
            ("input", texts(["", "x"])),
        ];
        let instruction = |input: Option<&str>| {
            let task = Instruction {
                instruction: "i".into(),
                input: input.map(str::to_owned),
                output: "o".into(),
                ..Instruction::default()
            };
            Some(Example::Instruction(task))
        };
        assert_eq!(
            examples(Format::Instruction, columns.clone()).expect("read"),
            [instruction(None), instruction(Some("x"))]
        );
        assert_eq!(
            examples(Format::Instruction, columns[..2].to_vec()).expect("read"),
            [instruction(None), instruction(None)]
        );
        let named = BTreeMap::from([("input".into(), "context".into())]);
        let input = wanted(Format::Instruction, &named)
            .into_iter()
            .find(|column| column.canonical == "input")
            .expect("wanted");
        assert!(
            !input.optional && input.name == "context",
            "a column that is named must be there"
        );
    }

    #[test]
    fn a_system_column_comes_first_unless_the_conversation_has_its_own() {
        let turns = [
            r#"[{"role": "user", "content": "q"}]"#,
            r#"[{"role": "system", "content": "own"}]"#,
            r#"[{"role": "system", "content": "s"}]"#,
        ];
        let read = read_all(
            Format::Chat,
            vec![
                ("messages", texts(turns)),
                ("system", texts(["s", "s", "s"])),
            ],
        )
        .expect("read");
        let first = |row: usize| match &read[row].as_ref().expect("a row").example {
            Example::Chat(chat) => (chat.conversation.messages[0].clone(), chat.trained.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(first(0), (json!({"role": "system", "content": "s"}), 2));
        assert_eq!(first(1), (json!({"role": "system", "content": "own"}), 1));
        let unread: Vec<_> = read
            .iter()
            .flatten()
            .map(|read| read.unread.clone())
            .collect();
        assert_eq!(unread, [vec![], vec![Unread::System], vec![]]);
    }

    #[test]
    fn a_fault_names_the_column_that_it_is_in() {
        let good = r#"[{"role": "user", "content": "q"}]"#;
        for (messages, tools, expected) in [(good, "5", "tools"), ("5", "[]", "messages")] {
            let error = read_all(
                Format::Chat,
                vec![("messages", texts([messages])), ("tools", texts([tools]))],
            );
            assert!(
                matches!(error, Err(FormatError::Content { column, .. }) if column == expected),
                "{error:?}"
            );
        }
    }
}
