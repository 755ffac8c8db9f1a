//! The words of a panic of burn and cubecl: a chain of causes, each below a line `Caused by:`, with
//! backtraces, kernels that were skipped and a compiler's log among them.

/// Heads the cause of what stands above.
const CAUSED_BY: &str = "Caused by:";
/// Heads a compiler's log, and what follows it: the source of the kernel.
const LOG: &str = "[Compilation Error]";
const SOURCE: &str = "[Source]";
/// Lines of a compiler's log that are shown.
const LOG_LINES: usize = 4;
/// Bytes of one line that are shown.
const MAX_LINE_BYTES: usize = 400;

/// The last cause in a panic's words: its line, or the first lines of a compiler's log without the
/// source. Words without causes begin with what they say.
pub fn last_cause(words: &str) -> &str {
    if let Some((_, log)) = words.split_once(LOG) {
        let log = log.split_once(SOURCE).map_or(log, |(log, _)| log).trim();
        return log
            .match_indices('\n')
            .nth(LOG_LINES - 1)
            .map_or(log, |(end, _)| &log[..end]);
    }
    let cause = words
        .rsplit_once(CAUSED_BY)
        .map_or(words, |(_, cause)| cause);
    cause
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("no message")
}

/// The line in which wgpu, CUDA or cubecl say that memory ran out.
pub(super) fn line_of_memory(words: &str) -> Option<&str> {
    const TEXTS: [&str; 9] = [
        "out of memory",
        "out of device memory",
        "out-of-memory",
        "outofmemory",
        "out_of_memory",
        "not enough memory",
        "memory allocation",
        "can't allocate buffer",
        "every page size the memory tracks",
    ];
    let is_one = |line: &&str| TEXTS.iter().any(|text| line.to_lowercase().contains(text));
    // "An out-of-memory error happened" heads the line that says how much was asked for.
    words.lines().rfind(is_one)
}

/// A line as it is shown.
pub(super) fn shortened(line: &str) -> String {
    let start = start_of(line, MAX_LINE_BYTES);
    if start.len() < line.len() {
        format!("{start}...")
    } else {
        line.to_owned()
    }
}

/// The first bytes of a text, whole characters only.
pub(super) fn start_of(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
