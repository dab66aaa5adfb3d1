//! The reference pages name all that there is: what is compared is what a node says of itself.

use std::fs;
use std::process::Command;

use crate::client::Client;
use crate::cluster::{Cluster, repository_path};

fn page(name: &str) -> String {
    fs::read_to_string(repository_path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

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
    let page = page("docs/commands.md");
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
    let mut known = rows(&page("docs/operations.md"));
    // The limits are explained there.
    known.extend(rows(&page("docs/configuration.md")));
    let (status, peers) = (cluster.ask(1, "STATUS"), cluster.ask(1, "PEERS"));
    let mut names: Vec<&str> = status.iter().filter_map(|line| line.split(' ').next()).collect();
    // Behind "peer 2 up" come names and values.
    names.extend(peers[0].split(' ').skip(3).step_by(2));
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
    ] {
        let rows = rows(&page(name));
        let names = helped(program, heading);
        let missing: Vec<&String> = names.iter().filter(|name| !rows.iter().any(|row| row.split(' ').next() == Some(name))).collect();
        assert!(names.len() > 3 && missing.is_empty(), "{name} has no row for {missing:?}");
    }
}
