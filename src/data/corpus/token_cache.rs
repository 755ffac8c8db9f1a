//! The token cache: the rows of one data file as tokens, written once and memory-mapped by every
//! later run.
//!
//! Layout, little-endian: stamp (kind and version, key, hash of the data file), number of rows
//! (u64), bytes of records (u64), checksum (32 bytes); then a record for each row: its ids (u32
//! each), its label bits (first token in the lowest bit) and the numbers of its form (f32 each);
//! then an index entry for each row: start of the record (u64), tokens (u32), trained tokens (u32),
//! content hash (u64), form (u32), two numbers of the form (u32 each), see [`RowForm`], and tokens
//! that close a text (u32). The record of a broken row is the reason in UTF-8; its entry has the
//! length of the reason in place of the tokens, and [`BROKEN`] in place of the trained tokens. One
//! more entry of this kind follows the last row; its text holds the remarks on the whole file. The
//! checksum is blake3 over the records, the index and everything before the checksum. Length limits
//! are not part of a cache, so changing them needs no new tokenization.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::token_record::{bytes_of, content, form_of, numbers_of, pack, u64_at, values_of};
use super::token_slice::TokenSlice;
use crate::data::example::token_row::EncodedRow;
use crate::files::{self, Lease, Map, STAMP_BYTES, Stamp, update_in_parallel};
use crate::terms::RowForm;

const CHECKSUM_START: usize = STAMP_BYTES + 8 + 8;
const HEADER_BYTES: usize = CHECKSUM_START + 32;
const ENTRY_BYTES: usize = 8 + 4 + 4 + 8 + 4 * 4;
/// Bytes of the index that are held in memory at a time.
const INDEX_PIECE_BYTES: usize = 1 << 18;
/// Count of trained tokens that marks a broken row; no row has as many.
const BROKEN: u32 = u32::MAX;

