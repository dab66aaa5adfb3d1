//! The table of fields in docs/configuration.md, held against the one in the code.

use std::env;
use std::fs;

use kvmesh::config::{FIELDS, Field, FieldKind};

use crate::repository::repository_path;

const PAGE: &str = "docs/configuration.md";
const BEGIN: &str = "<!-- fields: begin -->\n";
const END: &str = "<!-- fields: end -->\n";

/// Writes the page instead of comparing it.
const WRITE: &str = "KVMESH_WRITE_PAGES";

#[test]
fn the_configuration_page_has_the_fields_of_the_code() {
    let path = repository_path(PAGE);
    let page = fs::read_to_string(&path).expect("the page");
    let (head, rest) = page.split_once(BEGIN).expect("the mark where the table begins");
    let (_, tail) = rest.split_once(END).expect("the mark where the table ends");
    let made = [head, BEGIN, &table(), END, tail].concat();
    if env::var_os(WRITE).is_some() {
        fs::write(&path, made).expect("a page that can be written");
        return;
    }
    assert!(page == made, "{PAGE} is not what src/config/fields.rs says; {WRITE}=1 cargo test --test it configuration makes it anew");
}

fn table() -> String {
    let rows = FIELDS.iter().map(row);
    "| field | default | values | meaning |\n|---|---|---|---|\n".to_owned() + &rows.collect::<String>()
}

fn row(field: &Field) -> String {
    let default = match field.kind {
        FieldKind::Number { default: None, .. } | FieldKind::Text { default: None, .. } => "required".to_owned(),
        FieldKind::Number { default: Some(default), .. } => bytes(default),
        FieldKind::Milliseconds { default, .. } => default.to_string(),
        FieldKind::Text { default: Some(default), .. } => format!("`\"{default}\"`"),
        FieldKind::Peers | FieldKind::Users | FieldKind::Names { .. } => "`[]`".to_owned(),
        FieldKind::Object { .. } => "none".to_owned(),
        FieldKind::Boolean { default } => default.to_string(),
    };
    let values = match field.kind {
        FieldKind::Number { min, max, .. } => format!("{min} to {}", bytes(max)),
        FieldKind::Milliseconds { max, .. } => format!("1 to {}", days(max)),
        FieldKind::Text { expected, .. } => expected.to_owned(),
        FieldKind::Peers | FieldKind::Users | FieldKind::Names { .. } | FieldKind::Object { .. } | FieldKind::Boolean { .. } => {
            field.kind.to_string()
        }
    };
    format!("| `{}` | {default} | {values} | {} |\n", field.name, field.meaning)
}

/// A number with its name as a size, if it looks like one.
fn bytes(number: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match number {
        0 => number.to_string(),
        _ if (number + 1).is_power_of_two() && number > u64::from(u32::MAX) => format!("2^{} - 1", number.count_ones()),
        _ if number.is_multiple_of(MIB) => format!("{number} ({} MiB)", number / MIB),
        _ if number.is_multiple_of(KIB) => format!("{number} ({} KiB)", number / KIB),
        _ => number.to_string(),
    }
}

fn days(milliseconds: u64) -> String {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    match milliseconds / DAY {
        0 => milliseconds.to_string(),
        1 => format!("{milliseconds} (a day)"),
        days => format!("{milliseconds} ({days} days)"),
    }
}
