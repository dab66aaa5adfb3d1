//! Rules for the documents, as far as a test can check them.
//!
//! Every link and anchor leads somewhere, lines and cells are short, and what a page names of the
//! code (a function, a test, a check, a rule, a count) is there. That their commands print what
//! they show is held by walk.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use kvmesh::testing::broken_rules::BrokenRule;

use crate::repository::{repository_path, text, texts};

const COLUMNS_MAX: usize = 100;
const CELL_WORDS_MAX: usize = 25;

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let pages = markdown();
    assert!(pages.len() > 10, "{:?}", pages.keys());
    let faults: Vec<String> = pages.iter().flat_map(|(page, text)| dead_links(page, text, &pages)).collect();
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

#[test]
fn lines_and_cells_are_short() {
    let is_ours = |page: &str| {
        page.starts_with("docs/") || ["README.md", "GUARANTEES.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].contains(&page)
    };
    let pages = markdown();
    let faults: Vec<String> =
        pages.iter().filter(|(page, _)| is_ours(page)).flat_map(|(page, text)| long_lines_and_cells(page, text)).collect();
    assert!(faults.is_empty(), "too long to read:\n{}", faults.join("\n"));
}

/// "`run_client` in [session.rs](../src/server/session.rs)": then that file has the word. Of a path
/// `A::b` it has the type, with a function, a field or a variant of that name.
#[test]
fn what_a_page_names_of_a_file_is_in_it() {
    let mut names = 0;
    let mut faults = Vec::new();
    for (page, text) in &markdown() {
        for Named { paths, target } in named(text) {
            let Ok(code) = fs::read_to_string(repository_path(&resolved(page, target))) else { continue };
            names += paths.len();
            faults.extend(paths.into_iter().filter(|path| !has_path(&code, path)).map(|path| format!("{page}: {path} is not in {target}")));
        }
    }
    assert!(faults.is_empty(), "names that are gone:\n{}", faults.join("\n"));
    assert!(names > 50, "only {names} names were found");
}

/// Tests and checks by which something is said to be shown.
#[test]
fn what_shows_a_promise_is_there() {
    let code: String = ["src", "tests"].into_iter().flat_map(|folder| texts(folder, "rs").into_values()).collect();
    let torture: String = texts("tests/torture", "rs").into_values().collect();
    let checks = text("tests/simulation/checks.rs");
    let pages = markdown();
    let mut faults = Vec::new();
    let mut found = 0;
    for page in ["GUARANTEES.md", "docs/defects.md"] {
        for span in code_spans(&pages[page]) {
            let is_test = span.matches('_').count() >= 3 && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let is_there = match span.split_once(": ") {
                Some((_, "X")) => continue,
                Some(("kvsim", check)) => checks.contains(&format!("(\"{check}\"")) || checks.contains(&format!("\"{check}\",\n")),
                Some(("kvtorture", check)) => torture.contains(&format!("\"{check}\"")),
                _ if is_test && !span.ends_with("_ms") => code.contains(&format!("fn {span}(")),
                _ => continue,
            };
            found += 1;
            if !is_there {
                faults.push(format!("{page}: {span}"));
            }
        }
    }
    assert!(faults.is_empty(), "named, and not there:\n{}", faults.join("\n"));
    assert!(found > 100, "only {found} were found");
}

#[test]
fn every_rule_that_can_be_broken_is_explained() {
    let page = &markdown()["docs/invariants.md"];
    for rule in BrokenRule::ALL {
        assert!(page.contains(&format!("`{}`", rule.name())), "docs/invariants.md does not say what {} is for", rule.name());
    }
}

#[test]
fn the_readme_counts_right() {
    let between = |text: &str, start: &str, end: &str| -> String {
        let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start:?}")).1;
        rest.split_once(end).unwrap_or_else(|| panic!("no {end:?}")).0.to_owned()
    };
    let checks = between(&text("tests/simulation/checks.rs"), "CHECKS: [(&str, &str); ", "]");
    let kinds = between(&text("tests/torture/usage.rs"), "Kinds of faults: ", ".").split(", ").count();
    let readme = markdown()["README.md"].split_whitespace().collect::<Vec<_>>().join(" ");
    for counted in [
        format!("It checks {checks} properties"),
        format!("{} rules of the design can be switched off", BrokenRule::ALL.len()),
        format!("does {kinds} kinds of faults"),
    ] {
        assert!(readme.contains(&counted), "README does not say: {counted}");
    }
}

