//! The drawing of a diagram: where each step stands, and the SVG that shows it.
//!
//! Its colours are dark, on a light card of its own, so that it reads on light and on dark pages.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::time::Duration;

use crate::simulation::diagram::{DiagramStep, DrawnMessage, MessageKind, StepKind};

/// Columns, in pixels.
const MARGIN: usize = 84;
const FIRST_X: usize = MARGIN + 64;
const COLUMN: usize = 268;
const LAST_COLUMN: usize = 300;
/// Rows, in pixels. A row of a step without a text is a tick.
const HEAD: usize = 92;
const ROW: usize = 19;
const TICK: usize = 9;
const GAP: usize = 22;
const FOOT: usize = 76;
/// How far a text moves down where an arrow comes in from its side.
const UNDER: usize = 9;
/// Longer texts are cut off, and a tooltip has them whole. So many letters fit beside the last
/// node.
const TEXT_MAX: usize = 44;
/// Where nothing happens for so long, the diagram says for how long.
const PAUSE: Duration = Duration::from_millis(10);

const STYLE: &str = "
text { font: 10.5px 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #1f2328 }
.title { font: bold 15px 'DejaVu Sans', Helvetica, Arial, sans-serif }
.node { font: bold 13px 'DejaVu Sans', Helvetica, Arial, sans-serif; text-anchor: middle }
.small { font: 12px 'DejaVu Sans', Helvetica, Arial, sans-serif; fill: #57606a }
.label { paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round }
.time, .later { fill: #57606a }
.time { text-anchor: end }
.rule { stroke: #d0d7de; stroke-dasharray: 2 4 }
.running { stroke: #57606a; stroke-width: 2 }
.down { stroke: #d0d7de; stroke-dasharray: 3 5 }
.paused { stroke: #bf8700; stroke-width: 6; stroke-opacity: .45 }
.message { stroke-width: 1.6; fill: none }
.cut-off { stroke-dasharray: 5 4 }
.batch { stroke: #1f6feb }
.ack { stroke: #1a7f37 }
.dump { stroke: #9a6700 }
.waits { fill: #d8b9ff }
.client { fill: #8250df }
.fault { fill: #cf222e }
.good { fill: #1a7f37 }
.plain { fill: #57606a }
.disk, .superseded { fill: #9a6700 }
";

pub struct Drawing<'a> {
    steps: &'a [DiagramStep],
    /// The steps that are drawn, and a row for each.
    drawn: Range<usize>,
    rows: Vec<DiagramRow>,
    nodes: usize,
    /// The height at which the lines of the nodes end.
    foot: usize,
    out: String,
}

struct DiagramRow {
    y: usize,
    /// How long nothing happened before, and the height at which that is written.
    pause: Option<(Duration, usize)>,
}

impl<'a> Drawing<'a> {
    pub fn new(steps: &'a [DiagramStep], drawn: Range<usize>, nodes: usize) -> Drawing<'a> {
        let (mut foot, mut rows) = (HEAD, Vec::new());
        let mut before = steps[drawn.clone()].first().map_or(Duration::ZERO, |step| step.at);
        for step in &steps[drawn.clone()] {
            let waited = step.at - before;
            let pause = (waited >= PAUSE).then_some((waited, foot + GAP - 8));
            let y = foot + if step.has_text() { ROW } else { TICK } + if pause.is_some() { GAP } else { 0 };
            rows.push(DiagramRow { y, pause });
            (before, foot) = (step.at, y + if step.comes_from_its_text() { UNDER } else { 0 });
        }
        Drawing { steps, drawn, rows, nodes, foot: foot + ROW, out: String::new() }
    }

    pub fn svg(mut self, title: &str) -> String {
        let (width, height) = (x_of(self.nodes - 1) + LAST_COLUMN, self.foot + FOOT);
        let drawn = &self.steps[self.drawn.clone()];
        let messages = drawn.iter().filter(|step| matches!(step.kind, StepKind::Send(_))).count();
        let desc = format!(
            "Space-time diagram: a vertical line for each node, time running down, not to scale; {} steps, and {messages} messages as arrows",
            drawn.len()
        );
        let _ = write!(
            self.out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="title desc">
<title id="title">{}</title>
<desc id="desc">{}</desc>
<style>{STYLE}</style>
<defs>
"#,
            escaped(title),
            escaped(&desc)
        );
        for (name, colour) in [("batch", "#1f6feb"), ("ack", "#1a7f37"), ("dump", "#9a6700")] {
            self.put(format_args!(
                r#"<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>"#
            ));
        }
        self.put(format_args!("</defs>"));
        self.put(format_args!(
            r##"<rect x="1" y="1" width="{}" height="{}" rx="14" fill="#ffffff" stroke="#d0d7de"/>"##,
            width - 2,
            height - 2
        ));
        self.text((20, 30), "title", title);
        self.text((20, 50), "small", "Time runs down, not to scale. Heartbeats are left out.");
        (0..self.nodes).for_each(|node| self.draw_life(node));
        self.draw_waiting();
        self.draw_messages();
        self.draw_steps();
        self.draw_legend();
        self.put(format_args!("</svg>"));
        self.out
    }

    /// Draws the name of a node and its line, which shows when it was down or stood still.
    fn draw_life(&mut self, node: usize) {
        let is_state = |step: &&DiagramStep| {
            step.node == Some(node) && matches!(step.kind, StepKind::Down | StepKind::Up | StepKind::Paused | StepKind::Resumed)
        };
        let mut kind = self.steps[..self.drawn.start].iter().rev().find(is_state).map_or(StepKind::Down, |step| step.kind);
        let changes = self.drawn().filter(|(step, _)| is_state(step)).map(|(step, row)| (step.kind, row.y));
        let changes: Vec<(StepKind, usize)> = changes.chain([(StepKind::Note, self.foot)]).collect();
        let (x, mut from) = (x_of(node), HEAD - 10);
        for (next, y) in changes {
            let class = match kind {
                StepKind::Down => "life down",
                StepKind::Paused => "life paused",
                _ => "life",
            };
            self.put(format_args!(r#"<line class="{class}" x1="{x}" y1="{from}" x2="{x}" y2="{y}"/>"#));
            (kind, from) = (next, y);
        }
        let (left, top) = (x - 40, HEAD - 32);
        self.put(format_args!(r##"<rect x="{left}" y="{top}" width="80" height="24" rx="7" fill="#ddf4ff" stroke="#1f6feb"/>"##));
        self.text((x, HEAD - 15), "node", &format!("node {}", node + 1));
    }

    /// Draws a bar beside the line of a node for as long as a client waits there.
    fn draw_waiting(&mut self) {
        let (mut waiting, mut bars) = (BTreeMap::new(), Vec::new());
        for (index, step) in self.steps[..self.drawn.end].iter().enumerate() {
            let y = self.row(index).map_or(HEAD, |row| row.y);
            match (step.kind, step.node) {
                (StepKind::Request(client), Some(node)) => drop(waiting.insert(client, (node, y))),
                (StepKind::Reply(client), _) => bars.extend(waiting.remove(&client).map(|(node, from)| (client, node, from, y))),
                _ => {}
            }
        }
        bars.extend(waiting.into_iter().map(|(client, (node, from))| (client, node, from, self.foot)));
        for (client, node, from, to) in bars.into_iter().filter(|(.., to)| *to > HEAD) {
            let (x, height, client) = (x_of(node) - 12 - 8 * client, to - from, client + 1);
            let title = format!("client {client} waits");
            self.put(format_args!(r#"<rect class="waits" x="{x}" y="{from}" width="4" height="{height}"><title>{title}</title></rect>"#));
        }
    }

    /// Draws an arrow from each send to its receive. It is dashed where it enters or leaves the
    /// picture. A message that is never received ends in a cross.
    fn draw_messages(&mut self) {
        let received = self.steps.iter().enumerate().filter_map(|(index, step)| match step.kind {
            StepKind::Receive(message) => Some((message.number, index)),
            _ => None,
        });
        let received: BTreeMap<u64, usize> = received.collect();
        for (index, step) in self.steps[..self.drawn.end].iter().enumerate() {
            let StepKind::Send(message) = step.kind else { continue };
            let (sent, receive) = (self.row(index).map(|row| row.y), received.get(&message.number).copied());
            let arrived = receive.and_then(|receive| self.row(receive)).map(|row| row.y);
            let is_drawn = sent.is_some() || receive.is_some_and(|receive| receive >= self.drawn.start);
            if is_drawn {
                self.draw_message(message, sent, arrived, receive.is_none(), &step.text);
            }
        }
    }

    fn draw_message(&mut self, message: DrawnMessage, sent: Option<usize>, arrived: Option<usize>, is_lost: bool, text: &str) {
        let DrawnMessage { from, to, kind, .. } = message;
        let class = kind.class();
        let (x1, y1) = (x_of(from), sent.unwrap_or(HEAD));
        let (x2, y2) = match arrived {
            // The arrow ends in front of the mark.
            Some(y) => (x_of(to).saturating_add_signed(if to > from { -4 } else { 4 }), y),
            // A fifth of the way.
            None if is_lost => ((4 * x1 + x_of(to)) / 5, y1 + ROW),
            None => (x_of(to), self.foot),
        };
        let cut_off = if sent.is_none() || arrived.is_none() { " cut-off" } else { "" };
        let end = if arrived.is_some() { format!(r#" marker-end="url(#{class})""#) } else { String::new() };
        let text = escaped(text);
        self.put(format_args!(
            r#"<line class="message {class}{cut_off}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{end}><title>{text}</title></line>"#
        ));
        if is_lost {
            let (x, y) = (x2 - 4, y2 - 4);
            self.put(format_args!(
                r#"<path class="message {class}" d="M{x} {y}l8 8m0 -8l-8 8"><title>{text}: did not arrive</title></path>"#
            ));
        }
    }

    /// Draws the mark of each step on the line of its node, its time, and its text.
    fn draw_steps(&mut self) {
        let right = x_of(self.nodes - 1) + LAST_COLUMN - 20;
        for index in self.drawn.clone() {
            let step = &self.steps[index];
            let Some(&DiagramRow { y, pause }) = self.row(index) else { continue };
            if let Some((waited, y)) = pause {
                self.put(format_args!(r#"<path class="rule" d="M{MARGIN} {y}H{right}"/>"#));
                self.text((MARGIN - 10, y + 4), "time later", &format!("+{} ms", waited.as_millis()));
            }
            if step.has_text() && step.kind != StepKind::Failed {
                self.text((MARGIN - 10, y + 4), "time", &format!("{:.6}", step.at.as_secs_f64()));
            }
            let (class, under) = (step.class(), if step.comes_from_its_text() { UNDER } else { 0 });
            match (step.node, step.kind) {
                (None, _) => self.text((MARGIN, y + 4), &format!("label {class}"), &step.text),
                (Some(node), StepKind::Synced) => {
                    let x = x_of(node) - 4;
                    self.put(format_args!(r#"<path class="disk" d="M{x} {y}l4 -4l4 4l-4 4z"><title>the log is synced</title></path>"#));
                }
                (Some(node), _) => {
                    let x = x_of(node);
                    self.put(format_args!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="3"/>"#));
                    if step.has_text() {
                        self.text((x + 9, y + 4 + under), &format!("label {class}"), &step.text);
                    }
                }
            }
        }
    }

    fn draw_legend(&mut self) {
        let (y, right) = (self.foot + 28, x_of(self.nodes - 1) + LAST_COLUMN - 20);
        self.put(format_args!(r#"<path class="rule" d="M20 {}H{right}"/>"#, self.foot + 8));
        for (x, class, text) in [(20, "batch", "write batch"), (150, "ack", "ack"), (230, "dump", "dump")] {
            self.put(format_args!(r#"<path class="message {class}" d="M{x} {}h28" marker-end="url(#{class})"/>"#, y - 4));
            self.text((x + 36, y), "small", text);
        }
        self.put(format_args!(r#"<path class="disk" d="M326 {}l4 -4l4 4l-4 4z"/>"#, y - 4));
        self.text((340, y), "small", "log synced");
        self.put(format_args!(r#"<rect class="waits" x="430" y="{}" width="4" height="14"/>"#, y - 11));
        self.text((440, y), "small", "client waits");
        let words = "n1: node 1. c1: client 1. Cross: did not arrive. Dashed line: the node is down. Wide line: it stands still.";
        self.text((20, y + 24), "small", words);
    }

    fn drawn(&self) -> impl Iterator<Item = (&'a DiagramStep, &DiagramRow)> {
        self.steps[self.drawn.clone()].iter().zip(&self.rows)
    }

    fn row(&self, index: usize) -> Option<&DiagramRow> {
        self.rows.get(index.checked_sub(self.drawn.start)?)
    }

    fn text(&mut self, (x, y): (usize, usize), class: &str, text: &str) {
        let is_cut = class.starts_with("label") && text.chars().count() > TEXT_MAX && x > MARGIN;
        let shown: String = if is_cut { text.chars().take(TEXT_MAX - 1).chain(['…']).collect() } else { text.to_owned() };
        let tooltip = if is_cut { format!("<title>{}</title>", escaped(text)) } else { String::new() };
        self.put(format_args!(r#"<text class="{class}" x="{x}" y="{y}">{}{tooltip}</text>"#, escaped(&shown)));
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Cannot fail: a String takes every write.
        let _ = writeln!(self.out, "{element}");
    }
}

impl DiagramStep {
    /// False for a send, whose text stands where it is received.
    fn has_text(&self) -> bool {
        !matches!(self.kind, StepKind::Send(_) | StepKind::Synced)
    }

    /// True if the arrow comes in from the right, where the text stands.
    fn comes_from_its_text(&self) -> bool {
        matches!(self.kind, StepKind::Receive(DrawnMessage { from, to, .. }) if from > to)
    }

    fn class(&self) -> &'static str {
        match self.kind {
            StepKind::Request(_) | StepKind::Reply(_) => "client",
            StepKind::Receive(_) if self.text.contains(" superseded by ") => "superseded",
            StepKind::Send(_) => "sent",
            StepKind::Receive(_) => "received",
            StepKind::Synced => "disk",
            StepKind::Connection | StepKind::Note => "plain",
            StepKind::Fault | StepKind::Paused | StepKind::Down | StepKind::Failed => "fault",
            StepKind::Mended(_) | StepKind::Up | StepKind::Resumed => "good",
        }
    }
}

impl MessageKind {
    fn class(self) -> &'static str {
        match self {
            MessageKind::Batch => "batch",
            MessageKind::Ack => "ack",
            MessageKind::Dump => "dump",
        }
    }
}

fn x_of(node: usize) -> usize {
    FIRST_X + node * COLUMN
}

/// Text as XML holds it. Characters that XML cannot hold become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}
