//! Walks the header of a file that may lie about every count, length and offset.

use std::collections::BTreeMap;

use super::GgufTensor;
use super::kind::TensorKind;
use super::value::{Item, ItemKind, MetadataKind, Stored};

/// Largest header that is walked: ten times that of the largest vocabulary.
const MAX_HEADER_BYTES: usize = 256 << 20;
/// The most tensors: more than any model has.
const MAX_TENSORS: u64 = 250_000;
/// The most keys.
const MAX_KEYS: u64 = 100_000;
/// The most bytes of a key, and of a tensor's name.
const MAX_NAME_BYTES: usize = 1024;
/// The most dimensions of a tensor, `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// The alignment of tensors where the metadata names none.
pub(super) const ALIGNMENT: usize = 32;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
const MAX_ALIGNMENT: usize = 1 << 20;
/// GGUF's number of a list among the types of values.
const LIST: u32 = 9;

pub(super) struct Header {
    pub metadata: BTreeMap<String, Stored>,
    pub tensors: BTreeMap<String, GgufTensor>,
    /// The end of the metadata, at which the table of tensors begins.
    pub table_start: usize,
    pub data_start: usize,
}

struct Cursor<'a> {
    file: &'a [u8],
    place: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.file.len().min(MAX_HEADER_BYTES) - self.place
    }

    fn take(&mut self, bytes: usize, what: &str) -> Result<&'a [u8], String> {
        if bytes > self.left() {
            return Err(self.ended(bytes as u64, what));
        }
        let taken = &self.file[self.place..self.place + bytes];
        self.place += bytes;
        Ok(taken)
    }

    fn ended(&self, bytes: u64, what: &str) -> String {
        if self.file.len() > MAX_HEADER_BYTES {
            return format!(
                "{what} needs {bytes} bytes at byte {}, and a header of at most {MAX_HEADER_BYTES} \
                is read",
                self.place
            );
        }
        format!(
            "{what} needs {bytes} bytes at byte {}, the file has {}",
            self.place,
            self.file.len()
        )
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        let bytes = self.take(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Reads a count of things that take at least `least` bytes each.
    fn count(&mut self, most: u64, least: usize, what: &str) -> Result<usize, String> {
        let count = self.u64(what)?;
        if count > most {
            return Err(format!("it has {count} {what}, at most {most} are read"));
        }
        match count.checked_mul(least as u64) {
            Some(bytes) if bytes <= self.left() as u64 => Ok(count as usize),
            bytes => Err(self.ended(bytes.unwrap_or(u64::MAX), &format!("{count} {what}"))),
        }
    }

    fn name(&mut self, what: &str) -> Result<String, String> {
        let length = self.u64(what)?;
        if length > MAX_NAME_BYTES as u64 {
            return Err(format!(
                "{what} at byte {} has {length} bytes, expected at most {MAX_NAME_BYTES}",
                self.place - 8
            ));
        }
        let bytes = self.take(length as usize, what)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| format!("{what} at byte {} is not UTF-8", self.place))?;
        Ok(text.to_owned())
    }

    /// Passes over one value.
    fn pass(&mut self, kind: ItemKind, key: &str) -> Result<(), String> {
        let what = format!("the value of `{key}`");
        if kind != ItemKind::Text {
            let bytes = self.take(kind.least_bytes(), &what)?;
            return match bytes {
                [flag @ 2..=u8::MAX] if kind == ItemKind::Bool => {
                    Err(format!("{what} is the flag {flag}, expected 0 or 1"))
                }
                _ => Ok(()),
            };
        }
        let length = self.u64(&what)?;
        match usize::try_from(length) {
            Ok(length) => self.take(length, &what).map(drop),
            Err(_) => Err(self.ended(length, &what)),
        }
    }

    fn value(&mut self, key: &str) -> Result<Stored, String> {
        let what = format!("the type of `{key}`");
        let number = self.u32(&what)?;
        if number != LIST {
            let kind = ItemKind::of(number)
                .ok_or_else(|| format!("{what} is {number}, known are 0 to 12"))?;
            let start = self.place;
            self.pass(kind, key)?;
            return Ok(Stored {
                kind: MetadataKind::One(kind),
                start,
            });
        }
        let number = self.u32(&what)?;
        if number == LIST {
            return Err(format!("`{key}` is a list of lists, which is not read"));
        }
        let kind = ItemKind::of(number)
            .ok_or_else(|| format!("{what} is a list of {number}, known are 0 to 12"))?;
        let items = format!("items of `{key}`");
        let count = self.count(u64::MAX, kind.least_bytes(), &items)?;
        let start = self.place;
        match kind {
            ItemKind::Text | ItemKind::Bool => {
                (0..count).try_for_each(|_| self.pass(kind, key))?;
            }
            _ => drop(self.take(count * kind.least_bytes(), &items)?),
        }
        Ok(Stored {
            kind: MetadataKind::List(kind, count),
            start,
        })
    }
}

/// The entry of a tensor before its place was checked.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: TensorKind,
    bytes: u64,
    offset: u64,
}

