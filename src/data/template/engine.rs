//! A compiled template and the jinja2 environment in which transformers renders it, with limits: a
//! template comes with a model from outside and may loop or grow without end.

use std::error::Error as _;
use std::io;
use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value, escape_formatter};
use minijinja_contrib::{filters, globals};
use regex::Regex;

use super::generation::Marks;
use super::{Rendered, TemplateError, json, python, rewrite};

/// Maximum steps of a rendering: about half a second of looping. A conversation of ten thousand
/// turns stays far below.
pub(super) const MAX_STEPS: u64 = 20_000_000;
/// Maximum bytes of a rendering: far above any sequence that can be trained.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// Maximum depth of calls, as minijinja counts them (four for a macro), low enough for the small
/// stacks of worker threads.
const MAX_DEPTH: usize = 200;

/// Maximum bytes of the message with which a template refuses a conversation.
const MAX_SAID: usize = 1000;

const NAME: &str = "chat_template";

/// A template that is ready to render.
#[derive(Debug)]
pub(super) struct Engine {
    environment: Environment<'static>,
    /// Marks that [`Engine::render`] removes from the text and turns into spans.
    pub(super) marks: Marks,
}

impl Engine {
    /// Compiles a template. `started` is the time that `strftime_now` formats.
    ///
    /// # Errors
    /// The template is not valid.
    pub(super) fn new(source: &str, started: Timestamp) -> Result<Self, TemplateError> {
        let marks = Marks::new();
        let mut environment = environment(started);
        let function = marks.clone();
        environment.add_function(
            rewrite::GENERATION,
            move |state: &mut State, arguments: Kwargs| function.call(state, &arguments),
        );
        environment
            .add_template_owned(NAME, rewrite::for_minijinja(source))
            .map_err(|error| TemplateError::syntax(&error))?;
        Ok(Self { environment, marks })
    }

    /// Renders the template; text between marks becomes spans.
    ///
    /// # Errors
    /// The template raises an exception, fails, or exceeds a limit.
    pub(super) fn render(&self, variables: Value) -> Result<Rendered, TemplateError> {
        let mut output = Capped {
            text: Vec::new(),
            is_full: false,
        };
        let result = self.environment.get_template(NAME).and_then(|template| {
            template.render_captured_to(variables, &mut output)?;
            Ok(())
        });
        match result {
            Err(_) if output.is_full => Err(TemplateError::TooLong {
                limit_bytes: MAX_BYTES,
            }),
            Err(error) => Err(TemplateError::render(&error)),
            Ok(()) => {
                let text = String::from_utf8(output.text).expect("minijinja writes whole strings");
                self.marks.cut(&text).ok_or(TemplateError::Nested)
            }
        }
    }
}

static ASKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"strftime_now\(\s*(?:"([^"]*)"|'([^']*)')?"#)
        .expect("the pattern is valid and fixed")
});
static DAY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("^(?:[^%]|%-?[aAbBdejmuUwWyYDF])*$").expect("the pattern is valid and fixed")
});

/// Whether every format that a template passes to `strftime_now` is a literal and contains nothing
/// finer than the day.
pub(super) fn asks_for_the_day_only(source: &str) -> bool {
    let format = |call: regex::Captures| {
        call.get(1)
            .or(call.get(2))
            .map(|format| format.as_str().to_owned())
    };
    ASKED
        .captures_iter(source)
        .all(|call| format(call).is_some_and(|format| DAY.is_match(&format)))
}

/// Creates the environment of transformers' `_compile_jinja_template`.
fn environment(started: Timestamp) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the delimiters are jinja's own"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_formatter(|output, state, value| match python_float(value) {
        Some(float) => Ok(output.write_str(&float)?),
        None => escape_formatter(output, state, value),
    });
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", |value: &Value| {
        python_float(value).unwrap_or_else(|| value.to_string())
    });
    environment.add_filter(rewrite::PERCENT, python::percent);
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
        python::trim(value, characters)
    });
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    // jinja2 asks for a length and an index: strings and mappings have both.
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || value.len().is_some()
    });
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_filter("filesizeformat", filters::filesizeformat);
    environment.add_filter("striptags", filters::striptags);
    environment.add_filter("truncate", python::truncate);
    environment.add_filter("urlencode", python::url_encode);
    environment.add_filter("wordcount", |text: &str| python::count_words(text));
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    environment.add_function("joiner", globals::joiner);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| {
        strftime(format, started)
    });
    environment
}

/// Formats a float as Python prints it; `None` for any other value.
fn python_float(value: &Value) -> Option<String> {
    let is_float = value.is_number() && !value.is_integer();
    f64::try_from(value.clone())
        .ok()
        .filter(|_| is_float)
        .map(json::python_float)
}

/// Implements `length`: undefined has the length 0 in jinja2, and none in minijinja.
fn length(value: &Value) -> Result<usize, minijinja::Error> {
    if value.is_undefined() {
        Ok(0)
    } else {
        minijinja::filters::length(value)
    }
}

/// Message of a template that calls `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(String);

impl Raised {
    /// Finds the message inside an error, because errors of blocks and macros wrap it.
    pub(super) fn find(error: &minijinja::Error) -> Option<&str> {
        let mut inner = error.source();
        while let Some(error) = inner {
            if let Some(Self(message)) = error.downcast_ref() {
                return Some(message);
            }
            inner = error.source();
        }
        None
    }
}

