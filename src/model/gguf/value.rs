//! Values of GGUF's metadata, as they are written.

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

impl Value {
    /// Returns a list of sizes.
    pub fn sizes(sizes: impl IntoIterator<Item = usize>) -> Self {
        let number = |size| i32::try_from(size).unwrap_or(i32::MAX);
        Self::I32s(sizes.into_iter().map(number).collect())
    }
}
