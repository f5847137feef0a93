//! The results as a drawing: SVG without scripts, in the reader's colour scheme.

use std::fmt::Write as _;

use crate::report::Results;

/// Each operation with its baseline: rates.
const RATES: [(&str, &str, &str); 4] = [
    ("list", "list", "pgbench: a list's rows"),
    (
        "list, without attempts",
        "list, without attempts",
        "pgbench: a list's rows, without attempts",
    ),
    (
        "token, cached",
        "token, cached",
        "a bare handler that verifies its caller",
    ),
    ("token, not cached", "token, not cached", "Nango: a token"),
];

/// Operations whose times are shown.
const TIMES: [&str; 7] = [
    "get",
    "list",
    "token, cached",
    "token, not cached",
    "connect through a Nango that takes 5 ms, one by one",
    "webhook that connects, one by one",
    "a change's event on all of its user's 50 streams",
];

const WIDTH: f64 = 960.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 400.0;
const LENGTH: f64 = 300.0;
const LINE: f64 = 26.0;

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.track { fill: #d1d9e0; }
.bar { fill: #0969da; }
.tail { fill: #8250df; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .small { fill: #9198a1; }
  .track { fill: #3d444d; }
  .bar { fill: #4493f8; }
  .tail { fill: #ab7df8; }
}
";

/// Draws the rates beside their baselines, and the times.
pub(crate) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 24.0;
    title(&mut body, y, "Rate, as a share of the baseline's");
    for (name, what, baseline) in RATES {
        let (Some(row), Some(base)) = (results.row(what), results.row(baseline)) else {
            continue;
        };
        y += LINE;
        label(&mut body, y, name);
        bar(&mut body, "track", y, 1.0);
        bar(&mut body, "bar", y, row.rate / base.rate);
        value(
            &mut body,
            y,
            &format!("{:.0} of {:.0} a second", row.rate, base.rate),
        );
    }
    y += 1.6 * LINE;
    title(&mut body, y, "Time to an answer: median, and p99");
    let rows: Vec<_> = TIMES.iter().filter_map(|what| results.row(what)).collect();
    let longest = rows.iter().map(|row| row.p99_ms).fold(1.0, f64::max);
    for row in rows {
        y += LINE;
        label(&mut body, y, &row.what);
        bar(&mut body, "tail", y, row.p99_ms / longest);
        bar(&mut body, "bar", y, row.p50_ms / longest);
        value(
            &mut body,
            y,
            &format!("{:.1} ms, {:.1} ms", row.p50_ms, row.p99_ms),
        );
    }
    for (run, sections) in results.runs() {
        y += 0.8 * LINE;
        let run = run.replace('`', "");
        let text = format!("Measured {run}: {}", sections.join(", "));
        let _ = writeln!(
            body,
            r#"<text class="small" x="8" y="{y:.1}">{}</text>"#,
            escaped(&text)
        );
    }
    let height = y + 14.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"Results of the benchmark\">\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn title(body: &mut String, y: f64, text: &str) {
    let _ = writeln!(
        body,
        r#"<text class="title" x="8" y="{y:.1}">{}</text>"#,
        escaped(text)
    );
}

fn label(body: &mut String, y: f64, text: &str) {
    let _ = writeln!(body, r#"<text x="8" y="{y:.1}">{}</text>"#, escaped(text));
}

fn value(body: &mut String, y: f64, text: &str) {
    let x = LEFT + LENGTH + 8.0;
    let _ = writeln!(
        body,
        r#"<text class="small" x="{x}" y="{y:.1}">{}</text>"#,
        escaped(text)
    );
}

/// A bar that is this share of the longest.
fn bar(body: &mut String, class: &str, y: f64, share: f64) {
    let (x, width) = (LEFT, LENGTH * share.min(1.0));
    let top = y - 11.0;
    let _ = writeln!(
        body,
        r#"<rect class="{class}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="14" rx="2"/>"#
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
