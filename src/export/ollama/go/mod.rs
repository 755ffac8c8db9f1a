//! The part of Go's `text/template` (<https://pkg.go.dev/text/template>) that chat templates use,
//! rendered like in Ollama (<https://github.com/ollama/ollama/blob/main/template/template.go>):
//! `.System`, `.Messages` and their `.Role` and `.Content`, `if`, `range`, variables, and six
//! functions. Anything else is refused, so that a template that is equal here is equal in Ollama
//! too.

mod lex;
mod parse;
mod render;

pub(super) use render::Turn;

use parse::Node;

/// A template that is ready to render.
#[derive(Debug)]
pub(super) struct GoTemplate {
    source: String,
    nodes: Vec<Node>,
}

/// An error of a template that uses other parts of the language, or that cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct GoTemplateError {
    /// The line in the template, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl GoTemplateError {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self {
            line,
            reason: reason.into(),
        }
    }
}

impl GoTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// The template is not valid, or uses something that is not supported here.
    pub fn new(source: &str) -> Result<Self, GoTemplateError> {
        let pieces = lex::pieces(source)?;
        let nodes = parse::nodes(pieces)?;
        // Ollama renders a template without it once a turn, by other rules.
        if parse::names(&nodes, "Messages") {
            Ok(Self {
                source: source.to_owned(),
                nodes,
            })
        } else {
            Err(GoTemplateError::new(1, "it does not use `.Messages`"))
        }
    }

    /// Returns the template's source text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// A value has the wrong type, or the template takes too long.
    pub fn render(&self, turns: &[Turn]) -> Result<String, GoTemplateError> {
        render::render(&self.nodes, turns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(source: &str) -> Result<String, GoTemplateError> {
        let turn = |role: &str, content: &str| Turn {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        GoTemplate::new(source)?.render(&[
            turn("system", "S"),
            turn("user", "a b"),
            turn("assistant", ""),
            turn("user", "ü"),
        ])
    }

    /// Each expected text is what Go's package gives by its documentation.
    #[test]
    fn templates_render_as_go_renders_them() {
        let cases = [
            (
                "{{ range .Messages }}{{ .Role }};{{ end }}",
                "system;user;assistant;user;",
            ),
            (
                "a \n{{- range .Messages -}}\n {{ .Content }} {{- end -}} \n b",
                "aSa büb",
            ),
            (
                "{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Role }}{{ end }}",
                "0system1user2assistant3user",
            ),
            (
                "{{ range $m := .Messages }}{{ len $m.Content }}{{ end }}",
                "1302",
            ),
            (
                "{{ range .Messages }}{{ if eq .Role \"user\" \"tool\" }}u{{ else if .Content \
                }}s{{ else }}-{{ end }}{{ end }}",
                "su-u",
            ),
            (
                "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}{{ \
                $.System }}{{ end }}{{ end }}",
                "S",
            ),
            (
                "{{ $n := len .Messages }}{{ range .Messages }}{{ $n = .Role }}{{ end }}{{ $n }}",
                "user",
            ),
            (
                "{{/* nothing */}}a {{- /* }} */ -}} {{ range .Messages }}{{ and .Content true \
                }}{{ end }}",
                "atruetruetrue",
            ),
            (
                "{{ range .Messages }}{{ or .Content 7 }}{{ not .Content }}{{ ne .Role \"x\" }}{{ \
                end }}",
                "Sfalsetruea bfalsetrue7truetrueüfalsetrue",
            ),
            (
                "{{ `{{ raw` }}{{ \"\\\"\\n\\u00e9\\x41\" }}{{ if .Messages }}{{ end }}",
                "{{ raw\"\néA",
            ),
            (
                "{{ if or .Tools .Think }}t{{ end }}{{ range .Messages }}{{ if .ToolCalls }}c{{ \
                end }}{{ end }}{{ .Response }}",
                "",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        let cases = [
            ("a\n{{ .Messages | json }}", 2, "`|`"),
            ("{{ range .Messages }}", 1, "`range` has no `end`"),
            ("{{ end }}{{ .Messages }}", 1, "`end`"),
            ("{{ range .Messages }}{{ json . }}{{ end }}", 1, "`json`"),
            ("{{ .Messages }}", 1, "is not printed"),
            ("{{ range .Messages }}{{ .Name }}{{ end }}", 1, "`.Name`"),
            ("{{ .Nothing }}{{ len .Messages }}", 1, "`.Nothing`"),
            (
                "{{ if .Prompt }}{{ end }}{{ len .Messages }}",
                1,
                "`.Prompt`",
            ),
            ("{{ .System }}", 1, "does not use `.Messages`"),
            ("{{ with .Messages }}{{ end }}", 1, "`with`"),
            ("{{ eq 1 \"1\" }}{{ len .Messages }}", 1, "`eq`"),
            ("{{ len .Messages }}{{ slice .Messages 9 }}", 1, "9"),
            ("{{ $x }}{{ len .Messages }}", 1, "`$x`"),
            ("{{ \"a }}{{ len .Messages }}", 1, "string"),
            ("{{ len .Messages ", 1, "`}}`"),
            ("{{ len(.Messages) }}", 1, "blank"),
            ("{{ eq .System\"S\" }}{{ len .Messages }}", 1, "blank"),
            ("{{/* a */-}}{{ len .Messages }}", 1, "comment"),
            ("{{/* a */ }}{{ len .Messages }}", 1, "comment"),
        ];
        for (source, line, reason) in cases {
            let error = render(source).expect_err(source);
            assert!(
                error.line == line && error.reason.contains(reason),
                "{source}: {error}"
            );
        }
        let nested = format!(
            "{}{}",
            "{{ range $.Messages }}".repeat(40),
            "{{ end }}".repeat(40)
        );
        assert!(
            render(&nested)
                .expect_err("too much")
                .reason
                .contains("steps")
        );
        let long = format!(
            "{}{}{}",
            "{{ range $.Messages }}".repeat(5),
            "x".repeat(1 << 20),
            "{{ end }}".repeat(5)
        );
        assert!(
            render(&long)
                .expect_err("too long")
                .reason
                .contains("bytes")
        );
        assert!(
            render(&format!(
                "{{{{ len {}.Messages{} }}}}",
                "(".repeat(999),
                ")".repeat(999)
            ))
            .is_err()
        );
        assert!(render(&"{{ if .Messages }}".repeat(9999)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(parts in prop::collection::vec(prop::sample::select(vec![
            "{{", "}}", "{{- ", " -}}", "-", " ", "\n", "range ", "if ", "else ", "end",
            ".Messages", ".Role", "$", "$m", ":=", "=", ",", "(", ")", "\"", "`", "\\",
            "u00e9", "eq ", "and ", "slice ", "len ", "7", "99999999999999999999", "/*", "*/",
            "ü", ".", "|", "x",
        ]), 0..40)) {
            let _ = render(&parts.concat());
        }
    }
}
