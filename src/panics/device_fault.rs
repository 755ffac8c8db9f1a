//! Failure of a device, in the words of its driver.

use std::fmt;

use super::chain::{last_cause, shortened};
use super::status::Status;

/// Failure of a device or its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFault {
    /// Status of the CUDA driver; `None` if it does not indicate a fault, or the device is not a
    /// CUDA device.
    pub status: Option<&'static Status>,
    /// Line of the driver that reports the failure.
    pub words: String,
}

impl DeviceFault {
    /// Reads the fault from a panic message; `None` if it reports none. Of several statuses, the
    /// last one is the root cause, because messages go from symptom to cause.
    pub(super) fn read(words: &str) -> Option<Self> {
        const LOST: [&str; 4] = [
            "device is poisoned",
            "device was poisoned",
            "device is lost",
            "device lost",
        ];
        // Some of burn's errors print the inner error with escaped line breaks.
        let mut lines = words.lines().rev().flat_map(|line| line.rsplit("\\n"));
        let with_status = lines.find_map(|line| Some((Status::in_line(line)?, line)));
        if let Some((status, line)) = with_status {
            return Some(Self {
                status: Some(status),
                words: shortened(line.trim()),
            });
        }
        let lower = words.to_lowercase();
        LOST.iter().any(|text| lower.contains(text)).then(|| Self {
            status: None,
            words: shortened(last_cause(words)),
        })
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        self.status.is_some_and(|status| status.is_out_of_memory())
    }

    /// Returns what to do about the failure.
    pub fn advice(&self) -> &'static str {
        self.status.map_or(LOST_ADVICE, |status| status.advice)
    }
}

/// Advice for a device that is lost without a status.
const LOST_ADVICE: &str = "look into the system's log for a reset of the GPU's driver; lower \
    `training.micro_batch_size` if the driver stops kernels that take long";

impl fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(Status {
                number,
                name,
                meaning,
                ..
            }) => {
                write!(
                    f,
                    "{name} ({number}), {meaning}; the driver's words: {}",
                    self.words
                )
            }
            None => write!(
                f,
                "the GPU or its driver was lost; its words: {}",
                self.words
            ),
        }
    }
}
