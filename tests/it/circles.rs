//! No two files need each other: the imports of `src` make no circle, between folders or inside
//! one.
//!
//! And each lock stays in the file of its owner, so that a circle of locks cannot hide behind
//! methods.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::imports::expand;
use crate::repository::{code_of, is_of_tests, texts};

/// A file, by the crate that it belongs to and its path as a module.
type Module = (String, Vec<String>);

#[test]
fn no_files_import_each_other() {
    let sources = sources();
    let circles = circles(&imports(&sources));
    assert!(sources.len() > 100, "{} files", sources.len());
    assert!(circles.is_empty(), "files that need each other:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found_wherever_it_is() {
    let source = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let found = |sources: &[(PathBuf, String)]| circles(&imports(sources));
    let shared = [source("a/mod.rs", "pub mod b;\npub use b::B;\n"), source("a/b.rs", "use crate::a::c::C;\n")];
    let none = [source("a/c.rs", "pub struct C;\n")];
    let back = [source("a/c.rs", "fn f() { super::b::g() }\n")];
    let far = [source("a/c.rs", "use crate::{d::D, a::c};\n"), source("d.rs", "use crate::a::{b::{B}, x};\n")];
    let child = [source("a/c.rs", "use super::A;\n"), source("a/mod.rs", "mod c;\nuse c::C;\n")];
    assert!(found(&[&shared[..], &none[..]].concat()).is_empty());
    assert_eq!(found(&[&shared[..], &back[..]].concat()), ["a/b.rs, a/c.rs"]);
    assert_eq!(found(&[&shared[..], &far[..]].concat()), ["a/b.rs, a/c.rs, d.rs"]);
    assert_eq!(found(&child), ["a/c.rs, a/mod.rs"]);
}

/// A lock is a field of its owner, so a file that takes one declares it.
#[test]
fn locks_are_taken_in_the_file_that_declares_them() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let (name, code) = (path.display().to_string(), code_of(&text));
        // Types of tests and instruments, and the one that wraps locks.
        if name.starts_with("testing") || name == "lock_order.rs" {
            continue;
        }
        faults.extend(locks_of_others(&code).into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(faults.is_empty(), "locks that are taken outside the file of their owner:\n{}", faults.join("\n"));
}

#[test]
fn a_lock_that_is_taken_elsewhere_is_found() {
    let owner = "struct Owner {\n    table: Mutex<u8>,\n}\nfn f(owner: &Owner) -> u8 { *owner.table.lock() }\n";
    let other = "fn f(owner: &Owner) -> u8 {\n    *owner.table.lock()\n}\nfn g(owner: &Owner) {\n    owner.vector.write().clear();\n}\n";
    assert!(locks_of_others(owner).is_empty());
    assert_eq!(locks_of_others(other), ["*owner.table.lock()", "owner.vector.write().clear();"]);
}

/// Lines that take a lock, where the file declares none of that kind.
fn locks_of_others(code: &str) -> Vec<String> {
    let declares = |kind: &str| code.contains(&format!("{kind}<")) || code.contains(&format!("{kind}::new"));
    let takes = |line: &str| {
        let mutex = [".lock()", ".try_lock()"].iter().any(|call| line.contains(call)) && !declares("Mutex");
        let lock = [".read()", ".write()"].iter().any(|call| line.contains(call)) && !declares("RwLock");
        // A step of the write-ahead log's writer, a file's own lock, and standard streams have
        // these names, too.
        let is_other = ["self.write()", "stdout()", "stderr()", "stdin()", "itself.try_lock", "lock.try_lock", "traffic"]
            .iter()
            .any(|other| line.contains(other));
        (mutex || lock) && !is_other
    };
    code.lines().map(str::trim).filter(|line| takes(line)).map(str::to_owned).collect()
}

/// The files of `src` without those of tests, and what is in them.
fn sources() -> Vec<(PathBuf, String)> {
    let files = texts("src", "rs").into_iter().filter(|(path, _)| !is_of_tests(path));
    files.map(|(path, text)| (PathBuf::from(path), text)).collect()
}

/// Maps every file to the files that it imports from.
fn imports(sources: &[(PathBuf, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeMap<Module, String> = sources.iter().map(|(path, _)| (module(path), path.display().to_string())).collect();
    let mut imports = BTreeMap::new();
    for (path, text) in sources {
        let (of, name) = (module(path), path.display().to_string());
        let mut code = code_of(text);
        if path.ends_with("mod.rs") {
            // A folder's front door may name what lies behind it.
            code = without_statements(&code, "pub use ");
        }
        let found = paths(&of, &code, &modules);
        let files = found.iter().filter_map(|path| file_of(&of.0, path, &modules)).filter(|file| *file != name);
        imports.insert(name.clone(), files.collect());
    }
    imports
}

/// The crate and the module path of a file: each program below `bin` is a crate of its own.
fn module(path: &Path) -> Module {
    let mut parts: Vec<String> = path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let root = if parts[0] == "bin" { parts.drain(..2).collect::<Vec<_>>().join("/") } else { "lib".to_owned() };
    if parts.last().is_some_and(|last| ["mod", "main", "lib"].contains(&last.as_str())) {
        parts.pop();
    }
    (root, parts)
}

/// The paths of this crate in a file's code, from the root of the crate.
fn paths(of: &Module, code: &str, modules: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let (root, own) = of;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("::") {
        let before = &code[..at];
        let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(0, |last| last + 1);
        let is_first = !before[..start].ends_with("::");
        let (word, mut rest) = (&before[start..], &code[at + 2..]);
        let mut base = match word {
            "crate" => Vec::new(),
            "self" => own.clone(),
            "super" => own[..own.len().saturating_sub(1)].to_vec(),
            child if modules.contains_key(&(root.clone(), [own.as_slice(), &[child.to_owned()]].concat())) => {
                [own.as_slice(), &[child.to_owned()]].concat()
            }
            _ => continue,
        };
        if !is_first {
            continue;
        }
        while let Some(up) = rest.strip_prefix("super::") {
            base.pop();
            rest = up;
        }
        let mut tails = Vec::new();
        expand("", rest, &mut tails);
        found.extend(tails.into_iter().map(|tail| base.iter().cloned().chain(tail.split("::").map(str::to_owned)).collect()));
    }
    found
}

/// The file that a path leads into: its longest beginning that is a file.
fn file_of(root: &str, path: &[String], modules: &BTreeMap<Module, String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|len| modules.get(&(root.to_owned(), path[..len].to_vec())).cloned())
}

/// Every set of files in which each leads to each, in words.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = imports.keys().map(|file| (file, reachable(file, imports))).collect();
    let circle = |file: &String| -> BTreeSet<&String> {
        reach[file].iter().filter(|other| reach.get(*other).is_some_and(|back| back.contains(file))).copied().collect()
    };
    let circles: BTreeSet<BTreeSet<&String>> = imports.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    circles.into_iter().map(|circle| circle.into_iter().cloned().collect::<Vec<_>>().join(", ")).collect()
}

fn reachable<'a>(from: &String, imports: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        for next in imports.get(file).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

/// The code without the statements that begin like this.
fn without_statements(code: &str, begin: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find(begin) {
        kept.push_str(&rest[..at]);
        rest = rest[at..].split_once(';').map_or("", |(_, behind)| behind);
    }
    kept + rest
}