/// Walks the header.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn read(file: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor { file, place: 0 };
    if cursor.take(4, "its first word")? != b"GGUF" {
        return Err("it does not begin with `GGUF`".to_owned());
    }
    match cursor.u32("its version")? {
        2 | 3 => {}
        version if version.swap_bytes() <= 0xffff => {
            return Err("it is for big-endian machines, expected little-endian".to_owned());
        }
        version => return Err(format!("its version is {version}, known are 2 and 3")),
    }
    let tensors = cursor.u64("the number of tensors")?;
    if tensors > MAX_TENSORS {
        return Err(format!(
            "it has {tensors} tensors, at most {MAX_TENSORS} are read"
        ));
    }
    // A key takes 8 bytes and its text, a value at least 5.
    let keys = cursor.count(MAX_KEYS, 13, "keys of metadata")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = cursor.name("a key of metadata")?;
        let value = cursor.value(&key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("the key `{key}` stands there twice"));
        }
    }
    let alignment = alignment(file, &metadata)?;
    let table_start = cursor.place;
    let entries = (0..tensors)
        .map(|_| entry(&mut cursor))
        .collect::<Result<Vec<_>, _>>()?;
    let data_start = cursor.place.next_multiple_of(alignment);
    // Without tensors there need be no padding.
    if !entries.is_empty() && data_start > file.len() {
        return Err(format!(
            "the data of tensors starts at byte {data_start}, the file has {}",
            file.len()
        ));
    }
    let data_start = data_start.min(file.len());
    Ok(Header {
        metadata,
        tensors: placed(entries, data_start, file.len(), alignment)?,
        table_start,
        data_start,
    })
}

fn alignment(file: &[u8], metadata: &BTreeMap<String, Stored>) -> Result<usize, String> {
    let Some(stored) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(ALIGNMENT);
    };
    let size = match stored.kind {
        MetadataKind::One(kind) => Item::at(file, stored.start, kind).0.size(),
        MetadataKind::List(..) => None,
    };
    size.filter(|size| size.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(size))
        .ok_or_else(|| format!("`{ALIGNMENT_KEY}` is not a power of two from 8 to {MAX_ALIGNMENT}"))
}

fn entry(cursor: &mut Cursor) -> Result<Entry, String> {
    let name = cursor.name("the name of a tensor")?;
    let what = format!("the entry of tensor `{name}`");
    let dimensions = cursor.u32(&what)?;
    if dimensions > MAX_DIMENSIONS {
        return Err(format!(
            "tensor `{name}` has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}"
        ));
    }
    let mut shape = (0..dimensions)
        .map(|_| cursor.u64(&what))
        .collect::<Result<Vec<_>, _>>()?;
    // The dimension whose numbers lie side by side comes first in the file.
    shape.reverse();
    let id = cursor.u32(&what)?;
    let kind = TensorKind::of(id)
        .ok_or_else(|| format!("tensor `{name}` has GGML's type {id}, which is not known"))?;
    let offset = cursor.u64(&what)?;
    let width = shape.last().copied().unwrap_or(1);
    if width % kind.numbers() as u64 != 0 {
        return Err(format!(
            "tensor `{name}` has rows of {width} numbers, expected a multiple of {}, a block of {}",
            kind.numbers(),
            kind.name()
        ));
    }
    // Smallest first, so that a product of zero is found before one that is too large.
    let has_none = shape.contains(&0);
    let bytes = if has_none {
        Some(0)
    } else {
        let numbers = shape
            .iter()
            .try_fold(1_u64, |numbers, size| numbers.checked_mul(*size));
        numbers
            .and_then(|numbers| (numbers / kind.numbers() as u64).checked_mul(kind.bytes() as u64))
    };
    let too_large = || format!("tensor `{name}` of shape {shape:?} is larger than any file");
    let sizes = shape
        .iter()
        .map(|size| usize::try_from(*size).ok())
        .collect::<Option<Vec<_>>>();
    let (bytes, sizes) = (bytes.ok_or_else(too_large)?, sizes.ok_or_else(too_large)?);
    Ok(Entry {
        name,
        shape: sizes,
        kind,
        bytes,
        offset,
    })
}

/// Checks that every tensor lies within the file and that no two overlap.
fn placed(
    mut entries: Vec<Entry>,
    data_start: usize,
    file_bytes: usize,
    alignment: usize,
) -> Result<BTreeMap<String, GgufTensor>, String> {
    entries.sort_by_key(|entry| (entry.offset, entry.bytes));
    let (mut tensors, mut free, mut before) = (BTreeMap::new(), 0_u64, String::new());
    for entry in entries {
        let Entry {
            name,
            shape,
            kind,
            bytes,
            offset,
        } = entry;
        if offset % alignment as u64 != 0 {
            return Err(format!(
                "tensor `{name}` starts at offset {offset}, expected a multiple of {alignment}"
            ));
        }
        if bytes > 0 && offset < free {
            return Err(format!(
                "tensor `{name}` at offset {offset} overlaps `{before}`, which ends at {free}"
            ));
        }
        let end = offset
            .checked_add(bytes)
            .filter(|end| *end <= (file_bytes - data_start) as u64);
        let Some(end) = end else {
            return Err(format!(
                "tensor `{name}` needs {bytes} bytes at offset {offset}, the file has {} bytes of \
                data",
                file_bytes - data_start
            ));
        };
        if bytes > 0 {
            free = end;
            before.clone_from(&name);
        }
        let start = data_start + offset as usize;
        let tensor = GgufTensor {
            shape,
            kind,
            bytes: start..start + bytes as usize,
        };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("tensor `{name}` stands there twice"));
        }
    }
    Ok(tensors)
}