/// Where a page of this path says that another one is.
fn resolved(page: &str, target: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn dead_links(page: &str, text: &str, pages: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for (line, text) in prose(text) {
        let text = without_code_spans(text);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains(':') {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { page.to_owned() } else { resolved(page, path) };
            let leads = match pages.get(&path) {
                Some(text) => anchor.is_empty() || anchors(text).contains(anchor),
                None => anchor.is_empty() && repository_path(&path).exists(),
            };
            if !leads {
                faults.push(format!("{page}:{line}: {target}"));
            }
            if text[..at].ends_with("![") {
                faults.push(format!("{page}:{line}: the picture {target} has no words for those who cannot see it"));
            }
        }
    }
    faults
}

/// Returns the anchors of a page: of its headings, as GitHub makes them, and those set by hand.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (_, line) in prose(text) {
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if let (1..=6, Some(heading)) = (level, line[level..].strip_prefix(' ')) {
            let kept = without_targets(heading).to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let times = seen.entry(slug.clone()).or_default();
            anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
            *times += 1;
        }
        let by_hand = line.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
        anchors.extend(by_hand.map(str::to_owned));
    }
    anchors
}

fn long_lines_and_cells(page: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (line, text) in prose(text) {
        let text = without_targets(text);
        if text.starts_with('|') {
            for cell in text.replace("\\|", "").split('|').map(str::trim) {
                let words = cell.split_whitespace().count();
                if words > CELL_WORDS_MAX {
                    faults.push(format!("{page}:{line}: a cell of {words} words: {cell}"));
                }
            }
            continue;
        }
        // A comment is read by walk.rs, and by nobody else.
        let columns = if text.starts_with("<!--") { 0 } else { text.chars().count() };
        if columns > COLUMNS_MAX {
            faults.push(format!("{page}:{line}: {columns} columns"));
        }
    }
    faults
}

/// Names that a page gives before a link to a file of Rust.
struct Named<'t> {
    paths: Vec<&'t str>,
    target: &'t str,
}

/// Finds "`a` in [f](f.rs)" and "`a`, `b::c` and `d` in [f](f.rs)".
fn named(text: &str) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap_or_default();
        let Some(before) = text[..at].rfind('[').map(|start| text[..start].trim_end()) else { continue };
        let Some(mut before) = before.strip_suffix("in").filter(|_| target.ends_with(".rs")).map(str::trim_end) else { continue };
        let mut paths = Vec::new();
        while let Some((rest, word)) = before.strip_suffix('`').and_then(|before| before.rsplit_once('`')) {
            paths.push(word);
            let rest = rest.trim_end();
            before = rest.strip_suffix("and").or(rest.strip_suffix("or")).unwrap_or(rest).trim_end().trim_end_matches(',');
        }
        let is_name = |word: &str| !word.is_empty() && word.chars().all(is_of_a_word);
        if !paths.is_empty() && paths.iter().all(|path| path.split("::").all(is_name)) {
            found.push(Named { paths, target });
        }
    }
    found
}

/// True if Rust code has this name; of `A::b`, if an item of the type `A` has `b`.
fn has_path(code: &str, path: &str) -> bool {
    let Some((owner, name)) = path.rsplit_once("::") else { return has_word(code, path) };
    let functions = [format!("fn {name}("), format!("fn {name}<")];
    items_of(code, owner).iter().filter_map(|item| item.split_once('{')).any(|(head, body)| {
        if head.starts_with("impl") { functions.iter().any(|function| body.contains(function)) } else { has_word(body, name) }
    })
}

