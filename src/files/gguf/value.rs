//! Values of the metadata, as the file stores them.

/// The type of a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// An unsigned whole number of so many bytes.
    Unsigned(usize),
    /// A signed whole number of so many bytes.
    Signed(usize),
    /// A floating-point number of so many bytes.
    Float(usize),
    /// A byte that is 0 or 1.
    Bool,
    /// A length of 64 bits, and so many bytes of UTF-8.
    Text,
}

/// The kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    /// A single value.
    One(ItemKind),
    /// A list of so many values of one type.
    List(ItemKind, usize),
}

/// Where a value stands in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub kind: MetadataKind,
    /// The first byte of the value, or of the first item of a list.
    pub start: usize,
}

impl ItemKind {
    /// Returns the type of this number; `None` for lists and unknown numbers.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float(4),
            7 => Self::Bool,
            8 => Self::Text,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float(8),
            _ => return None,
        })
    }

    /// Returns the least bytes of a value.
    pub(super) fn least_bytes(self) -> usize {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::Float(bytes) => bytes,
            Self::Bool => 1,
            Self::Text => 8,
        }
    }

    /// Returns the type in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsigned(1) => "u8",
            Self::Unsigned(2) => "u16",
            Self::Unsigned(4) => "u32",
            Self::Unsigned(_) => "u64",
            Self::Signed(1) => "i8",
            Self::Signed(2) => "i16",
            Self::Signed(4) => "i32",
            Self::Signed(_) => "i64",
            Self::Float(4) => "f32",
            Self::Float(_) => "f64",
            Self::Bool => "bool",
            Self::Text => "text",
        }
    }
}

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(&'a [u8]),
}

impl<'a> Item<'a> {
    /// Reads a value whose place was checked, and returns the place after it.
    pub fn at(file: &'a [u8], start: usize, kind: ItemKind) -> (Self, usize) {
        let whole = |bytes: usize| {
            let mut number = [0; 8];
            number[..bytes].copy_from_slice(&file[start..start + bytes]);
            u64::from_le_bytes(number)
        };
        match kind {
            ItemKind::Unsigned(bytes) => (Self::Unsigned(whole(bytes)), start + bytes),
            ItemKind::Signed(bytes) => {
                let shift = 64 - 8 * bytes as u32;
                let number = (whole(bytes) << shift).cast_signed() >> shift;
                (Self::Signed(number), start + bytes)
            }
            ItemKind::Float(4) => (Self::F32(f32::from_bits(whole(4) as u32)), start + 4),
            ItemKind::Float(_) => (Self::F64(f64::from_bits(whole(8))), start + 8),
            ItemKind::Bool => (Self::Bool(file[start] != 0), start + 1),
            ItemKind::Text => {
                let (first, length) = (start + 8, whole(8) as usize);
                (Self::Text(&file[first..first + length]), first + length)
            }
        }
    }

    pub fn flag(self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    pub fn size(self) -> Option<usize> {
        match self {
            Self::Unsigned(number) => usize::try_from(number).ok(),
            Self::Signed(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    pub fn number(self) -> Option<f64> {
        let number = match self {
            Self::Unsigned(number) => number as f64,
            Self::Signed(number) => number as f64,
            // The shortest decimal number is the one that was meant.
            Self::F32(number) => number.to_string().parse().ok()?,
            Self::F64(number) => number,
            Self::Bool(_) | Self::Text(_) => return None,
        };
        number.is_finite().then_some(number)
    }
}
