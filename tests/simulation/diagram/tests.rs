use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::*;
use crate::simulation::plan::RunKind;
use crate::simulation::{RunReport, run};

/// An element of a document, with its own text.
#[derive(Debug, Default)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

impl Element {
    fn has_class(&self, class: &str) -> bool {
        self.attributes.get("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
    }

    fn number(&self, name: &str) -> i64 {
        self.attributes[name].parse().unwrap_or_else(|error| panic!("{name} of {self:?}: {error}"))
    }
}

/// Reads a document of the XML that diagrams use, and panics where it is not well-formed.
fn parse(svg: &str) -> Vec<Element> {
    let (mut open, mut elements, mut rest): (Vec<usize>, Vec<Element>, &str) = (Vec::new(), Vec::new(), svg);
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        if let Some(element) = open.last() {
            elements[*element].text += &unescaped(text);
        } else {
            assert!(text.trim().is_empty(), "a text outside of the root: {text}");
        }
        let end = tag.find('>').expect("a tag ends");
        let (inner, after) = (&tag[1..end], &tag[end + 1..]);
        rest = after;
        if let Some(name) = inner.strip_prefix('/') {
            let element = open.pop().expect("an end tag has a start tag");
            assert_eq!(elements[element].name, name, "what is closed is what is open");
            continue;
        }
        let is_empty = inner.ends_with('/');
        elements.push(start_tag(inner.trim_end_matches('/')));
        if !is_empty {
            open.push(elements.len() - 1);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "the root is closed, and nothing is behind it");
    elements
}

fn start_tag(inner: &str) -> Element {
    let (name, mut rest) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
    let mut element = Element { name: name.to_owned(), ..Element::default() };
    while let Some((name, value)) = rest.split_once("=\"") {
        let (value, after) = value.split_once('"').expect("a value ends");
        let is_new = element.attributes.insert(name.trim().to_owned(), unescaped(value)).is_none();
        assert!(is_new && name.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{inner}");
        rest = after;
    }
    assert!(rest.trim().is_empty() && !name.is_empty(), "{inner}");
    element
}

fn unescaped(text: &str) -> String {
    assert!(!text.contains(['<', '>']) && text.chars().all(|c| c >= ' ' || c == '\n'), "{text:?}");
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').expect("an entity ends");
        out += match name {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            _ => panic!("the entity {name} is not one of XML's"),
        };
        out += rest;
    }
    out
}

fn drawn(seed: u64, kind: RunKind, window: DiagramWindow) -> (RunReport, Vec<Element>) {
    let report = run(seed, kind, Some(window));
    let elements = parse(report.svg.as_deref().expect("it was to be drawn"));
    (report, elements)
}

/// Windows of several kinds: a quiet run, the whole script, nodes that die, and the bound.
static SAMPLES: LazyLock<Vec<(RunReport, Vec<Element>)>> = LazyLock::new(|| {
    let short = DiagramWindow::default();
    let long = DiagramWindow { until: Some(Duration::from_secs(20)), len: Some(Duration::from_secs(10)) };
    let all = [(3, RunKind::Any, short), (1, RunKind::Script, short), (4, RunKind::Relapse, long), (2, RunKind::Incarnations, long)];
    all.into_iter().map(|(seed, kind, window)| drawn(seed, kind, window)).collect()
});

#[test]
fn a_run_is_the_same_with_and_without_a_diagram() {
    for kind in [RunKind::Any, RunKind::Relapse] {
        let (plain, drawn) = (run(5, kind, None), run(5, kind, Some(DiagramWindow::default())));
        assert_eq!((plain.trace, plain.events, plain.tally), (drawn.trace, drawn.events, drawn.tally), "{kind:?}");
        assert!(plain.svg.is_none() && drawn.svg.is_some());
    }
}

#[test]
fn every_send_in_a_diagram_has_its_arrow_and_none_points_back_in_time() {
    for (report, elements) in SAMPLES.iter() {
        let ends = |class: &str| -> BTreeSet<(i64, i64)> {
            let marks = elements.iter().filter(|element| element.name == "circle" && element.has_class(class));
            marks.map(|mark| (mark.number("cx"), mark.number("cy"))).collect()
        };
        let (mut sent, mut received) = (ends("sent"), ends("received"));
        received.extend(ends("superseded"));
        let (all_sent, all_received) = (sent.clone(), received.clone());
        let arrows: Vec<&Element> = elements.iter().filter(|element| element.name == "line" && element.has_class("message")).collect();
        assert!(arrows.len() > 5, "seed {}: {} arrows", report.seed, arrows.len());
        for arrow in arrows {
            let (from, to) = ((arrow.number("x1"), arrow.number("y1")), (arrow.number("x2"), arrow.number("y2")));
            assert!(to.1 > from.1, "an arrow that points back in time: {arrow:?}");
            // It ends just in front of the mark.
            let to = (to.0 + 4 * (to.0 - from.0).signum(), to.1);
            if !arrow.has_class("cut-off") {
                assert!(all_sent.contains(&from) && all_received.contains(&to), "an arrow from or to nowhere: {arrow:?}");
            }
            sent.remove(&from);
            received.remove(&to);
        }
        assert!(sent.is_empty(), "seed {}: sends without an arrow: {sent:?}", report.seed);
        assert!(received.is_empty(), "seed {}: receives without an arrow: {received:?}", report.seed);
    }
}

#[test]
fn no_two_texts_of_a_diagram_overlap_and_all_are_on_its_card() {
    for (report, elements) in SAMPLES.iter() {
        let (width, height) = (elements[0].number("width"), elements[0].number("height"));
        let mut boxes: Vec<(i64, i64, i64, i64, &str)> = Vec::new();
        for text in elements.iter().filter(|element| element.name == "text") {
            // A letter of the fixed-width font takes 6.4 pixels; the others have room to spare.
            let (x, y, len) = (text.number("x"), text.number("y"), text.text.chars().count() as i64 * 64 / 10);
            let left = if text.has_class("time") { x - len } else { x };
            boxes.push((left, left + len, y - 8, y + 2, &text.text));
        }
        for (index, one) in boxes.iter().enumerate() {
            assert!(one.0 > 0 && one.1 < width && one.2 > 0 && one.3 < height, "seed {}: outside of the card: {one:?}", report.seed);
            let other = boxes[index + 1..].iter().find(|other| one.0 < other.1 && other.0 < one.1 && one.2 < other.3 && other.2 < one.3);
            assert!(other.is_none(), "seed {}: {one:?} and {other:?} overlap", report.seed);
        }
    }
}

#[test]
fn a_diagram_is_bounded_and_shows_the_last_steps_of_a_long_window() {
    let window = DiagramWindow { until: Some(Duration::from_secs(15)), len: Some(Duration::from_secs(15)) };
    let (_, elements) = drawn(1, RunKind::Any, window);
    let marks = elements.iter().filter(|element| element.name == "circle" || element.has_class("disk")).count();
    assert!((DRAWN_MAX - 20..=DRAWN_MAX + 20).contains(&marks), "{marks} marks");
    let times = elements.iter().filter(|element| element.has_class("time")).filter_map(|element| element.text.parse::<f64>().ok());
    assert!(times.fold(0.0, f64::max) > 14.0);
}

#[test]
fn what_stands_in_a_diagram_is_escaped() {
    let mut diagram = Diagram::default();
    diagram.step(Duration::ZERO, Some(0), StepKind::Fault, "a <b> & \"c\"\0".to_owned());
    let violation = Violation { check: "no-panic", what: "1 < 2\n\u{1b}[0m".to_owned(), at: Duration::from_secs(1) };
    let svg = diagram.draw(1, 3, DiagramWindow::default(), Some(&violation));
    let texts: Vec<String> = parse(&svg).into_iter().map(|element| element.text).collect();
    assert!(texts.contains(&"a <b> & \"c\"\u{fffd}".to_owned()), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("FAILED no-panic: 1 < 2")), "{texts:?}");
}

