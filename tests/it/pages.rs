//! The reference pages name all that there is: what is compared is what a node says of itself.

use std::process::Command;

use kvmesh::data::clock::Stamp;
use kvmesh::data::entry::Entry;
use kvmesh::data::version::{Origin, Version};
use kvmesh::wire::peer::{BatchWrites, Message, Protocols, WriteBatch};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::repository::{is_of_tests, text, texts};

/// The code spans in the first cells of a page's tables.
fn rows(page: &str) -> Vec<String> {
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    first_cells.flat_map(|cell| cell.split("`, `").map(|span| span.trim_end_matches('`').to_owned()).collect::<Vec<_>>()).collect()
}

/// Every command that Redis's `COMMAND LIST` names, subcommands as `CLIENT|ID`.
fn resp_commands(client: &mut Client) -> Vec<String> {
    client.send("*2\r\n$7\r\nCOMMAND\r\n$4\r\nLIST\r\n").expect("a connection");
    let mut line = || client.line().expect("a line of an array");
    let count: usize = line().strip_prefix('*').and_then(|count| count.parse().ok()).expect("an array");
    // In front of each name stands its length.
    (0..count).map(|_| (line(), line()).1.to_uppercase()).collect()
}

#[test]
fn every_command_has_a_row_in_its_page() {
    let cluster = Cluster::plan(1).start();
    let page = text("docs/commands.md");
    let (text, resp) = page.split_once("## RESP commands").expect("a part for each protocol");
    let named = |part: &str| -> Vec<String> { rows(part).iter().filter_map(|row| Some(row.split(' ').next()?.to_owned())).collect() };
    let (in_text, in_resp) = (named(text), named(resp));

    let help = cluster.ask(1, "HELP");
    let verbs =
        help.iter().filter_map(|line| line.split(' ').next()).filter(|word| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase()));
    let missing: Vec<&str> = verbs.filter(|verb| !in_text.iter().any(|row| row == verb)).collect();
    assert!(help.len() > 20 && missing.is_empty(), "docs/commands.md has no row of the text protocol for {missing:?}");

    let (_, own) = resp.split_once("kvmesh's own, as in the text protocol:").expect("the commands that both protocols have");
    for command in resp_commands(&mut cluster.client(1)) {
        let is_named = match command.split_once('|') {
            None => in_resp.contains(&command) || own.contains(&format!("`{command}")),
            Some((container, name)) => resp.lines().any(|line| line.starts_with(&format!("| `{container} ")) && line.contains(name)),
        };
        assert!(is_named, "docs/commands.md has no row of RESP for {command}");
    }
}

#[test]
fn every_field_of_status_and_peers_has_a_row_in_the_operators_page() {
    let cluster = Cluster::plan(2).start();
    let mut known = rows(&text("docs/operations.md"));
    // The limits are explained there.
    known.extend(rows(&text("docs/configuration.md")));
    let (status, peers) = (cluster.ask(1, "STATUS"), cluster.ask(1, "PEERS"));
    let mut names: Vec<&str> = status.iter().filter_map(|line| line.split(' ').next()).collect();
    // Behind "peer 2 up" come names and values. The last value is a sentence after an error.
    let (fields, _) = peers[0].split_once(" last_error ").expect("the field that is last");
    names.extend(fields.split(' ').skip(3).step_by(2).chain(["last_error"]));
    let missing: Vec<&str> = names.into_iter().filter(|name| !known.iter().any(|row| row == name)).collect();
    assert!(missing.is_empty(), "docs/operations.md has no row for {missing:?}");
}

/// The names that a program's help has in front of its lines.
fn helped(program: &str, heading: &str) -> Vec<String> {
    let help = Command::new(program).arg("--help").output().expect("a program that runs").stdout;
    let help = String::from_utf8(help).expect("help in UTF-8");
    let (_, part) = help.split_once(heading).unwrap_or_else(|| panic!("no {heading} in {help}"));
    let lines = part.lines().skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split([' ', ',']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_option_and_command_of_the_programs_has_a_row_in_its_page() {
    for (program, heading, name) in [
        (env!("CARGO_BIN_EXE_kvctl"), "Commands:", "docs/kvctl.md"),
        (env!("CARGO_BIN_EXE_kvctl"), "Options:", "docs/kvctl.md"),
        (env!("CARGO_BIN_EXE_kvnode"), "Options:", "docs/configuration.md"),
        (env!("CARGO_BIN_EXE_kvsim"), "Options:", "docs/testing.md"),
    ] {
        let rows = rows(&text(name));
        let names = helped(program, heading);
        let missing: Vec<&String> = names.iter().filter(|name| !rows.iter().any(|row| row.split(' ').next() == Some(name))).collect();
        assert!(names.len() > 3 && missing.is_empty(), "{name} has no row for {missing:?}");
    }
}

/// The string literals behind each of these words, as they are in the source.
fn literals<'t>(text: &'t str, before: &str) -> Vec<&'t str> {
    text.split(before).skip(1).filter_map(|rest| Some(literal(rest.split_once('"')?.1))).collect()
}

