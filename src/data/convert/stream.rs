//! The bytes of a source file: hashed as stored, and decompressed if they are gzip or zstd. The
//! compression is detected from the first bytes, because names can be wrong.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::error::ConvertError;
use crate::files::{self, Hash, open_file};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
/// Byte order marks of UTF-16.
const UTF16_MARKS: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// The file below the decompression.
struct Raw {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Whether reading the file failed, as opposed to its content.
    has_failed: bool,
}

#[derive(Clone)]
struct Shared(Rc<RefCell<Raw>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut raw = self.0.borrow_mut();
        match raw.file.read(buffer) {
            Ok(count) => {
                raw.hasher.update(&buffer[..count]);
                raw.bytes += count as u64;
                Ok(count)
            }
            Err(cause) => {
                raw.has_failed = cause.kind() != io::ErrorKind::Interrupted;
                Err(cause)
            }
        }
    }
}

/// An open source file.
pub(super) struct Stream {
    path: PathBuf,
    raw: Shared,
    input: Box<dyn BufRead>,
}

impl Stream {
    /// Opens a file and skips a byte order mark.
    ///
    /// # Errors
    /// It cannot be opened, or is UTF-16.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        let failed = |cause| files::FileError::new("read", path, cause);
        let mut file = open_file(path)?;
        let mut head = Vec::new();
        (&mut file)
            .take(ZSTD.len() as u64)
            .read_to_end(&mut head)
            .map_err(failed)?;
        file.rewind().map_err(failed)?;
        let raw = Shared(Rc::new(RefCell::new(Raw {
            file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            has_failed: false,
        })));
        let packed = BufReader::with_capacity(BUFFER_BYTES, raw.clone());
        let input: Box<dyn BufRead> = if head.starts_with(&GZIP) {
            Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                flate2::bufread::MultiGzDecoder::new(packed),
            ))
        } else if head.starts_with(&ZSTD) {
            let unpacked = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked))
        } else {
            Box::new(packed)
        };
        let mut stream = Self {
            path: path.to_owned(),
            raw,
            input,
        };
        stream.skip_mark()?;
        Ok(stream)
    }

    fn skip_mark(&mut self) -> Result<(), ConvertError> {
        let head = self.buffer()?;
        if UTF16_MARKS.iter().any(|mark| head.starts_with(mark)) {
            return Err(ConvertError::source(
                &self.path,
                "is UTF-16, expected UTF-8",
                "convert it first: `iconv -f UTF-16 -t UTF-8 IN > OUT`",
            ));
        }
        if head.starts_with(&UTF8_MARK) {
            self.consume(UTF8_MARK.len());
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the next decompressed bytes; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read or unpacked.
    pub fn buffer(&mut self) -> Result<&[u8], ConvertError> {
        // Twice, because a buffer that is returned from a loop stays borrowed.
        loop {
            match self.input.fill_buf() {
                Ok(_) => break,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.error(cause)),
            }
        }
        Ok(self.input.fill_buf().unwrap_or_default())
    }

    /// Marks this many of these bytes as used.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }

    fn error(&self, cause: io::Error) -> ConvertError {
        if self.raw.0.borrow().has_failed {
            return files::FileError::new("read", &self.path, cause).into();
        }
        let hint = "download or copy it again and compare its size with the original";
        ConvertError::source(
            &self.path,
            format!("cannot be unpacked, it is cut off or damaged: {cause}"),
            hint,
        )
    }

    /// Returns the number of bytes of the file that were read.
    pub fn bytes(&self) -> u64 {
        self.raw.0.borrow().bytes
    }

    /// Returns the hash of the whole file.
    ///
    /// # Errors
    /// The rest of the file cannot be read.
    pub fn finish(self) -> Result<Hash, ConvertError> {
        let mut raw = self.raw;
        io::copy(&mut raw, &mut io::sink())
            .map_err(|cause| files::FileError::new("read", &self.path, cause))?;
        let hash = raw.0.borrow().hasher.finalize();
        Ok(Hash(*hash.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fault::{Exit, Explain};

    fn read(path: &Path) -> Result<(Vec<u8>, Hash), ConvertError> {
        let (mut stream, mut all) = (Stream::open(path)?, Vec::new());
        loop {
            let piece = stream.buffer()?;
            if piece.is_empty() {
                return Ok((all, stream.finish()?));
            }
            all.extend_from_slice(piece);
            let count = piece.len();
            stream.consume(count);
        }
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(content).expect("packed");
        packer.finish().expect("packed")
    }

    #[test]
    fn packed_and_plain_files_read_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let zstd = |content: &[u8]| zstd::encode_all(content, 1).expect("packed");
        let (first, second) = content.split_at(content.len() / 3);
        let forms = [
            content.clone(),
            gzip(&content),
            zstd(&content),
            [gzip(first), gzip(second)].concat(),
            [zstd(first), zstd(second)].concat(),
        ];
        for packed in forms {
            std::fs::write(&path, &packed).expect("written");
            let (read, hash) = read(&path).expect("read");
            assert!(read == content, "{} bytes", packed.len());
            assert_eq!(
                hash,
                crate::files::hash_bytes(&packed),
                "the hash is that of the file"
            );
        }
        std::fs::write(&path, [&UTF8_MARK[..], b"x"].concat()).expect("written");
        assert_eq!(read(&path).expect("read").0, b"x");
    }

    #[test]
    fn a_packed_file_that_is_cut_is_a_fault_of_the_input() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        let content: Vec<u8> = (0..9000_u32)
            .flat_map(|number| mixed(number).to_le_bytes())
            .collect();
        for packed in [
            gzip(&content),
            zstd::encode_all(&content[..], 1).expect("packed"),
        ] {
            for length in [5, 20, packed.len() / 2, packed.len() - 1] {
                std::fs::write(&path, &packed[..length]).expect("written");
                let error = read(&path).expect_err("cut");
                assert_eq!(error.exit(), Exit::Input, "{length}: {error}");
                assert!(error.to_string().contains("cut off or damaged"), "{error}");
            }
        }
        std::fs::write(&path, b"\xff\xfea\0").expect("written");
        assert!(
            read(&path)
                .expect_err("UTF-16")
                .to_string()
                .ends_with("is UTF-16, expected UTF-8")
        );
    }

    fn mixed(number: u32) -> u32 {
        number.wrapping_mul(2_654_435_761) ^ number
    }
}
