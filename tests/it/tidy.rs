//! Rules for the whole tree, as far as a test can keep them.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::repository::{code_of, is_of_tests, repository_path, texts};

/// `cargo install` takes every program that needs no feature.
#[test]
fn what_is_installed_is_the_node_and_its_tool() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(repository_path("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
    let targets = metadata["packages"][0]["targets"].as_array().expect("a package has targets");
    let installed: Vec<&str> = targets
        .iter()
        .filter(|target| target["kind"][0] == "bin" && target.get("required-features").is_none())
        .filter_map(|target| target["name"].as_str())
        .collect();
    assert_eq!(installed, ["kvctl", "kvnode"]);
}

/// Columns of a comment: it is read beside code, in a hover, and in a review.
const COMMENT_COLUMNS_MAX: usize = 100;

/// First words of a comment that cannot stand alone: the thing that it is about is not in it.
const HEADLESS: [&str; 7] = ["The same", "Whether", "What", "Of", "Who", "That of", "Those"];

#[test]
fn comments_stand_alone_and_fit_beside_code() {
    let mut faults = Vec::new();
    for (name, text) in rust_sources() {
        faults.extend(comment_faults(&text).into_iter().map(|(line, fault)| format!("{name}:{line}: {fault}")));
    }
    assert!(faults.is_empty(), "{} comments:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_headless_comment_and_a_long_line_are_found() {
    let long = format!("    // {}", "x".repeat(COMMENT_COLUMNS_MAX));
    let text =
        format!("/// The same, later.\nfn f() {{}}\n/// Whether so.\nfn g() {{}}\n/// Officially.\n/// What follows\nfn h() {{\n{long}\n");
    let lines: Vec<usize> = comment_faults(&text).into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [1, 3, 8]);
}

/// A name that means two things has to be looked up each time. Names inside a function, and those
/// that a trait asks for, are nobody else's.
#[test]
fn no_public_type_is_defined_twice() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in rust_sources().filter(|(name, _)| is_shipped(name)) {
        for defined in code_of(&text).lines().filter_map(public_type) {
            found.entry(defined).or_default().push(name.clone());
        }
    }
    let twice: Vec<String> =
        found.iter().filter(|(_, files)| files.len() > 1).map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert_eq!(public_type("pub(crate) struct Slot<'a> {").as_deref(), Some("Slot"));
    assert!(found.len() > 100 && twice.is_empty(), "types of one name:\n{}", twice.join("\n"));
}

/// The name of a type that other files can see, if the line defines one.
fn public_type(line: &str) -> Option<String> {
    let rest = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) "))?;
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    Some(rest.chars().take_while(|c| c.is_alphanumeric()).collect())
}

fn is_shipped(name: &str) -> bool {
    name.starts_with("src") && !name.starts_with("src/testing") && !is_of_tests(name)
}

/// Every Rust file of ours by its name in the repository, and what is in it.
fn rust_sources() -> impl Iterator<Item = (String, String)> {
    let below = |folder: &'static str| texts(folder, "rs").into_iter().map(move |(path, text)| (format!("{folder}/{path}"), text));
    ["src", "tests", "bench"].into_iter().flat_map(below)
}

/// The lines, from 1, that are too long, or that begin a comment with a word that has no head.
fn comment_faults(text: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let mut was_doc = false;
    for (number, line) in text.lines().enumerate() {
        let comment = line.trim_start();
        let doc = comment.strip_prefix("/// ").or_else(|| comment.strip_prefix("//! "));
        let is_headless =
            |doc: &&str| HEADLESS.iter().any(|word| doc.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', ',', '.', ':', ';'])));
        if !was_doc && doc.as_ref().is_some_and(is_headless) {
            faults.push((number + 1, comment.to_owned()));
        }
        let columns = line.chars().count();
        if comment.starts_with("//") && columns > COMMENT_COLUMNS_MAX {
            faults.push((number + 1, format!("{columns} columns")));
        }
        was_doc = comment.starts_with("///") || comment.starts_with("//!");
    }
    faults
}