/// Up to the quote that ends it.
fn literal(rest: &str) -> &str {
    let mut escaped = false;
    let end = rest.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    &rest[..end.unwrap_or(rest.len())]
}

/// A format string as a reader of the log sees it, `…` for what is filled in, up to where the
/// details begin.
fn phrase(format: &str) -> String {
    let mut phrase = String::new();
    for (index, part) in format.split(['{', '}']).enumerate() {
        phrase.push_str(if index % 2 == 0 { part } else { "…" });
    }
    let words = phrase.split("\\\n").map(str::trim_start).collect::<String>();
    let words = words.trim_start_matches(['…', ':', ';', '.', ' ']);
    words.split([':', ';', ',', '(']).next().unwrap_or_default().trim_end_matches(['…', ' ']).to_owned()
}

#[test]
fn every_warning_and_error_of_the_log_is_in_the_runbook() {
    let runbook = text("docs/runbook.md");
    let (mut found, mut missing) = (0, Vec::new());
    let is_shipped = |path: &String| !is_of_tests(path) && !path.starts_with("testing/");
    for (path, text) in texts("src", "rs").into_iter().filter(|(path, _)| is_shipped(path)) {
        let mut formats: Vec<&str> =
            ["log::error!(", "log::warn!(", "log::log!("].iter().flat_map(|macro_| literals(&text, macro_)).collect();
        // Events are logged at the level that each has.
        if let Some((_, events)) = text.split_once("impl fmt::Display for Event {") {
            let events = events.split("\n}\n").next().unwrap_or_default();
            let is_info = |format: &&str| !["is up", "caught up with", "asking node"].iter().any(|words| format.contains(words));
            formats.extend(literals(events, "write!(").into_iter().filter(is_info));
        }
        let phrases = formats.into_iter().map(phrase).filter(|phrase| !phrase.is_empty());
        for phrase in phrases {
            found += 1;
            if !runbook.contains(&phrase) {
                missing.push(format!("{path}: {phrase}"));
            }
        }
    }
    assert!(found > 20 && missing.is_empty(), "docs/runbook.md does not explain:\n{}", missing.join("\n"));
}

/// The codes are those in the source: no node can be made to answer all of them.
#[test]
fn every_error_code_is_in_the_runbook() {
    let source = text("src/wire/reply.rs");
    let codes = source.lines().filter_map(|line| line.trim().strip_prefix("ErrorCode::")?.split_once(" => \"")?.1.strip_suffix("\","));
    let runbook = text("docs/runbook.md");
    let (_, part) = runbook.split_once("## Errors that clients get").expect("a part on errors");
    let part = part.split("\n## ").next().unwrap_or_default();
    let headings: Vec<&str> = part.lines().filter_map(|line| line.strip_prefix("### ")).flat_map(|line| line.split(' ')).collect();
    let rows = rows(part);
    let codes: Vec<&str> = codes.collect();
    let missing: Vec<&&str> = codes.iter().filter(|code| !headings.contains(code) && !rows.iter().any(|row| row == *code)).collect();
    assert!(codes.len() > 10 && missing.is_empty(), "docs/runbook.md has no section for {missing:?}");
}

/// The formulas of docs/sizing.md, held against a node.
#[test]
fn keys_take_what_the_page_on_sizing_says() {
    const KEYS: u64 = 1000;
    let page = text("docs/sizing.md");
    let formula = |what: &str| -> u64 {
        let row = page.lines().find(|line| line.starts_with(&format!("| {what}"))).unwrap_or_else(|| panic!("no row {what}"));
        let (_, bytes) = row.trim_end_matches(" |").rsplit_once("| ").expect("two cells");
        bytes.split(' ').next().and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("no bytes in {row}"))
    };
    let cluster = Cluster::plan(1).start();
    let mut client = cluster.client(1);
    let (key_len, value_len) = (8, 100);
    let value = "v".repeat(value_len);
    let puts: String = (0..KEYS).map(|n| format!("PUT key{n:05} {value}\n")).collect();
    client.send(puts).expect("a connection");
    (0..KEYS).for_each(|_| assert_eq!(client.line().expect("a reply"), "OK"));
    let each = key_len + value_len as u64;
    let status = cluster.status(1);
    assert_eq!(status.number("memory_bytes"), KEYS * (formula("an entry in `memory_bytes`") + each));
    let (log, written) = (status.number("log_bytes"), KEYS * (formula("a write in the log") + each));
    let batches = formula("… and for the write batch") * KEYS;
    assert!((written..written + batches).contains(&log), "a log of {log} bytes, {written} of them writes");
    let compacted = cluster.ask(1, "COMPACT");
    let bytes: u64 = compacted[1].strip_prefix("bytes ").and_then(|bytes| bytes.parse().ok()).expect("the bytes of a snapshot");
    let entries = KEYS * (formula("an entry in a snapshot") + each);
    // With its first and last line.
    assert!((entries..entries + 500).contains(&bytes), "a snapshot of {bytes} bytes, {entries} of them entries");
    cluster.ask(1, "DEL key00000");
    let tombstone = formula("a tombstone") + key_len;
    assert_eq!(cluster.status(1).number("memory_tombstones_bytes"), tombstone);
}

