//! Builds HTML in which every opened tag is closed, and everything that comes from a run is text,
//! never markup.

use crate::fault::printable;

/// Names and values of a tag's attributes.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a str)];

/// HTML that is being written.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Writes a tag with the content that `fill` adds.
    pub fn element(
        &mut self,
        tag: &'static str,
        attributes: Attributes,
        fill: impl FnOnce(&mut Self),
    ) {
        self.open(tag, attributes);
        self.0.push('>');
        fill(self);
        self.0.extend(["</", tag, ">"]);
        if is_block(tag) {
            self.0.push('\n');
        }
    }

    /// Writes a tag with text in it.
    pub fn words(&mut self, tag: &'static str, attributes: Attributes, words: &str) {
        self.element(tag, attributes, |inside| inside.text(words));
    }

    /// Writes a tag without content.
    pub fn empty(&mut self, tag: &'static str, attributes: Attributes) {
        self.open(tag, attributes);
        self.0.push_str("/>\n");
    }

    /// Writes text from any source; control characters and changes of direction are shown, not
    /// obeyed.
    pub fn text(&mut self, text: &str) {
        self.0.push_str(&escaped(&printable(text)));
    }

    /// Writes a key or path that may break after its separators on a narrow page.
    pub fn breakable(&mut self, key: &str) {
        for (index, part) in key.split_inclusive(['.', '_', '/']).enumerate() {
            if index > 0 {
                self.0.push_str("<wbr/>");
            }
            self.text(part);
        }
    }

    /// Writes constant text without markup that needs no escaping, such as a stylesheet.
    pub fn constant(&mut self, text: &'static str) {
        self.0.push_str(text);
    }

    /// Returns the HTML.
    pub fn finish(self) -> String {
        self.0
    }

    fn open(&mut self, tag: &'static str, attributes: Attributes) {
        self.0.extend(["<", tag]);
        for (name, value) in attributes {
            self.0.extend([" ", name, "=\"", &escaped(value), "\""]);
        }
    }
}

/// Returns whether a line may end after a tag without a gap in the text.
fn is_block(tag: &str) -> bool {
    ![
        "a", "b", "code", "em", "mark", "span", "strong", "title", "td", "th",
    ]
    .contains(&tag)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_a_run_is_text() {
        let mut html = Html::default();
        let hostile = "</b><script>alert('1')</script>\u{202e}\u{0}&amp;";
        html.element("b", &[("title", "\"><i>")], |b| b.text(hostile));
        let expected = "<b title=\"&quot;&gt;&lt;i&gt;\">&lt;/b&gt;&lt;script&gt;\
            alert(&#39;1&#39;)&lt;/script&gt;\\u{202e}\\u{0}&amp;amp;</b>";
        assert_eq!(html.finish(), expected);
    }
}
