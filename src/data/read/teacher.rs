//! The most likely tokens of a teacher in the columns of a Parquet file, as `rankine teach` writes
//! them: for each row the trained tokens, and for each of these the ids and log-probabilities of
//! the most likely tokens in its place.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::footer;
use crate::files;
use crate::terms::TopTokens;

/// Names of the columns: the trained tokens, ids and log-probabilities.
pub const COLUMNS: [&str; 3] = ["teacher_targets", "teacher_ids", "teacher_logprobs"];
/// The key of the file's metadata with the temperature of the log-probabilities.
pub const TEMPERATURE: &str = "rankine.teacher_temperature";
/// Rows that are in memory at a time.
const BATCH_ROWS: usize = 64;

/// The teacher's columns of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct TaughtRow {
    /// The trained tokens.
    pub targets: Vec<u32>,
    /// The most likely tokens in the place of each.
    pub top: TopTokens,
}

/// Reads the teacher's columns of a file: passes each row with its number to `take`, and returns
/// the temperature of the log-probabilities.
///
/// # Errors
/// The file cannot be read, is no Parquet file with these columns, or `take` refuses a row; in
/// words.
pub fn taught_rows(
    path: &Path,
    mut take: impl FnMut(u64, TaughtRow) -> Result<(), String>,
) -> Result<f64, String> {
    let file = files::open_file(path).map_err(|error| error.to_string())?;
    let builder = footer::attempt(|| ParquetRecordBatchReaderBuilder::try_new(file))?;
    for name in COLUMNS {
        if builder.schema().field_with_name(name).is_err() {
            return Err(format!(
                "it has no column `{name}`, expected {}",
                COLUMNS.map(|name| format!("`{name}`")).join(", ")
            ));
        }
    }
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let said = pairs
        .into_iter()
        .flatten()
        .find(|pair| pair.key == TEMPERATURE);
    let temperature = match said.and_then(|pair| pair.value.as_deref()) {
        None => 1.0,
        Some(text) => text
            .parse()
            .map_err(|_| format!("its {TEMPERATURE} is `{text}`, expected a number"))?,
    };
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    let mut reader = footer::attempt(|| {
        builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
    })?;
    let mut number = 0;
    while let Some(batch) = files::guarded(|| reader.next())? {
        let batch = batch.map_err(|error| error.to_string())?;
        let columns = Columns::of(&batch)?;
        for row in 0..batch.num_rows() {
            let at = |reason| format!("row {number}: {reason}");
            if let Some(row) = columns.row(row).map_err(at)? {
                take(number, row).map_err(at)?;
            }
            number += 1;
        }
    }
    Ok(temperature)
}

/// The columns of a batch: lists of numbers, and lists of lists of them.
struct Columns([ArrayRef; 3]);

impl Columns {
    fn of(batch: &RecordBatch) -> Result<Self, String> {
        let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, true)));
        let types = [
            list(DataType::Int64),
            list(list(DataType::Int64)),
            list(list(DataType::Float32)),
        ];
        let column = |name: &str, wanted: &DataType| {
            let found = batch
                .column_by_name(name)
                .ok_or_else(|| format!("it has no column `{name}`"))?;
            cast(found, wanted).map_err(|_| {
                format!(
                    "column `{name}` holds {}, expected lists{} of numbers",
                    found.data_type(),
                    if name == COLUMNS[0] { "" } else { " of lists" }
                )
            })
        };
        let [targets, ids, log_p] = [0, 1, 2].map(|index| column(COLUMNS[index], &types[index]));
        Ok(Self([targets?, ids?, log_p?]))
    }

    /// Returns the columns of a row; `None` where one of them is null.
    fn row(&self, row: usize) -> Result<Option<TaughtRow>, String> {
        let Self([targets, ids, log_p]) = self;
        if self.0.iter().any(|column| column.is_null(row)) {
            return Ok(None);
        }
        let targets = tokens(&targets.as_list::<i32>().value(row))?;
        let (ids, log_p) = (
            ids.as_list::<i32>().value(row),
            log_p.as_list::<i32>().value(row),
        );
        let (ids, log_p) = (ids.as_list::<i32>(), log_p.as_list::<i32>());
        if ids.len() != targets.len() || log_p.len() != targets.len() {
            return Err(format!(
                "{} trained tokens have the distributions of {} and {} places",
                targets.len(),
                ids.len(),
                log_p.len()
            ));
        }
        let mut top = TopTokens {
            each: if ids.is_empty() {
                0
            } else {
                ids.value(0).len()
            },
            ..TopTokens::default()
        };
        for place in 0..ids.len() {
            let (some, of_some) = (tokens(&ids.value(place))?, log_p.value(place));
            let of_some = of_some.as_primitive::<Float32Type>();
            if some.len() != top.each || of_some.len() != top.each {
                return Err(format!(
                    "place {place} has {} ids and {} log-probabilities, expected {}, as at the \
                    first",
                    some.len(),
                    of_some.len(),
                    top.each
                ));
            }
            check(&some, of_some.values()).map_err(|reason| format!("place {place}: {reason}"))?;
            top.ids.extend(some);
            top.log_p.extend(of_some.values());
        }
        Ok(Some(TaughtRow { targets, top }))
    }
}

fn tokens(list: &ArrayRef) -> Result<Vec<u32>, String> {
    let ids = list.as_primitive::<Int64Type>();
    let id = |id: Option<i64>| {
        let id = id.ok_or_else(|| "an id is null".to_owned())?;
        u32::try_from(id).map_err(|_| format!("{id} is no id of a token"))
    };
    ids.iter().map(id).collect()
}

/// Refuses what is no part of a distribution.
fn check(ids: &[u32], log_p: &[f32]) -> Result<(), String> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let mut pairs = sorted.iter().zip(sorted.iter().skip(1));
    if let Some((twice, _)) = pairs.find(|(left, right)| left == right) {
        return Err(format!("id {twice} is there twice"));
    }
    if let Some(found) = log_p.iter().find(|log_p| log_p.is_nan() || **log_p > 1e-3) {
        return Err(format!("{found} is no logarithm of a probability"));
    }
    let sum: f64 = log_p.iter().map(|log_p| f64::from(*log_p).exp()).sum();
    if sum > 1.0 + 1e-3 {
        return Err(format!(
            "its probabilities add up to {sum:.4}, expected at most 1"
        ));
    }
    if sum <= 0.0 {
        return Err("it has no token with a probability".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_part_of_a_distribution_is_refused() {
        let half = 0.5_f32.ln();
        assert_eq!(check(&[3, 1], &[half, half]), Ok(()));
        for (ids, log_p, said) in [
            (vec![3, 3], vec![half, half], "id 3 is there twice"),
            (vec![1], vec![0.2], "0.2 is no logarithm"),
            (vec![1], vec![f32::NAN], "NaN is no logarithm"),
            (vec![1, 2], vec![-0.1, -0.1], "add up to 1.8"),
            (
                vec![1],
                vec![f32::NEG_INFINITY],
                "no token with a probability",
            ),
        ] {
            let found = check(&ids, &log_p).expect_err("refused");
            assert!(found.contains(said), "{found}");
        }
    }
}
