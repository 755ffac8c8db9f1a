//! Progress of a download or an upload, and its line for the user.

use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};

/// Progress of a download or an upload, over all its files.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// File that is being transferred.
    pub file: String,
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes in total.
    pub total_bytes: u64,
    /// Mean speed of the transferred bytes.
    pub bytes_per_second: f64,
}

impl Transfer {
    /// Formats file, bytes, speed and remaining time as a line.
    pub(super) fn line(&self) -> String {
        let Self {
            file,
            done_bytes,
            total_bytes,
            bytes_per_second,
        } = self;
        let left_bytes = total_bytes.saturating_sub(*done_bytes);
        // If nothing moves, the remaining time is unknown; a century stands for it.
        let seconds = (left_bytes as f64 / bytes_per_second.max(1e-9)).clamp(0.0, 3e9);
        let (done, total) = (HumanBytes(*done_bytes), HumanBytes(*total_bytes));
        let (speed, left) = (
            HumanBytes(*bytes_per_second as u64),
            HumanDuration(Duration::from_secs_f64(seconds)),
        );
        format!("{file}: {done} of {total}  {speed}/s  {left} left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_bytes_speed_and_time() {
        let transfer = Transfer {
            file: "model.safetensors".into(),
            done_bytes: 1 << 20,
            total_bytes: 3 << 20,
            bytes_per_second: f64::from(1 << 20),
        };
        assert_eq!(
            transfer.line(),
            "model.safetensors: 1.00 MiB of 3.00 MiB  1.00 MiB/s  2 seconds left"
        );
        let stalled = Transfer {
            bytes_per_second: 0.0,
            ..transfer
        };
        assert!(stalled.line().ends_with(" left"));
    }
}
