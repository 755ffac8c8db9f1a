//! A plot over steps as SVG: axes with units and round ticks, lines, dots, and marks where a value
//! was not finite.

use super::axis::Axis;
use super::html::Html;
use super::line::{Point, path, thinned};

/// The most points of a line.
const MOST_POINTS: usize = 1000;
/// The most dots that remain distinguishable.
const MOST_DOTS: usize = 40;
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
/// The area inside the axes.
const LEFT: f64 = 58.0;
const RIGHT: f64 = WIDTH - 30.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = HEIGHT - 42.0;
const TICKS: usize = 5;

/// A plot.
#[derive(Debug)]
pub(super) struct Chart {
    /// The title.
    pub title: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// The lower end of the value axis.
    pub floor: Floor,
    /// The lines, from back to front.
    pub lines: Vec<Line>,
    /// The steps after which runs were resumed.
    pub marks: Vec<Resumed>,
}

/// A step after which a run was resumed.
#[derive(Debug, Clone)]
pub(super) struct Resumed {
    /// The run's name and the step, in words.
    pub words: String,
    /// The step.
    pub step: f64,
    /// The color of its run.
    pub color: usize,
}

/// The lower end of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Floor {
    /// 0, so that half the height is half the value.
    Zero,
    /// The lowest value.
    Lowest,
}

/// A line of a plot.
#[derive(Debug)]
pub(super) struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its color, of six.
    pub color: usize,
    /// Its dash pattern, of four; 0 is solid.
    pub dash: usize,
    /// How it is drawn.
    pub mark: Mark,
    /// Its points by step.
    pub points: Vec<Point>,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// As a line.
    Line,
    /// As a thin line in the background.
    Faint,
    /// As a line with a dot at each point.
    Dots,
}

impl Line {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|(_, value)| *value)
    }

    /// Returns the classes for the stylesheet.
    fn class(&self, what: &str) -> String {
        let faint = if self.mark == Mark::Faint {
            " faint"
        } else {
            ""
        };
        format!(
            "{what} color{} dash{}{faint}",
            self.color % 6,
            self.dash % 4
        )
    }
}

/// Writes a figure with a plot, or a text if there are no values.
pub(super) fn draw(html: &mut Html, chart: &Chart) {
    html.element("figure", &[], |figure| {
        figure.element("figcaption", &[], |caption| {
            caption.words("h3", &[], chart.title);
            if chart.lines.len() > 1 {
                chart.lines.iter().for_each(|line| legend(caption, line));
            }
        });
        if chart
            .lines
            .iter()
            .any(|line| line.values().next().is_some())
        {
            plot(figure, chart);
        } else {
            figure.words("p", &[("class", "nothing")], "no value yet");
        }
    });
}

fn legend(html: &mut Html, line: &Line) {
    html.element("span", &[("class", "legend")], |entry| {
        entry.element(
            "svg",
            &[
                ("class", "swatch"),
                ("viewBox", "0 0 34 10"),
                ("aria-hidden", "true"),
            ],
            |swatch| {
                swatch.empty(
                    "path",
                    &[("class", &line.class("line")), ("d", "M1 5L33 5")],
                );
                if line.mark == Mark::Dots {
                    dot(swatch, line, (17.0, 5.0), |_| ());
                }
            },
        );
        entry.text(&line.name);
    });
}

fn plot(html: &mut Html, chart: &Chart) {
    let last = chart
        .lines
        .iter()
        .flat_map(|line| &line.points)
        .fold(0.0, |last: f64, (step, _)| last.max(*step));
    let last = chart
        .marks
        .iter()
        .fold(last, |last, mark| last.max(mark.step));
    let values = || chart.lines.iter().flat_map(Line::values);
    let lowest = values().fold(f64::INFINITY, f64::min);
    let low = if chart.floor == Floor::Zero {
        lowest.min(0.0)
    } else {
        lowest
    };
    let (steps, range) = (
        Axis::of_steps(last, TICKS),
        Axis::around(low, values().fold(low, f64::max), TICKS),
    );
    let title = format!("{} by optimizer step, {}", chart.title, chart.unit);
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    html.element(
        "svg",
        &[
            ("class", "plot"),
            ("viewBox", &view),
            ("role", "img"),
            ("aria-label", &title),
        ],
        |svg| {
            svg.words("title", &[], &title);
            draw_range(svg, &range, chart.unit);
            draw_steps(svg, &steps);
            for mark in &chart.marks {
                let (at, class) = (
                    x(&steps, mark.step),
                    format!("resumed color{}", mark.color % 6),
                );
                let line = format!("M{at:.1} {TOP}V{BOTTOM}");
                svg.element("path", &[("class", &class), ("d", &line)], |path| {
                    path.words("title", &[], &mark.words);
                });
            }
            for line in &chart.lines {
                draw_line(svg, line, |step, value| (x(&steps, step), y(&range, value)));
            }
        },
    );
}

fn x(steps: &Axis, step: f64) -> f64 {
    LEFT + steps.share(step) * (RIGHT - LEFT)
}

fn y(range: &Axis, value: f64) -> f64 {
    BOTTOM - range.share(value) * (BOTTOM - TOP)
}

fn draw_range(svg: &mut Html, range: &Axis, unit: &str) {
    for tick in &range.ticks {
        let at = y(range, *tick);
        svg.empty(
            "path",
            &[
                ("class", "grid"),
                ("d", &format!("M{LEFT} {at:.1}H{RIGHT}")),
            ],
        );
        label(svg, (LEFT - 8.0, at + 4.0), "end", &range.label(*tick));
    }
    let factor = range
        .factor()
        .map_or_else(String::new, |factor| format!("{factor} "));
    label(svg, (2.0, 13.0), "start", &format!("{factor}{unit}"));
}