/// A row in the cache.
#[derive(Debug, Clone, Copy)]
pub enum CachedRow<'a> {
    /// Its tokens; none if there was nothing to learn.
    Row(TokenSlice<'a>),
    /// The reason why it makes no tokens, with its place in the file.
    Broken(&'a str),
}

/// The rows of one data file.
#[derive(Debug)]
pub struct Cache {
    map: Map,
    rows: usize,
    index_start: usize,
    /// Its name and the lease that protects it from removal; `None` for a file without a name.
    entry: Option<(String, Option<Arc<Lease>>)>,
}

impl Cache {
    /// Maps a cache, checks that it is complete and has this stamp, and marks it as used now.
    ///
    /// # Errors
    /// It cannot be read or does not match; the reason in words.
    pub fn open(path: &Path, stamp: &Stamp) -> Result<Self, String> {
        let file = files::open_file(path).map_err(|error| error.to_string())?;
        let cache = Self::of(&file, path, stamp)?;
        // Of a folder that is only read, the date of the last write has to do.
        let _ = file.set_modified(SystemTime::now());
        Ok(cache)
    }

    /// Like [`Cache::open`], for an open file; `path` is its name in messages.
    ///
    /// # Errors
    /// As for [`Cache::open`].
    pub fn of(file: &File, path: &Path, stamp: &Stamp) -> Result<Self, String> {
        let map = files::map_file(file, path).map_err(|error| error.to_string())?;
        let header = map
            .first_chunk::<HEADER_BYTES>()
            .ok_or("its header is cut off")?;
        let (said, checksum) = header.split_at(CHECKSUM_START);
        let (rows, records) = (u64_at(said, STAMP_BYTES), u64_at(said, STAMP_BYTES + 8));
        if said[..STAMP_BYTES] != stamp.bytes() {
            return Err("it is of another kind, version or key".into());
        }
        let length = rows
            .checked_add(1)
            .and_then(|entries| entries.checked_mul(ENTRY_BYTES as u64))
            .and_then(|index| index.checked_add(records)?.checked_add(HEADER_BYTES as u64));
        if length != Some(map.len() as u64) {
            return Err(format!(
                "it has {} bytes, its header describes another length",
                map.len()
            ));
        }
        let mut hasher = blake3::Hasher::new();
        update_in_parallel(&mut hasher, &map, HEADER_BYTES);
        if hasher.update(said).finalize().as_bytes() != checksum {
            return Err("its checksum does not fit its content".into());
        }
        // Both are below the length of the map, which is a usize.
        Ok(Self {
            rows: rows as usize,
            index_start: HEADER_BYTES + records as usize,
            map,
            entry: None,
        })
    }

    /// Turns the cache into an entry with this name, protected by `lease`.
    #[must_use]
    pub fn named(self, name: String, lease: Option<Arc<Lease>>) -> Self {
        Self {
            entry: Some((name, lease)),
            ..self
        }
    }

    /// Returns the name of its entry; `None` if it has none.
    pub fn name(&self) -> Option<&str> {
        self.entry.as_ref().map(|(name, _)| name.as_str())
    }

    /// Returns the number of rows of the data file, those without tokens included.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Returns the remarks on the whole file from when it was written.
    pub fn remarks(&self) -> &str {
        match self.entry(self.rows) {
            CachedRow::Broken(remarks) => remarks,
            CachedRow::Row(_) => "",
        }
    }

    /// Returns a row by its place in the data file.
    ///
    /// # Panics
    /// There is no such row.
    pub fn entry(&self, row: usize) -> CachedRow<'_> {
        let entry = self.index_start + row * ENTRY_BYTES;
        let entry = self.map.slice(entry..entry + ENTRY_BYTES);
        let (start, length, trained_tokens) = (
            u64_at(entry, 0) as usize,
            u32_at(entry, 8) as usize,
            u32_at(entry, 12),
        );
        let record = |bytes: usize| {
            self.map
                .slice(HEADER_BYTES + start..HEADER_BYTES + start + bytes)
        };
        if trained_tokens == BROKEN {
            return CachedRow::Broken(
                str::from_utf8(record(length))
                    .expect("the checksum holds what was written from a text"),
            );
        }
        let form = form_of([24, 28, 32].map(|start| u32_at(entry, start)));
        let bit_bytes = length.div_ceil(8);
        let bytes = length * 4 + bit_bytes + values_of(form) * 4;
        let (ids, rest) = record(bytes).split_at(length * 4);
        let (bits, values) = rest.split_at(bit_bytes);
        CachedRow::Row(TokenSlice {
            ids: ids.as_chunks().0,
            bits,
            form,
            values: values.as_chunks().0,
            closing: u32_at(entry, 36) as usize,
            limit: usize::MAX,
            trained_tokens: trained_tokens as usize,
            content: Some(u64_at(entry, 16)),
        })
    }
}

/// Writer of a cache, row by row, into a file without a name: however the writer ends, it leaves
/// nothing behind. The index is kept in a second such file until all records are written.
pub struct Writer {
    path: PathBuf,
    stamp: Stamp,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    index: BufWriter<File>,
    rows: u64,
    records: u64,
    remarks: String,
}