/// The `impl`, `struct` and `enum` items of a type, as rustfmt writes them: from column 0 to the
/// next `}` in column 0.
fn items_of<'c>(code: &'c str, owner: &str) -> Vec<&'c str> {
    let mut items = Vec::new();
    for (start, _) in code.match_indices('\n') {
        let rest = &code[start + 1..];
        let item = rest.find("\n}").map_or(rest, |end| &rest[..end]);
        let head = item.split(" {").next().unwrap_or_default();
        let name = match head.strip_prefix("impl") {
            Some(head) => head.rsplit_once(" for ").or(head.split_once(' ')).map(|(_, name)| name),
            None => ["struct ", "enum "].iter().find_map(|kind| {
                let (before, name) = head.split_once(kind)?;
                (before.is_empty() || before.starts_with("pub") && !before.contains('\n')).then_some(name)
            }),
        };
        if name.is_some_and(|name| name.split(|c| !is_of_a_word(c)).next() == Some(owner)) {
            items.push(item);
        }
    }
    items
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c| !is_of_a_word(c)).any(|found| found == word)
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The lines that are no code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then_some((index + 1, line))
    })
}

/// Returns the texts between backticks in prose. A span may go on in the next line.
fn code_spans(text: &str) -> Vec<String> {
    let text: Vec<&str> = prose(text).map(|(_, line)| line.trim()).collect();
    text.join(" ").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The line without the targets of its links.
fn without_targets(line: &str) -> String {
    let mut parts = line.split("](");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |line, part| line + "]" + part.split_once(')').map_or("", |(_, rest)| rest))
}

/// Every Markdown file of the repository.
fn markdown() -> BTreeMap<String, String> {
    texts("", "md")
}

#[test]
fn a_dead_link_is_found() {
    let page = "# A page\n\n## What .ci/run does\n\n## Twice\n\n## Twice\n\n<a id=\"by-hand\"></a>\n";
    let pages: BTreeMap<String, String> = [("docs/a.md".to_owned(), page.to_owned())].into();
    let faults = |line: &str| dead_links("docs/a.md", line, &pages);
    for good in ["[a](#a-page)", "[a](a.md#what-cirun-does)", "[a](#twice-1) [b](#by-hand)", "[a](../README.md)", "[a](../src)"] {
        assert!(faults(good).is_empty(), "{good}");
    }
    for good in ["[a](https://example.org/x)", "`[a](nowhere.md)`", "```\n[a](nowhere.md)\n```", "![words](images/threads.svg)"] {
        assert!(faults(good).is_empty(), "{good}");
    }
    for bad in ["[a](nowhere.md)", "[a](#nowhere)", "[a](a.md#twice-2)", "[a](../README)", "![](images/threads.svg)"] {
        assert_eq!(faults(bad).len(), 1, "{bad}");
    }
}

#[test]
fn a_long_line_and_a_long_cell_are_found() {
    let faults = |text: &str| long_lines_and_cells("page", text).len();
    let words = |len: usize| vec!["word"; len].join(" ");
    assert_eq!(faults(&"x".repeat(100)), 0);
    assert_eq!(faults(&"x".repeat(101)), 1);
    assert_eq!(faults(&format!("```\n{}\n```\n", "x".repeat(101))), 0);
    assert_eq!(faults(&format!("[x]({})", "x".repeat(101))), 0);
    assert_eq!(faults(&format!("| a | {} |", words(25))), 0);
    assert_eq!(faults(&format!("| {} | {} |", words(26), words(26))), 2);
}

#[test]
fn names_before_a_link_are_read() {
    let found = |text| named(text).into_iter().flat_map(|named| named.paths).collect::<Vec<_>>();
    assert_eq!(found("see `A::b` in [f](../f.rs), and `c` in [g](g.rs)"), ["A::b", "c"]);
    assert_eq!(found("`a`,\n`b` and `c`\nin [f](f.rs)"), ["c", "b", "a"]);
    assert!(found("`a` in [f](f.md); `b` [f](f.rs); `two words` in [f](f.rs)").is_empty());
}

#[test]
fn a_function_is_looked_for_in_its_type() {
    let code = "//! A.\npub struct A<'a> {\n    field: &'a u8,\n}\n\nimpl<'a> A<'a> {\n    fn a(&self) {}\n}\n\nimpl Drop for B {\n    fn drop(&mut self) {\n        a::<A>();\n    }\n}\n\npub(crate) enum E {\n    One,\n}\n\nfn free() {}\n";
    for there in ["A", "A::a", "A::field", "B::drop", "E::One", "free"] {
        assert!(has_path(code, there), "{there}");
    }
    for gone in ["C", "B::a", "A::drop", "A::free", "E::a", "A::A"] {
        assert!(!has_path(code, gone), "{gone}");
    }
}
