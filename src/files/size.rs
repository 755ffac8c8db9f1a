//! Sizes in bytes, as people write them.

/// Units of bytes, in lower case. Source: IEC 80000-13.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Parses a size in bytes: a whole number, or a number with a unit, such as `12 GB` (10⁹) or
/// `1.5GiB` (2³⁰).
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    );
    let unit = unit.to_ascii_lowercase();
    let unit_bytes = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, bytes)| *bytes as f64)?;
    let number = number.trim_end().replace('_', "");
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let bytes = number.parse::<f64>().ok().filter(|_| is_plain)? * unit_bytes;
    (bytes < 2f64.powi(53) && (unit_bytes > 1.0 || bytes.fract() == 0.0)).then_some(bytes as u64)
}