impl Writer {
    /// Starts a cache on the disk of a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path, stamp: Stamp) -> Result<Self, files::FileError> {
        let nameless = || {
            tempfile::tempfile_in(folder)
                .map_err(|cause| files::FileError::new("write", folder, cause))
        };
        let mut file = BufWriter::new(nameless()?);
        file.write_all(&[0; HEADER_BYTES])
            .map_err(|cause| files::FileError::new("write", folder, cause))?;
        let index = BufWriter::new(nameless()?);
        Ok(Self {
            path: folder.to_owned(),
            stamp,
            file,
            hasher: blake3::Hasher::new(),
            index,
            rows: 0,
            records: 0,
            remarks: String::new(),
        })
    }

    /// Appends a row with the numbers of its form.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn push(&mut self, encoded: &EncodedRow) -> Result<(), files::FileError> {
        let EncodedRow {
            row,
            form,
            values,
            closing,
        } = encoded;
        let form = *form;
        debug_assert_eq!(values.len(), values_of(form));
        let ids: Vec<u8> = row.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let bits = pack(&row.trained);
        self.push_entry(
            row.ids.len() as u32,
            count(&row.trained) as u32,
            content(&ids, &bits, form, values),
            (form, *closing),
        )?;
        self.push_record(&ids)?;
        self.push_record(&bits)?;
        self.push_record(&bytes_of(values))
    }

    /// Appends a row that makes no tokens, with the reason.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn push_broken(&mut self, reason: &str) -> Result<(), files::FileError> {
        self.push_entry(reason.len() as u32, BROKEN, 0, (RowForm::Single, 0))?;
        self.push_record(reason.as_bytes())
    }

    /// Sets the remarks on the whole file.
    pub fn remark(&mut self, remarks: String) {
        self.remarks = remarks;
    }

    fn push_entry(
        &mut self,
        length: u32,
        trained_tokens: u32,
        content: u64,
        (form, closing): (RowForm, u32),
    ) -> Result<(), files::FileError> {
        let mut entry = [0; ENTRY_BYTES];
        entry[..8].copy_from_slice(&self.records.to_le_bytes());
        entry[8..12].copy_from_slice(&length.to_le_bytes());
        entry[12..16].copy_from_slice(&trained_tokens.to_le_bytes());
        entry[16..24].copy_from_slice(&content.to_le_bytes());
        let [kind, number, other] = numbers_of(form);
        for (place, number) in entry[24..]
            .chunks_mut(4)
            .zip([kind, number, other, closing])
        {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.rows += 1;
        self.index
            .write_all(&entry)
            .map_err(|cause| files::FileError::new("write", &self.path, cause))
    }

    fn push_record(&mut self, bytes: &[u8]) -> Result<(), files::FileError> {
        self.records += bytes.len() as u64;
        self.write(bytes)
    }

    /// Finishes the cache, still without a name. It is not synced: a cache torn by a crash is
    /// detected by its checksum and made again.
    ///
    /// # Errors
    /// The disk is full or fails; no cache is left then.
    pub fn finish(mut self) -> Result<File, files::FileError> {
        let rows = self.rows;
        let remarks = std::mem::take(&mut self.remarks);
        self.push_broken(&remarks)?;
        self.append_index()?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(self.stamp.bytes());
        header.extend(rows.to_le_bytes());
        header.extend(self.records.to_le_bytes());
        let checksum = self.hasher.update(&header).finalize();
        header.extend(checksum.as_bytes());
        let failed = |cause| files::FileError::new("write", &self.path, cause);
        let mut file = self
            .file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.rewind()
            .and_then(|()| file.write_all(&header))
            .map_err(failed)?;
        Ok(file)
    }

    fn append_index(&mut self) -> Result<(), files::FileError> {
        let failed = |cause| files::FileError::new("write", &self.path, cause);
        self.index.rewind().map_err(failed)?;
        let mut piece = vec![0; INDEX_PIECE_BYTES];
        loop {
            let failed = |cause| files::FileError::new("read back", &self.path, cause);
            match self.index.get_mut().read(&mut piece).map_err(failed)? {
                0 => return Ok(()),
                bytes => self.write(&piece[..bytes])?,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), files::FileError> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|cause| files::FileError::new("write", &self.path, cause))
    }
}

fn count(trained: &[bool]) -> usize {
    trained.iter().filter(|trained| **trained).count()
}

