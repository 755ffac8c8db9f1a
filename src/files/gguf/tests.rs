//! Files that lie, made here byte by byte.

use super::*;

/// A file with a text, a list and two tensors of 64 and 32 bytes; `change` spoils it.
struct File {
    version: u32,
    tensors: u64,
    keys: u64,
    pairs: Vec<Vec<u8>>,
    entries: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn pair(key: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn list(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

/// The entry of a tensor; dimensions are in the order of the file.
fn tensor(name: &[u8], dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

impl File {
    fn new() -> Self {
        let texts = [text(b"one"), text(b"two")].concat();
        Self {
            version: 3,
            tensors: 2,
            keys: 4,
            pairs: vec![
                pair(b"general.architecture", 8, &text(b"llama")),
                pair(b"words", 9, &list(8, 2, &texts)),
                pair(b"number", 6, &1e-5_f32.to_le_bytes()),
                pair(b"flags", 9, &list(7, 2, &[0, 1])),
            ],
            entries: vec![tensor(b"a", &[4, 4], 0, 0), tensor(b"b", &[8], 0, 64)],
            data: (0..96).collect(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.tensors.to_le_bytes());
        bytes.extend(self.keys.to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.entries.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn opened(bytes: &[u8]) -> Result<Gguf, GgufFileError> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, bytes).expect("written");
    Gguf::open(&path)
}

#[test]
fn what_is_written_is_read_back() {
    let file = opened(&File::new().bytes()).expect("a whole file");
    assert_eq!(
        file.text("general.architecture").expect("text"),
        Some("llama")
    );
    assert_eq!(
        file.texts("words").expect("texts"),
        Some(vec!["one", "two"])
    );
    assert_eq!(file.number("number").expect("a number"), Some(1e-5));
    assert_eq!(file.flags("flags").expect("flags"), Some(vec![false, true]));
    assert_eq!(file.size("none").expect("nothing"), None);
    let a = file.tensor("a").expect("a tensor");
    assert_eq!(
        (&a.shape[..], a.rows(), a.row_bytes()),
        (&[4, 4][..], 4, 16)
    );
    assert_eq!(file.row_bytes(a, 1..2), (16..32).collect::<Vec<u8>>());
    for key in ["words", "number", "flags"] {
        let error = file.text(key).expect_err("of another kind").to_string();
        assert!(
            error.contains(key) && error.contains("expected text"),
            "{error}"
        );
    }
    assert!(file.texts("flags").is_err() && file.numbers("general.architecture").is_err());
}

#[test]
fn every_cut_is_refused() {
    let whole = File::new().bytes();
    for length in 0..whole.len() {
        assert!(
            opened(&whole[..length]).is_err(),
            "{length} of {} bytes",
            whole.len()
        );
    }
}

/// What a lie does to the file, and words of the error.
type Lie = (&'static str, fn(&mut File));

const LIES: [Lie; 38] = [
    ("its version is 1", |file| file.version = 1),
    ("its version is 4", |file| file.version = 4),
    ("big-endian", |file| file.version = 3_u32.swap_bytes()),
    ("tensors, at most", |file| file.tensors = u64::MAX),
    ("tensors, at most", |file| file.tensors = 250_001),
    ("", |file| file.tensors = 200_000),
    ("keys of metadata, at most", |file| file.keys = u64::MAX),
    ("99999 keys of metadata needs", |file| file.keys = 99_999),
    ("", |file| file.keys = 5),
    ("", |file| file.keys = 3),
    ("twice", |file| file.pairs[2] = file.pairs[3].clone()),
    ("has 18446744073709551615 bytes", |file| {
        file.pairs[0] = [&u64::MAX.to_le_bytes()[..], b"abc"].concat();
    }),
    ("has 1025 bytes", |file| {
        file.pairs[0] = pair(&[b'k'; 1025], 7, &[1]);
    }),
    ("not UTF-8", |file| {
        file.pairs[0] = pair(b"\xff\xfe", 7, &[1]);
    }),
    ("is 13, known", |file| file.pairs[0] = pair(b"k", 13, &[1])),
    ("is 4294967295", |file| {
        file.pairs[0] = pair(b"k", u32::MAX, &[1]);
    }),
    ("list of lists", |file| {
        let inner = list(4, 1, &[1, 0, 0, 0]);
        file.pairs[0] = pair(b"k", 9, &list(9, 1, &inner));
    }),
    ("a list of 77", |file| {
        file.pairs[0] = pair(b"k", 9, &list(77, 1, &[1]));
    }),
    ("items of `k` needs", |file| {
        file.pairs[0] = pair(b"k", 9, &list(4, u64::MAX, &[]));
    }),
    ("items of `k` needs", |file| {
        file.pairs[0] = pair(b"k", 9, &list(8, 1 << 40, &[]));
    }),
    ("items of `k` needs", |file| {
        file.pairs[0] = pair(b"k", 9, &list(12, u64::MAX / 8 + 1, &[]));
    }),
    ("the value of `k` needs", |file| {
        file.pairs[0] = pair(b"k", 8, &u64::MAX.to_le_bytes());
    }),
    ("the value of `k` needs", |file| {
        let items = [text(b"a"), (1_u64 << 50).to_le_bytes().to_vec()].concat();
        file.pairs[0] = pair(b"k", 9, &list(8, 2, &items));
    }),
    ("the flag 2", |file| file.pairs[0] = pair(b"k", 7, &[2])),
    ("the flag 9", |file| {
        file.pairs[0] = pair(b"k", 9, &list(7, 2, &[1, 9]));
    }),
    ("general.alignment", |file| {
        file.pairs[2] = pair(b"general.alignment", 4, &0_u32.to_le_bytes());
    }),
    ("general.alignment", |file| {
        file.pairs[2] = pair(b"general.alignment", 4, &48_u32.to_le_bytes());
    }),
    ("general.alignment", |file| {
        file.pairs[2] = pair(b"general.alignment", 8, &text(b"32"));
    }),
    ("general.alignment", |file| {
        file.pairs[2] = pair(b"general.alignment", 10, &(1_u64 << 63).to_le_bytes());
    }),
    ("5 dimensions", |file| {
        file.entries[0] = tensor(b"a", &[1; 5], 0, 0);
    }),
    ("4294967295 dimensions", |file| {
        file.entries[0] = [text(b"a"), u32::MAX.to_le_bytes().to_vec()].concat();
    }),
    ("type 99", |file| {
        file.entries[0] = tensor(b"a", &[4, 4], 99, 0);
    }),
    ("type 4", |file| file.entries[0] = tensor(b"a", &[32], 4, 0)),
    ("larger than any file", |file| {
        file.entries[0] = tensor(b"a", &[1 << 62, 1 << 62], 0, 0);
    }),
    ("bytes of data", |file| {
        file.entries[0] = tensor(b"a", &[1 << 40], 0, 0);
    }),
    ("rows of 8 numbers, expected a multiple of 32", |file| {
        file.entries[1] = tensor(b"b", &[8], 8, 64);
    }),
    ("multiple of 32", |file| {
        file.entries[1] = tensor(b"b", &[8], 0, 65);
    }),
    ("overlaps `a`", |file| {
        file.entries[1] = tensor(b"b", &[8], 0, 32);
    }),
];

/// Lies about the places and names of tensors.
const PLACES: [Lie; 4] = [
    ("bytes of data", |file| {
        file.entries[1] = tensor(b"b", &[8], 0, 96);
    }),
    ("bytes of data", |file| {
        file.entries[1] = tensor(b"b", &[8], 0, u64::MAX - 31);
    }),
    ("twice", |file| file.entries[1] = tensor(b"a", &[8], 0, 64)),
    ("has 2000 bytes", |file| {
        file.entries[1] = tensor(&[b'n'; 2000], &[8], 0, 64);
    }),
];

#[test]
fn files_that_lie_are_refused_in_words() {
    for (index, (words, lie)) in LIES.into_iter().chain(PLACES).enumerate() {
        let mut file = File::new();
        lie(&mut file);
        let error = opened(&file.bytes()).expect_err("a lie").to_string();
        assert!(
            error.contains("is not a whole GGUF file"),
            "lie {index}: {error}"
        );
        assert!(error.contains(words), "lie {index}, `{words}`: {error}");
    }
}

#[test]
fn files_of_a_split_belong_together() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let name = |number: usize| dir.path().join(format!("m-{number:05}-of-00002.gguf"));
    let write = |number: usize, said: u16, tensor_name: &[u8]| {
        let mut file = File::new();
        file.pairs[1] = pair(b"split.no", 2, &said.to_le_bytes());
        file.pairs[2] = pair(b"split.count", 2, &2_u16.to_le_bytes());
        file.pairs[3] = pair(b"split.tensors.count", 5, &2_i32.to_le_bytes());
        file.tensors = 1;
        file.entries = vec![tensor(tensor_name, &[4, 4], 0, 0)];
        std::fs::write(name(number), file.bytes()).expect("written");
    };
    write(1, 0, b"a");
    let said = |error: GgufFileError| error.to_string();
    assert!(said(Gguf::open_all(&name(1)).expect_err("half")).contains("is missing"));
    write(2, 1, b"b");
    for number in [1, 2] {
        let files = Gguf::open_all(&name(number)).expect("whole");
        assert!(files[0].tensor("a").is_some() && files[1].tensor("b").is_some());
    }
    write(2, 0, b"b");
    assert!(said(Gguf::open_all(&name(1)).expect_err("order")).contains("`split.no` is 0"));
    write(2, 1, b"a");
    assert!(said(Gguf::open_all(&name(1)).expect_err("twice")).contains("stands in"));
}
