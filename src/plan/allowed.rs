//! The memory that a run may use.

use crate::device;
use crate::report::mebibytes;
use crate::terms::Device;

/// The share of free memory that a run uses by default: the closed form may be a few percent off,
/// and other programs need memory too.
const SHARE_OF_FREE: f64 = 0.9;

/// The memory that a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The limit in bytes.
    pub bytes: u64,
    /// Whether the limit comes from `training.max_memory`.
    pub is_said: bool,
}

impl Allowed {
    /// Returns the limit in the recipe, or most of the free memory of the device if that is known.
    pub(super) fn find(said_bytes: Option<u64>, device: Device) -> Option<Self> {
        let said = said_bytes.map(|bytes| Self {
            bytes,
            is_said: true,
        });
        let free = || device::free_memory_bytes(device);
        said.or_else(|| {
            free().map(|bytes| Self {
                bytes: (bytes as f64 * SHARE_OF_FREE) as u64,
                is_said: false,
            })
        })
    }

    /// Describes the limit and where it comes from.
    pub(super) fn describe(self) -> String {
        let from = if self.is_said {
            "training.max_memory".to_owned()
        } else {
            format!("{SHARE_OF_FREE} of what is free")
        };
        format!("{} ({from})", mebibytes(self.bytes))
    }
}