fn u32_at(bytes: &[u8], start: usize) -> u32 {
    u32::from_le_bytes(
        *bytes[start..]
            .first_chunk()
            .expect("entries have a fixed length"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::example::token_row::{RatedRow, ScoredRow, TokenRow};
    use crate::files::{EntryKind, Hash};

    fn stamp(key: u8) -> Stamp {
        Stamp {
            kind: EntryKind::Tokens,
            key: Hash([key; 32]),
            source: Hash([9; 32]),
        }
    }

    fn encoded(row: &TokenRow, form: RowForm, values: &[f32]) -> EncodedRow {
        EncodedRow {
            row: row.clone(),
            form,
            values: values.to_vec(),
            closing: 0,
        }
    }

    fn write(path: &Path, rows: &[TokenRow], key: u8) {
        let folder = path.parent().expect("inside");
        std::fs::create_dir_all(folder).expect("made");
        let mut writer = Writer::create(folder, stamp(key)).expect("created");
        for row in rows {
            writer
                .push(&encoded(row, RowForm::Single, &[]))
                .expect("pushed");
        }
        files::give_name(&mut writer.finish().expect("finished"), path).expect("named");
    }

    fn tokens(cache: &Cache, row: usize) -> TokenSlice<'_> {
        match cache.entry(row) {
            CachedRow::Row(row) => row,
            CachedRow::Broken(reason) => panic!("{reason}"),
        }
    }

    fn rows() -> impl Strategy<Value = Vec<TokenRow>> {
        let row = prop::collection::vec(any::<(u32, bool)>(), 0..40);
        let row = row.prop_map(|tokens| {
            let (ids, trained) = tokens.into_iter().unzip();
            TokenRow { ids, trained }
        });
        prop::collection::vec(row, 0..12)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_whole_or_cut(rows in rows(), len in 0_usize..50) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("new/folder/x.tokens");
            let cut = |row: &TokenRow| TokenRow {
                ids: row.ids.iter().take(len).copied().collect(),
                trained: row.trained.iter().take(len).copied().collect(),
            };
            let short: Vec<TokenRow> = rows.iter().map(cut).collect();
            write(&path, &rows, 7);
            let whole = Cache::open(&path, &stamp(7)).expect("opened");
            write(&path, &short, 7);
            let shortened = Cache::open(&path, &stamp(7)).expect("opened");
            prop_assert_eq!(whole.len(), rows.len());
            for (index, row) in rows.iter().enumerate() {
                let (read, first) = (tokens(&whole, index), tokens(&whole, index).first(len));
                for (slice, row) in [(&read, row), (&first, &short[index])] {
                    prop_assert_eq!(slice.ids(), row.ids.clone());
                    prop_assert_eq!(slice.trained(), row.trained.clone());
                }
                prop_assert_eq!(first.content(), tokens(&shortened, index).content());
                prop_assert_eq!(first.trained_tokens(), tokens(&shortened, index).trained_tokens());
            }
        }
    }

    #[test]
    fn a_broken_row_keeps_its_reason_and_its_neighbors_their_tokens() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        let row = TokenRow {
            ids: vec![5, 6],
            trained: vec![false, true],
        };
        let mut writer = Writer::create(folder.path(), stamp(3)).expect("created");
        let whole = encoded(&row, RowForm::Single, &[]);
        writer
            .push(&whole)
            .and_then(|()| writer.push_broken("row 1: ü"))
            .and_then(|()| writer.push(&whole))
            .expect("pushed");
        writer.remark("of all: ü".to_owned());
        files::give_name(&mut writer.finish().expect("finished"), &path).expect("named");
        let cache = Cache::open(&path, &stamp(3)).expect("opened");
        assert_eq!(
            (
                cache.len(),
                tokens(&cache, 0).ids(),
                tokens(&cache, 2).ids()
            ),
            (3, vec![5, 6], vec![5, 6])
        );
        assert!(matches!(cache.entry(1), CachedRow::Broken("row 1: ü")));
        assert_eq!(cache.remarks(), "of all: ü");
    }

    #[test]
    fn each_sequence_of_a_pair_is_cut_to_the_limit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        let row = TokenRow {
            ids: vec![1, 2, 3, 4, 5, 1, 2, 6],
            trained: [false, false, true, true, true, false, false, true].into(),
        };
        let mut writer = Writer::create(folder.path(), stamp(3)).expect("created");
        for chosen in [5, 4] {
            let form = RowForm::Pair {
                chosen,
                has_margin: false,
            };
            writer.push(&encoded(&row, form, &[])).expect("pushed");
        }
        let rated = encoded(&row, RowForm::Rated { desirable: true }, &[]);
        writer.push(&rated).expect("pushed");
        files::give_name(&mut writer.finish().expect("finished"), &path).expect("named");
        let cache = Cache::open(&path, &stamp(3)).expect("opened");
        let whole = tokens(&cache, 0);
        assert_eq!((whole.len(), whole.longest()), (8, 5));
        assert_eq!(
            (whole.trained_tokens(), whole.first_trained_tokens()),
            (4, 3)
        );
        let cut = whole.first(3);
        assert_eq!(cut.ids(), [1, 2, 3, 1, 2, 6]);
        assert_eq!((cut.trained_tokens(), cut.first_trained_tokens()), (2, 1));
        assert!(!cut.has_untrained_sequence() && !cut.has_equal_halves());
        let same = whole.first(2);
        assert!(same.has_untrained_sequence() && same.has_equal_halves());
        assert_ne!(whole.content(), tokens(&cache, 1).content());
        assert_ne!(whole.content(), tokens(&cache, 2).content());
        let half = |ids: &[u32], trained: usize| TokenRow {
            ids: ids.to_vec(),
            trained: (0..ids.len())
                .map(|place| place >= ids.len() - trained)
                .collect(),
        };
        assert_eq!(
            cut.rated(),
            Some(RatedRow::Pair([half(&[1, 2, 3], 1), half(&[1, 2, 6], 1)]))
        );
        assert_eq!(tokens(&cache, 2).rated(), Some(RatedRow::Rated(row, true)));
    }

    #[test]
    fn numbers_of_a_row_are_kept_and_cut_with_the_tokens_that_have_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        let row = TokenRow {
            ids: vec![1, 2, 3, 4],
            trained: vec![true, false, true, true],
        };
        let text = TokenRow {
            trained: vec![true; 4],
            ..row.clone()
        };
        let pair = RowForm::Pair {
            chosen: 2,
            has_margin: true,
        };
        let labeled = RowForm::Labeled {
            values: 1,
            second: 4,
        };
        let mut writer = Writer::create(folder.path(), stamp(3)).expect("created");
        for (row, form, values) in [
            (&row, RowForm::Tagged { values: 3 }, &[5.0, 6.0, 7.0][..]),
            (&text, labeled, &[2.0]),
            (&text, labeled, &[1.0]),
            (&row, pair, &[0.5]),
        ] {
            writer.push(&encoded(row, form, values)).expect("pushed");
        }
        files::give_name(&mut writer.finish().expect("finished"), &path).expect("named");
        let cache = Cache::open(&path, &stamp(3)).expect("opened");
        let words = tokens(&cache, 0);
        assert_eq!(words.values(), [5.0, 6.0, 7.0]);
        assert_eq!(words.first(3).values(), [5.0, 6.0]);
        assert_eq!(tokens(&cache, 1).first(2).values(), [2.0]);
        assert_ne!(tokens(&cache, 1).content(), tokens(&cache, 2).content());
        let scored = tokens(&cache, 3).scored();
        assert!(
            matches!(scored, Some(ScoredRow::Pair(_, margin)) if margin.to_bits() == 0.5_f64.to_bits())
        );
        assert_eq!(
            tokens(&cache, 0).scored(),
            Some(ScoredRow::Tokens(row, vec![5.0, 6.0, 7.0]))
        );
    }

    /// Texts that are read as a whole keep the token that closes them; of two texts the longer is
    /// cut, and the second keeps its type.
    #[test]
    fn texts_that_are_cut_keep_their_ends() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        let row = |ids: &[u32], trained: &[u8]| TokenRow {
            ids: ids.to_vec(),
            trained: trained.iter().map(|trained| *trained == 1).collect(),
        };
        let texts = row(&[101, 1, 2, 3, 102, 101, 4, 102], &[0, 1, 1, 1, 1, 0, 1, 1]);
        let words = row(&[101, 1, 2, 3, 102], &[0, 1, 0, 1, 0]);
        let pair = row(&[101, 1, 2, 3, 102, 4, 5, 102], &[0, 1, 1, 1, 0, 1, 1, 0]);
        let labeled = |second: u32| RowForm::Labeled { values: 1, second };
        let preferred = RowForm::Pair {
            chosen: 5,
            has_margin: false,
        };
        let mut writer = Writer::create(folder.path(), stamp(3)).expect("created");
        for (row, form, values) in [
            (&texts, RowForm::Texts, &[][..]),
            (&words, RowForm::Tagged { values: 2 }, &[5.0, 6.0]),
            (&pair, labeled(5), &[1.0]),
            (&pair, labeled(8), &[1.0]),
            (&texts, preferred, &[]),
        ] {
            let encoded = EncodedRow {
                closing: 1,
                ..encoded(row, form, values)
            };
            writer.push(&encoded).expect("pushed");
        }
        files::give_name(&mut writer.finish().expect("finished"), &path).expect("named");
        let cache = Cache::open(&path, &stamp(3)).expect("opened");
        let cut = tokens(&cache, 0).first(3);
        assert_eq!(cut.texts(), [vec![101, 1, 102], vec![101, 4, 102]]);
        assert_eq!((cut.len(), cut.longest()), (6, 3));
        let cut = tokens(&cache, 1).first(3);
        assert_eq!((cut.ids(), cut.values()), (vec![101, 1, 102], vec![5.0]));
        for (row, second) in [(2, 4), (3, 6)] {
            let cut = tokens(&cache, row).first(6);
            let Some(ScoredRow::Text {
                row, second: found, ..
            }) = cut.scored()
            else {
                panic!("a text");
            };
            assert_eq!(row.ids, [101, 1, 2, 102, 4, 102]);
            assert_eq!(found, second);
        }
        // Completions are cut where they end, unless a score is read of the whole.
        let cut = tokens(&cache, 4).first(3);
        assert_eq!(cut.ids(), [101, 1, 2, 101, 4, 102]);
        let Some(ScoredRow::Pair([chosen, _], _)) = cut.scored() else {
            panic!("a pair");
        };
        assert_eq!(chosen.ids, [101, 1, 102]);
    }

    #[test]
    fn equal_rows_and_only_they_have_equal_content() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        let row = |ids: [u32; 2], trained: [bool; 2]| TokenRow {
            ids: ids.into(),
            trained: trained.into(),
        };
        let rows = [
            row([1, 2], [false, true]),
            row([1, 2], [false, true]),
            row([1, 2], [true, true]),
            row([1, 3], [false, true]),
        ];
        write(&path, &rows, 0);
        let cache = Cache::open(&path, &stamp(0)).expect("opened");
        let contents: Vec<u64> = (0..4)
            .map(|index| tokens(&cache, index).content())
            .collect();
        assert_eq!(contents[0], contents[1]);
        assert!(
            contents[0] != contents[2] && contents[0] != contents[3] && contents[2] != contents[3]
        );
    }

    #[test]
    fn a_cache_with_any_byte_changed_or_missing_or_of_another_key_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.tokens");
        write(
            &path,
            &[TokenRow {
                ids: vec![5, 6, 7],
                trained: vec![false, true, true],
            }],
            1,
        );
        assert!(Cache::open(&path, &stamp(2)).is_err());
        let whole = std::fs::read(&path).expect("read");
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 0x10;
            std::fs::write(&path, changed).expect("written");
            assert!(Cache::open(&path, &stamp(1)).is_err(), "byte {index}");
            std::fs::write(&path, &whole[..index]).expect("written");
            assert!(Cache::open(&path, &stamp(1)).is_err(), "length {index}");
        }
    }
}