/// Bytes as the pages show them: where they begin, sixteen in a row, and what of them is text.
fn hex(bytes: &[u8]) -> String {
    let shown = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
    let row = |(number, row): (usize, &[u8])| {
        let numbers = row.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        format!("{:04x}  {numbers:<47}  {}\n", 16 * number, row.iter().map(shown).collect::<String>())
    };
    bytes.chunks(16).enumerate().map(row).collect()
}

#[test]
fn the_write_batch_in_the_page_on_protocols_is_what_a_peer_gets() {
    let origin: Origin = "1-9f86d081884c7d65".parse().expect("an origin");
    let entry = |key: &str, value: Option<&str>, stamp| {
        let version = Version { stamp: Stamp::from_bits(stamp), origin };
        Entry::new(key.as_bytes(), value.map(str::as_bytes), None, version)
    };
    let [after, first, second] = [116069418624417791, 116069418624417792, 116069418624417793];
    let writes = BatchWrites::of(origin, &[entry("city", Some("Paris"), first), entry("town", None, second)]);
    let batch = WriteBatch { origin, after: Stamp::from_bits(after), upto: Stamp::from_bits(second), writes };
    let mut bytes = Vec::new();
    Message::Writes(batch).encode(&mut bytes, Protocols::OURS.max);
    let shown = hex(&bytes);
    assert!(text("docs/protocol.md").contains(&shown), "docs/protocol.md does not show this:\n{shown}");
}

#[test]
fn the_log_in_the_page_on_files_is_one() {
    let page = text("docs/files.md");
    let (_, block) = page.split_once("```text\n0000  6b 76 6d 65").expect("the bytes of a log");
    let (block, _) = block.split_once("```").expect("the end of the block");
    let shown = format!("0000  6b 76 6d 65{block}");
    let numbers = shown.lines().flat_map(|line| line[6..53].split_whitespace()).map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
    let bytes: Vec<u8> = numbers.collect();
    assert_eq!(hex(&bytes), shown);
    assert!(bytes.starts_with(b"kvmesh-l\x01\0\0\0"));
    let (head, body) = bytes[12..].split_at(8);
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    assert_eq!((number(&head[..4]) as usize, number(&head[4..])), (body.len(), crc32fast::hash(body)));
    assert_eq!(body[0], 67);
    let incarnation: serde_json::Value = serde_json::from_slice(&body[1..]).expect("JSON");
    assert_eq!(incarnation["cluster"], "kvmesh");
}

/// The names of checks and faults, as the sources of the instruments have them.
#[test]
fn every_check_and_fault_of_the_instruments_is_in_the_page_on_testing() {
    let testing = text("docs/testing.md");
    let simulated = text("tests/simulation/checks.rs");
    let (_, checks) = simulated.split_once("pub const CHECKS").expect("the table of checks");
    let checks = checks.split("];").next().unwrap_or_default();
    let mut names: Vec<String> =
        literals(checks, "(").into_iter().map(|name| format!("`{name}`")).filter(|name| !name.contains(' ')).collect();
    let schedule = text("tests/torture/schedule.rs");
    names.extend(schedule.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("(FaultKind::")?.split_once(", \"")?.1.strip_suffix("\"),")?;
        Some(format!("`{name}`"))
    }));
    for (_, text) in texts("tests/torture", "rs").into_iter().filter(|(path, _)| !is_of_tests(path)) {
        names.extend(literals(&text, "Verdict::new(").into_iter().filter(|name| !name.contains('{')).map(|name| format!("*{name}*")));
    }
    let missing: Vec<String> = names.iter().filter(|name| !testing.contains(*name)).cloned().collect();
    assert!(names.len() > 50 && missing.is_empty(), "docs/testing.md does not name {missing:?}");
}
