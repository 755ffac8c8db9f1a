//! The pages of a Parquet column before they are unpacked. Each states its unpacked size, and the
//! parquet crate believes it, so that a few kilobytes can become gigabytes.
//!
//! Page headers are Thrift structs in the compact protocol,
//! <https://parquet.apache.org/docs/file-format/data-pages/>.

/// The unpacked sizes of the largest pages of a column chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pages {
    /// Size of the largest page.
    pub largest_bytes: u64,
    /// Size of the dictionary, whose largest entry any row may use; 0 if there is none.
    pub dictionary_bytes: u64,
}

impl Pages {
    /// Walks over the page headers of a column chunk; `None` if they are not valid headers.
    pub fn of(chunk: &[u8]) -> Option<Self> {
        const DICTIONARY: u64 = 2;
        let (mut pages, mut rest) = (Self::default(), chunk);
        while !rest.is_empty() {
            let mut header = PageReader { rest };
            let [kind, unpacked, packed] = header.page_header()?;
            pages.largest_bytes = pages.largest_bytes.max(unpacked);
            if kind == DICTIONARY {
                pages.dictionary_bytes = pages.dictionary_bytes.max(unpacked);
            }
            rest = header.rest.get(usize::try_from(packed).ok()?..)?;
        }
        Some(pages)
    }
}

/// Maximum nesting of structs, above that of any page header.
const MAX_DEPTH: usize = 8;
const I32: u8 = 5;

struct PageReader<'a> {
    rest: &'a [u8],
}

impl PageReader<'_> {
    /// Reads type, unpacked size and packed size, which are the first three fields.
    fn page_header(&mut self) -> Option<[u64; 3]> {
        let (mut first, mut id) = ([0; 3], 0);
        while let Some(kind) = self.field(&mut id)? {
            match first.get_mut(usize::try_from(id).ok()?.wrapping_sub(1)) {
                Some(value) if kind == I32 => *value = u64::try_from(self.signed()?).ok()?,
                _ => self.skip(kind, 0)?,
            }
        }
        Some(first)
    }

    /// Reads the type of the next field and updates `id`; the inner `None` is the end of the
    /// struct.
    #[allow(clippy::option_option, reason = "an end and a fault are two things")]
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *id = if head >> 4 == 0 {
            self.signed()?
        } else {
            id.checked_add(i64::from(head >> 4))?
        };
        Some(Some(head & 0xf))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a zigzag number.
    fn signed(&mut self) -> Option<i64> {
        let zigzag = self.varint()?;
        Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            _ if depth > MAX_DEPTH => None,
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.jump(8),
            8 => {
                let length = self.varint()?;
                self.jump(length)
            }
            9 | 10 => self.skip_list(depth),
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn skip_list(&mut self, depth: usize) -> Option<()> {
        let head = self.byte()?;
        let length = if head >> 4 == 15 {
            self.varint()?
        } else {
            u64::from(head >> 4)
        };
        match head & 0xf {
            // In a list a truth value has a byte.
            1 | 2 => self.jump(length),
            kind => (0..length).try_for_each(|_| self.skip(kind, depth + 1)),
        }
    }

    fn jump(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a page header with zigzag sizes and a struct that holds a text, a number and a list
    /// of booleans, followed by the page.
    fn page(kind: u8, unpacked: &[u8], packed: u8) -> Vec<u8> {
        let mut bytes = vec![0x15, kind << 1, 0x15];
        bytes.extend(unpacked);
        bytes.extend([
            0x15,
            packed << 1,
            0x2c,
            0x18,
            2,
            b'a',
            b'b',
            0x16,
            0x81,
            0x01,
            0x19,
            0x21,
            1,
            2,
            0x11,
            0,
            0,
        ]);
        bytes.extend(vec![0xff; packed.into()]);
        bytes
    }

    #[test]
    fn pages_tell_their_size_before_they_are_unpacked() {
        let (dictionary, data) = (
            page(2, &[20], 7),
            page(0, &[0xfe, 0xff, 0xff, 0xff, 0x0f], 3),
        );
        let expected = Pages {
            largest_bytes: i32::MAX as u64,
            dictionary_bytes: 10,
        };
        assert_eq!(
            Pages::of(&[dictionary.clone(), data].concat()),
            Some(expected)
        );
        assert_eq!(Pages::of(&[]), Some(Pages::default()));
        for length in 1..dictionary.len() {
            assert_eq!(
                Pages::of(&dictionary[..length]),
                None,
                "{length} of {} bytes",
                dictionary.len()
            );
        }
    }

    #[test]
    fn a_list_without_end_and_a_negative_size_are_refused() {
        assert_eq!(
            Pages::of(&[
                0x15, 0, 0x15, 2, 0x15, 2, 0x19, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0
            ]),
            None
        );
        assert_eq!(Pages::of(&page(0, &[1], 0)), None);
        assert_eq!(Pages::of(&vec![0x1c; 1 << 20]), None);
    }
}
