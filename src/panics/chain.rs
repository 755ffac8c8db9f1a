//! Messages of panics in burn and cubecl. Each is a chain of causes, with a line `Caused by:` above
//! each cause, mixed with backtraces, skipped kernels and compiler logs.

/// Line between an error and its cause.
const CAUSED_BY: &str = "Caused by:";
/// Line above a compiler's log; the kernel's source follows the log.
const LOG: &str = "[Compilation Error]";
const SOURCE: &str = "[Source]";
/// Most lines of a compiler's log that are shown.
const LOG_LINES: usize = 4;
/// Most bytes of a line that are shown.
const MAX_LINE_BYTES: usize = 400;

/// Returns the last cause in a panic message: its line, or the first lines of a compiler's log
/// without the source. Without causes, it is the first line of the message.
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

/// Returns the line in which wgpu, CUDA or cubecl report that memory ran out.
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
    // "An out-of-memory error happened" comes before the line with the requested size.
    words.lines().rfind(is_one)
}

/// Shortens a line for display.
pub(super) fn shortened(line: &str) -> String {
    let start = start_of(line, MAX_LINE_BYTES);
    if start.len() < line.len() {
        format!("{start}...")
    } else {
        line.to_owned()
    }
}

/// Returns the start of a text, at most this many bytes, cut between characters.
pub(super) fn start_of(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
