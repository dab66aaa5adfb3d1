//! The repository's own files, for the tests that read code and documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold what was built, installed or written by a node.
const OURS_NOT: &[&str] = &["target", "data", ".git"];

/// A path in the repository as one of the file system.
pub fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of one file.
pub fn text(path: &str) -> String {
    fs::read_to_string(repository_path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a folder of the repository with this ending: its path below the folder, and
/// its text. `""` is the whole repository.
pub fn texts(folder: &str, ending: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let dir = Path::new(folder).join(&below);
        for entry in fs::read_dir(repository_path("").join(&dir)).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let entry = entry.unwrap();
            let (path, from_root) = (below.join(entry.file_name()), dir.join(entry.file_name()));
            if entry.file_type().unwrap().is_dir() {
                if entry.file_name() != "node_modules" && !OURS_NOT.iter().any(|other| from_root == Path::new(other)) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == ending) {
                let name = path.to_str().expect("a path in UTF-8").to_owned();
                texts.insert(name, text(from_root.to_str().expect("a path in UTF-8")));
            }
        }
    }
    texts
}

/// A Rust file is one of unit tests.
pub fn is_of_tests(path: &str) -> bool {
    path.split('/').any(|part| ["tests", "tests.rs", "regressions", "regressions.rs"].contains(&part))
}

/// A Rust file without its unit tests and comments.
pub fn code_of(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}
