//! `rankine embed`: vectors of the texts of a file, as Parquet.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Failure, print};
use crate::report::{Terminal, grouped};
use crate::run::{self, EmbedRequest};
use crate::terms::{Pooling, Term};

#[derive(Debug, Args)]
pub(super) struct EmbedArgs {
    /// Rows with texts: a file, a folder or a pattern
    #[arg(value_name = "FILE")]
    data: PathBuf,
    /// The Parquet file to write: the texts, and a column `embedding`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The column of texts
    #[arg(long, default_value = "text")]
    column: String,
    /// The folder of a base, or a Hub id that was pulled; without it that of the adapter
    #[arg(long, value_name = "DIR|ID")]
    base: Option<PathBuf>,
    /// An adapter: its folder, that of a run or a checkpoint, or a Hub id that was pulled
    #[arg(long, value_name = "DIR|ID")]
    adapter: Option<PathBuf>,
    /// How tokens become a vector: `mean`, `lasttoken` or `cls`; without it as the folder of the
    /// adapter or the base says, else `mean`
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Keep only the first numbers of each vector
    #[arg(long, value_name = "N")]
    dim: Option<usize>,
    /// Cut texts to this many tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Texts that are computed at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch_size: usize,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn pooling(word: &str) -> Result<Pooling, String> {
    Pooling::parse(word).ok_or_else(|| {
        let words: Vec<&str> = Pooling::WORDS.iter().map(|(word, _)| *word).collect();
        format!("expected one of {}", words.join(", "))
    })
}

pub(super) fn embed(args: &EmbedArgs, terminal: &Terminal) -> Result<(), Failure> {
    let request = EmbedRequest {
        data: args.data.clone(),
        column: args.column.clone(),
        base: args.base.clone(),
        adapter: args.adapter.clone(),
        pooling: args.pooling,
        width: args.dim,
        max_tokens: args.max_tokens,
        batch_size: args.batch_size,
        out: args.out.clone(),
    };
    let made = run::embed(&request, &|event| terminal.take(&event))?;
    if args.json {
        return print(json!({
            "out": args.out.display().to_string(),
            "rows": made.rows,
            "without_text": made.without_text,
            "cut": made.cut,
            "width": made.width,
            "pooling": made.pooling.word(),
        }));
    }
    let mut line = format!(
        "{} rows with vectors of {} numbers, pooling `{}`, in `{}`",
        grouped((made.rows - made.without_text) as u64),
        made.width,
        made.pooling,
        args.out.display()
    );
    if made.without_text > 0 {
        let _ = write!(
            line,
            "; {} rows without text have none",
            grouped(made.without_text as u64)
        );
    }
    if made.cut > 0 {
        let _ = write!(line, "; {} texts were cut", grouped(made.cut as u64));
    }
    print(line)
}