fn draw_steps(svg: &mut Html, steps: &Axis) {
    svg.empty(
        "path",
        &[
            ("class", "axis"),
            ("d", &format!("M{LEFT} {BOTTOM}H{RIGHT}")),
        ],
    );
    for tick in &steps.ticks {
        let at = x(steps, *tick);
        svg.empty(
            "path",
            &[("class", "axis"), ("d", &format!("M{at:.1} {BOTTOM}v5"))],
        );
        label(svg, (at, BOTTOM + 19.0), "middle", &steps.label(*tick));
    }
    label(
        svg,
        (f64::midpoint(LEFT, RIGHT), HEIGHT - 5.0),
        "middle",
        "optimizer step",
    );
}

fn label(svg: &mut Html, (x, y): (f64, f64), anchor: &str, words: &str) {
    svg.words(
        "text",
        &[
            ("x", &format!("{x:.1}")),
            ("y", &format!("{y:.1}")),
            ("text-anchor", anchor),
        ],
        words,
    );
}

fn draw_line(svg: &mut Html, line: &Line, place: impl Fn(f64, f64) -> (f64, f64)) {
    let points = thinned(&line.points, MOST_POINTS);
    for (step, _) in points.iter().filter(|(_, value)| value.is_none()) {
        gap(svg, *step, place(*step, 0.0).0);
    }
    svg.empty(
        "path",
        &[
            ("class", &line.class("line")),
            ("d", &path(&points, &place)),
        ],
    );
    if line.mark == Mark::Dots {
        draw_dots(svg, line, place);
    }
}

/// Draws dots at even distances, and at the lowest value.
fn draw_dots(svg: &mut Html, line: &Line, place: impl Fn(f64, f64) -> (f64, f64)) {
    let (every, lowest) = (
        line.points.len().div_ceil(MOST_DOTS),
        line.values().fold(f64::INFINITY, f64::min),
    );
    for (index, (step, value)) in line.points.iter().enumerate() {
        if let Some(value) = value.filter(|value| index.is_multiple_of(every) || *value <= lowest) {
            let words = format!("{}, step {step}: {value:.4}", line.name);
            dot(svg, line, place(*step, value), |dot| {
                dot.words("title", &[], &words);
            });
        }
    }
}

/// Draws a mark on the axis where a value is missing.
fn gap(svg: &mut Html, step: f64, x: f64) {
    let triangle = format!("M{x:.1} {:.1}l4 8h-8z", BOTTOM - 9.0);
    svg.element("path", &[("class", "gap"), ("d", &triangle)], |mark| {
        mark.words("title", &[], &format!("step {step}: not a finite number"));
    });
}

fn dot(svg: &mut Html, line: &Line, (x, y): (f64, f64), fill: impl FnOnce(&mut Html)) {
    let class = line.class("dot");
    svg.element(
        "circle",
        &[
            ("class", &class),
            ("cx", &format!("{x:.1}")),
            ("cy", &format!("{y:.1}")),
            ("r", "3"),
        ],
        fill,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(floor: Floor, points: &[Point]) -> String {
        let line = |mark| Line {
            name: "a < b".to_owned(),
            color: 7,
            dash: 3,
            mark,
            points: points.to_vec(),
        };
        let mut html = Html::default();
        draw(
            &mut html,
            &Chart {
                title: "Loss",
                unit: "nats",
                floor,
                lines: vec![line(Mark::Faint), line(Mark::Dots)],
                marks: vec![Resumed {
                    words: "resumed after step 2".to_owned(),
                    step: 2.0,
                    color: 1,
                }],
            },
        );
        html.finish()
    }

    #[test]
    fn a_plot_has_units_ticks_gaps_and_dots() {
        let drawn = drawn(
            Floor::Lowest,
            &[(1.0, Some(3.2)), (2.0, None), (3.0, Some(6.1))],
        );
        let labels =
            ["3", "4", "5", "6", "7"].map(|tick| format!("text-anchor=\"end\">{tick}</text>"));
        let others = [
            "Loss by optimizer step, nats",
            ">optimizer step<",
            "line color1 dash3 faint",
            "a &lt; b, step 3: 6.1000",
            "resumed color1",
            "<title>resumed after step 2</title>",
        ];
        for part in labels.iter().map(String::as_str).chain(others) {
            assert!(drawn.contains(part), "{part} is not in {drawn}");
        }
        assert_eq!(
            (
                drawn.matches("step 2: not a finite number").count(),
                drawn.matches("<circle").count()
            ),
            (2, 3)
        );
    }

    #[test]
    fn an_axis_begins_at_zero_or_at_the_lowest_value() {
        let points = [(1.0, Some(100.0)), (2.0, Some(101.0))];
        assert!(drawn(Floor::Zero, &points).contains(">0</text>"));
        assert!(drawn(Floor::Lowest, &points).contains(">100.2</text>"));
    }

    #[test]
    fn a_plot_without_a_value_says_so() {
        for points in [&[][..], &[(1.0, None)]] {
            let drawn = drawn(Floor::Zero, points);
            assert!(
                drawn.contains("no value yet") && !drawn.contains("class=\"plot\""),
                "{drawn}"
            );
        }
    }
}