fn raise_exception(mut message: String) -> Result<Value, minijinja::Error> {
    message.truncate(message.floor_char_boundary(MAX_SAID));
    Err(
        minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception")
            .with_source(Raised(message)),
    )
}

/// Formats the time in UTC, because local time would render another text on another machine.
fn strftime(format: &str, time: Timestamp) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &time.to_zoned(TimeZone::UTC)).map_err(|error| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: {error}"),
        )
    })
}

/// Output that accepts at most [`MAX_BYTES`].
struct Capped {
    text: Vec<u8>,
    is_full: bool,
}

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_BYTES {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TemplateError> {
        let variables = serde_json::json!({
            "no": null, "yes": true, "number": 2.0, "list": ["a", 1, null], "text": " a b\n",
            "map": {"items": 1, "values": "v"},
            "messages": [{"role": "user"}, {"role": "assistant"}, {"role": "tool"}],
        });
        Engine::new(source, "2024-07-26T23:30:00Z".parse().unwrap())?
            .render(Value::from(minijinja::value::Serde(variables)))
            .map(|it| it.text)
    }

    /// The expected texts are the output of jinja2 3.1 with the settings of transformers.
    #[test]
    fn templates_render_as_jinja2_renders_them() {
        let cases = [
            ("{% if yes %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
            (
                "{{ no }}|{{ yes }}|{{ number }}|{{ list }}|{{ missing }}|{{ '<&>' }}",
                "None|True|2.0|['a', 1, None]||<&>",
            ),
            ("{{ no ~ 1 ~ yes }}", "None1True"),
            (
                "{{ text.strip() }}{{ text | trim }}{{ text.rstrip('\\n') }}",
                "a ba b a b",
            ),
            (
                "{{ map.items() | length }}{% for k, v in map.items() %}{{ k }}={{ v \
                }};{% endfor %}{{ map['items'] }}",
                "2items=1;values=v;1",
            ),
            ("{{ map.get('x', 3) }}{{ map.get('x') }}", "3None"),
            (
                "{{ messages[1:] | length }}{{ messages[-1].role }}{{ messages[::-1][0].role }}",
                "2tooltool",
            ),
            (
                "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ \
                m.role }}{% break %}{% endfor %}",
                "user",
            ),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\
                {% endfor %}{{ ns.n }}",
                "3",
            ),
            (
                "{% macro f(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ f(1) }}{{ f(1, y=3) }}",
                "1213",
            ),
            (
                "{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ missing is defined }}{{ no is \
                none }}",
                "TrueTrueFalseTrue",
            ),
            (
                "{{ text is sequence }}{{ text is iterable }}{{ map is mapping }}{{ list is string \
                }}",
                "TrueTrueTrueFalse",
            ),
            (
                "{{ 0.00001 }} {{ 0.00001 | string }} {{ 1e6 }} {{ no is iterable }}",
                "1e-05 1e-05 1000000.0 False",
            ),
            (
                "{{ missing == none }}{{ missing | length }}{{ no | string }}",
                "False0None",
            ),
            (
                "{{ messages | map(attribute='role') | join(',') }}",
                "user,assistant,tool",
            ),
            (
                "{{ messages | selectattr('role', 'equalto', 'tool') | list | length }}",
                "1",
            ),
            (
                "{{ 'a,b'.split(',')[-1] }}{{ 'x' if not yes }}{{ 'x' * 3 }}{{ 7 // 2 }}{{ 7 / 2 \
                }}",
                "bxxx33.5",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
            (
                "{{ {'b': '<', 'a': 1} | tojson }}",
                "{\"b\": \"<\", \"a\": 1}",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn a_template_speaks_for_itself() {
        let error =
            render("{% for m in messages %}{{ raise_exception('no ' ~ m.role) }}{% endfor %}")
                .unwrap_err();
        assert!(
            matches!(&error, TemplateError::Raised { message } if message == "no user"),
            "{error}"
        );
        let inside = render("{% generation %}{{ raise_exception('inside') }}{% endgeneration %}")
            .unwrap_err();
        assert!(
            matches!(&inside, TemplateError::Raised { message } if message == "inside"),
            "{inside}"
        );
    }

    #[test]
    fn faults_name_their_line() {
        assert!(matches!(
            render("a\n{% if %}"),
            Err(TemplateError::Syntax { line: 2, .. })
        ));
        assert!(matches!(
            render("a\n\n{{ missing.role }}"),
            Err(TemplateError::Render { line: 3, .. })
        ));
        assert!(matches!(
            render("{{ strftime_now('%!') }}"),
            Err(TemplateError::Render { line: 1, .. })
        ));
    }

    #[test]
    fn a_template_without_end_is_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}\
            {% endfor %}{% endfor %}";
        assert!(matches!(render(nested), Err(TemplateError::Endless { .. })));
        let growing = "{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}";
        assert!(matches!(
            render(growing),
            Err(TemplateError::TooLong { .. })
        ));
        let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(matches!(
            render(recursive),
            Err(TemplateError::Render { .. })
        ));
    }

    #[test]
    fn what_is_set_in_a_generation_block_stays_in_it() {
        let source = "{% for m in messages %}\n  {% generation %}\n{% set x = loop.index %}{{ x \
            }}\n  {% endgeneration %}\n{{ x }}.{% endfor %}";
        assert_eq!(render(source).unwrap(), "1\n.2\n.3\n.");
    }
}