/// docs/reading-a-diagram.md tells this story of docs/images/conflict.svg.
#[test]
fn the_scripted_run_is_the_one_that_the_documents_explain() {
    let (report, elements) = drawn(1, RunKind::Script, DiagramWindow::default());
    assert!(report.violation.is_none(), "{:?}", report.violation);
    let labels = elements.iter().filter(|element| element.has_class("label")).map(|element| element.text.as_str());
    // Without the times, which follow every change of a message's length.
    let story: Vec<&str> =
        labels.map(|label| label.split(" (").next().unwrap_or(label)).skip_while(|label| *label != "link to n2 is cut").collect();
    let told = [
        "link to n2 is cut",
        "link to n1 is cut",
        "c1: PUT color red",
        "n1: color=red stored",
        "n3: ack up to color=red",
        "c1 gets OK",
        "c2: PUT color blue",
        "n2: color=blue won over red",
        "n3: ack up to color=blue",
        "c2 gets OK",
        "c1: GET color",
        "c1 gets red",
        "link to n2 is mended",
        "link to n1 is mended",
        "n1: color=red superseded by blue",
        "n2: color=blue won over red",
    ];
    assert_eq!(story[..told.len()], told, "{story:?}");
    assert!(story.contains(&"c1 gets blue") && story.contains(&"c2 gets blue"), "{story:?}");
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images/conflict.svg")).expect("the picture of the documents");
    let shown: Vec<String> = parse(&committed).into_iter().map(|element| element.text).collect();
    let missing: Vec<&str> = told.into_iter().filter(|line| !shown.iter().any(|text| text.split(" (").next() == Some(line))).collect();
    assert!(missing.is_empty(), "docs/images/conflict.svg lacks {missing:?}: draw it anew");
}
