//! Dates, times and decimals of a column, as Python's `str` prints them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Time32MillisecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType,
};
use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

/// Nanoseconds in a second.
const NANOSECONDS: i64 = 1_000_000_000;
/// Seconds in a day.
const DAY: i64 = 86_400;

/// Returns the text of the value in a row; `None` for another type, or a time outside the calendar.
pub fn text(column: &dyn Array, row: usize) -> Option<String> {
    match column.data_type() {
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            Some(
                Date::constant(1970, 1, 1)
                    .checked_add(SignedDuration::from_secs(i64::from(days) * DAY))
                    .ok()?
                    .to_string(),
            )
        }
        DataType::Timestamp(unit, zone) => {
            let (count, in_second) = match unit {
                TimeUnit::Millisecond => (
                    column.as_primitive::<TimestampMillisecondType>().value(row),
                    1_000,
                ),
                TimeUnit::Microsecond => (
                    column.as_primitive::<TimestampMicrosecondType>().value(row),
                    1_000_000,
                ),
                TimeUnit::Nanosecond => (
                    column.as_primitive::<TimestampNanosecondType>().value(row),
                    NANOSECONDS,
                ),
                TimeUnit::Second => return None,
            };
            let nanoseconds = count.rem_euclid(in_second) * (NANOSECONDS / in_second);
            let since = SignedDuration::new(count.div_euclid(in_second), nanoseconds as i32);
            let time = DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
                .checked_add(since)
                .ok()?;
            // A Parquet file knows UTC and nothing else.
            let zone = if zone.is_some() { "+00:00" } else { "" };
            Some(format!("{} {}{zone}", time.date(), of_day(time.time())))
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            time(i64::from(column.as_primitive::<Time32MillisecondType>().value(row)) * 1_000_000)
        }
        DataType::Time64(TimeUnit::Microsecond) => time(
            column
                .as_primitive::<Time64MicrosecondType>()
                .value(row)
                .checked_mul(1_000)?,
        ),
        DataType::Time64(TimeUnit::Nanosecond) => {
            time(column.as_primitive::<Time64NanosecondType>().value(row))
        }
        DataType::Decimal128(..) => {
            Some(column.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        DataType::Decimal256(..) => {
            Some(column.as_primitive::<Decimal256Type>().value_as_string(row))
        }
        _ => None,
    }
}

fn time(nanoseconds: i64) -> Option<String> {
    Some(of_day(
        Time::midnight()
            .checked_add(SignedDuration::from_nanos(nanoseconds))
            .ok()?,
    ))
}

/// Formats a time of day with six digits after the second, or nine, or none if they are zeros.
fn of_day(time: Time) -> String {
    let whole = time.strftime("%H:%M:%S");
    match time.subsec_nanosecond() {
        0 => whole.to_string(),
        nanoseconds if nanoseconds % 1000 == 0 => format!("{whole}.{:06}", nanoseconds / 1000),
        nanoseconds => format!("{whole}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Date32Array, Decimal128Array, Int64Array, Time64MicrosecondArray,
        TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    };

    use super::*;

    /// The expected texts are those that Python 3.11 prints for `str` of a value that pyarrow
    /// reads.
    #[test]
    fn times_read_as_python_prints_them() {
        let cases: [(ArrayRef, Option<&str>); 9] = [
            (
                Arc::new(Date32Array::from(vec![19_753])),
                Some("2024-01-31"),
            ),
            (Arc::new(Date32Array::from(vec![-1])), Some("1969-12-31")),
            (
                Arc::new(TimestampMillisecondArray::from(vec![1_706_659_200_000])),
                Some("2024-01-31 00:00:00"),
            ),
            (
                Arc::new(TimestampMicrosecondArray::from(vec![-500_000])),
                Some("1969-12-31 23:59:59.500000"),
            ),
            (
                Arc::new(
                    TimestampMicrosecondArray::from(vec![1_706_702_400_000_001])
                        .with_timezone("UTC"),
                ),
                Some("2024-01-31 12:00:00.000001+00:00"),
            ),
            (
                Arc::new(TimestampNanosecondArray::from(vec![1])),
                Some("1970-01-01 00:00:00.000000001"),
            ),
            (
                Arc::new(Time64MicrosecondArray::from(vec![43_200_000_000])),
                Some("12:00:00"),
            ),
            (
                Arc::new(
                    Decimal128Array::from(vec![150])
                        .with_precision_and_scale(10, 2)
                        .expect("a decimal"),
                ),
                Some("1.50"),
            ),
            (Arc::new(Int64Array::from(vec![1])), None),
        ];
        for (column, expected) in cases {
            assert_eq!(
                text(&column, 0).as_deref(),
                expected,
                "{}",
                column.data_type()
            );
        }
    }
}
