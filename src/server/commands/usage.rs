//! The words of a command in one line, as people write them, and as the tree that COMMAND DOCS
//! shows.
//!
//! Lower case stands for a value, upper case for itself; `[…]` may be left out, `(…)` holds
//! together, `|` separates choices, and what `...` follows may come several times: `key value
//! [NX|XX] [EX seconds|KEEPTTL]`, `(key value)...`.

/// A word of a command, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    pub name: &'static str,
    pub kind: ArgumentKind,
    /// The word in front of its value.
    pub token: Option<&'static str>,
    pub is_optional: bool,
    pub is_multiple: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    Value,
    /// A token alone.
    Token,
    OneOf(Vec<Argument>),
    Block(Vec<Argument>),
}

/// The arguments that a usage describes. Panics at what is no usage; a test reads all rows.
pub fn arguments(usage: &'static str) -> Vec<Argument> {
    split(usage, ' ').map(element).collect()
}

fn element(text: &'static str) -> Argument {
    let (text, is_multiple) = text.strip_suffix("...").map_or((text, false), |text| (text, true));
    let mut argument = if let Some(choices) = inside(text, '[', ']') {
        Argument { is_optional: true, ..choice(choices) }
    } else if let Some(choices) = inside(text, '(', ')') {
        choice(choices)
    } else if is_token(text) {
        argument(text, ArgumentKind::Token, Some(text))
    } else {
        argument(text, ArgumentKind::Value, None)
    };
    argument.is_multiple |= is_multiple;
    argument
}

/// The argument in brackets: `NX|XX`, or `EX seconds`.
fn choice(text: &'static str) -> Argument {
    let mut choices: Vec<Argument> = split(text, '|').map(sequence).collect();
    if choices.len() == 1 {
        return choices.remove(0);
    }
    argument("option", ArgumentKind::OneOf(choices), None)
}

/// An argument of several words. A token belongs to the one value behind it, or to all of them
/// together.
fn sequence(text: &'static str) -> Argument {
    let mut parts = arguments(text);
    let token = match parts[0].kind {
        ArgumentKind::Token if parts.len() > 1 => parts.remove(0).token,
        _ => None,
    };
    if parts.len() > 1 {
        return argument(token.unwrap_or(parts[0].name), ArgumentKind::Block(parts), token);
    }
    let part = parts.remove(0);
    let token = token.or(part.token);
    Argument { token, ..part }
}

fn argument(name: &'static str, kind: ArgumentKind, token: Option<&'static str>) -> Argument {
    Argument { name, kind, token, is_optional: false, is_multiple: false }
}

fn is_token(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
}

fn inside(text: &'static str, open: char, close: char) -> Option<&'static str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

/// Splits at separators that are in no brackets.
fn split(text: &'static str, separator: char) -> impl Iterator<Item = &'static str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ => {}
        }
        depth == 0 && c == separator
    })
    .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &[Argument]) -> String {
        let words: Vec<String> = arguments.iter().map(show).collect();
        words.join(" ")
    }

    /// A usage as redis-cli shows it.
    fn show(argument: &Argument) -> String {
        let alone = match &argument.kind {
            ArgumentKind::Value => argument.name.to_owned(),
            ArgumentKind::Token => String::new(),
            ArgumentKind::OneOf(inner) => inner.iter().map(show).collect::<Vec<_>>().join("|"),
            ArgumentKind::Block(inner) => shown(inner),
        };
        let mut text: Vec<&str> = argument.token.into_iter().chain([alone.as_str()]).filter(|word| !word.is_empty()).collect();
        let several = format!("[{alone} ...]");
        if argument.is_multiple {
            text.push(&several);
        }
        let text = text.join(" ");
        if argument.is_optional { format!("[{text}]") } else { text }
    }

    #[test]
    fn a_line_becomes_a_tree_that_shows_the_same() {
        for (usage, expected) in [
            ("", ""),
            ("key value [NX|XX] [GET] [EX seconds|KEEPTTL]", "key value [NX|XX] [GET] [EX seconds|KEEPTTL]"),
            ("key...", "key [key ...]"),
            ("(key value)...", "key value [key value ...]"),
            ("[name...]", "[name [name ...]]"),
            ("[protover [AUTH username password] [SETNAME clientname]]", "[protover [AUTH username password] [SETNAME clientname]]"),
            ("[TYPE (NORMAL|PUBSUB)|ID client-id...]", "[TYPE NORMAL|PUBSUB|ID client-id [client-id ...]]"),
        ] {
            assert_eq!(shown(&arguments(usage)), expected, "{usage}");
        }
    }

    #[test]
    fn a_token_belongs_to_what_follows_it() {
        let [expiry] = &arguments("[EX seconds|KEEPTTL]")[..] else { panic!("one argument") };
        assert!(expiry.is_optional && !expiry.is_multiple && expiry.token.is_none());
        let ArgumentKind::OneOf(choices) = &expiry.kind else { panic!("{expiry:?} is no choice") };
        assert_eq!(
            choices[..],
            [argument("seconds", ArgumentKind::Value, Some("EX")), argument("KEEPTTL", ArgumentKind::Token, Some("KEEPTTL"))]
        );
    }
}
