//! The verbs of the text protocol, with how each is written and what it does: one table for HELP, for SYNTAX errors and for kvctl.

/// The first word of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Set,
    Upd,
    Put,
    Get,
    Mget,
    Del,
    Exists,
    Incr,
    Expire,
    Ttl,
    Persist,
    Keys,
    Count,
    Ack,
    Status,
    Peers,
    Digest,
    Dump,
    Restore,
    Compact,
    Resume,
    Ping,
    Help,
    Quit,
}

/// What HELP says about a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Help {
    pub verb: Verb,
    /// As it is typed.
    pub name: &'static str,
    /// The name with its words; those in brackets may be left out.
    pub usage: &'static str,
    /// What it does, and what it refuses.
    pub sentence: &'static str,
}

/// All verbs, in the order of [`Verb`].
pub const HELP: [Help; 24] = [
    help(Verb::Set, "SET", "SET key value", "creates a key; refuses one that exists"),
    help(Verb::Upd, "UPD", "UPD key value", "changes the value of a key; refuses one that does not exist"),
    help(Verb::Put, "PUT", "PUT key value", "sets a key, whether it exists or not"),
    help(Verb::Get, "GET", "GET key", "shows the value of a key, as this node knows it"),
    help(Verb::Mget, "MGET", "MGET key [key ...]", "shows the values of several keys, as they are at one moment on this node"),
    help(Verb::Del, "DEL", "DEL key", "deletes a key; refuses one that does not exist"),
    help(Verb::Exists, "EXISTS", "EXISTS key", "says 1 if the key exists and 0 if it does not"),
    help(
        Verb::Incr,
        "INCR",
        "INCR key [by]",
        "adds 1, or so much, to the number that a key holds, and says the sum; a key that does not exist counts as 0",
    ),
    help(
        Verb::Expire,
        "EXPIRE",
        "EXPIRE key seconds",
        "has a key expire after so many seconds, and says 1; or 0 if the key does not exist",
    ),
    help(Verb::Ttl, "TTL", "TTL key", "says after how many seconds a key expires; -1 if it never does, -2 if it does not exist"),
    help(Verb::Persist, "PERSIST", "PERSIST key", "has a key never expire, and says 1; or 0 if it does not exist or never would"),
    help(Verb::Keys, "KEYS", "KEYS [prefix] [limit]", "lists the keys that begin with the prefix, in no order, and at most so many"),
    help(Verb::Count, "COUNT", "COUNT", "says how many keys there are"),
    help(
        Verb::Ack,
        "ACK",
        "ACK [local|majority|all]",
        "sets how many members must hold a write of this connection before it hears OK, or shows it",
    ),
    help(Verb::Status, "STATUS", "STATUS", "shows the state, the sizes and the limits of this node"),
    help(Verb::Peers, "PEERS", "PEERS", "shows how this node stands with each of the others"),
    help(
        Verb::Digest,
        "DIGEST",
        "DIGEST [time]",
        "shows a fingerprint of all keys and values, the same on nodes that hold the same, and their number; without what expires before that time (milliseconds since 1970), or soon",
    ),
    help(Verb::Dump, "DUMP", "DUMP", "prints everything that this node holds, as lines of JSON: a backup"),
    help(
        Verb::Restore,
        "RESTORE",
        "RESTORE",
        "takes the lines of a DUMP, which follow without its END; what is here already or is newer stays; refuses a backup that is too old",
    ),
    help(
        Verb::Compact,
        "COMPACT",
        "COMPACT",
        "writes a snapshot of this node's data now, and begins a new log; it does so by itself when the log has grown",
    ),
    help(
        Verb::Resume,
        "RESUME",
        "RESUME",
        "takes writes again after a full disk, once there is space: begins a new log behind a new snapshot",
    ),
    help(Verb::Ping, "PING", "PING", "says PONG"),
    help(Verb::Help, "HELP", "HELP [command]", "explains one command, or lists all of them"),
    help(Verb::Quit, "QUIT", "QUIT", "closes this connection"),
];

/// How words are written; the last lines of HELP.
pub const WORDS: [&str; 3] = [
    "One space separates key and value, and the rest of the line is the value, spaces included.",
    "A key or a value may be one double-quoted string with \\\" \\\\ \\n \\r \\t \\xHH; an empty one is \"\".",
    "Verbs may be in any case. Commands may be sent ahead of their replies.",
];

const fn help(verb: Verb, name: &'static str, usage: &'static str, sentence: &'static str) -> Help {
    Help { verb, name, usage, sentence }
}

impl Verb {
    /// In any case; `None` if there is no such verb.
    pub fn parse(word: &[u8]) -> Option<Verb> {
        let mut upper = [0; 7];
        let upper = upper.get_mut(..word.len())?;
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        Some(match &*upper {
            b"SET" => Verb::Set,
            b"UPD" => Verb::Upd,
            b"PUT" => Verb::Put,
            b"GET" => Verb::Get,
            b"MGET" => Verb::Mget,
            b"INCR" => Verb::Incr,
            b"EXPIRE" => Verb::Expire,
            b"TTL" => Verb::Ttl,
            b"PERSIST" => Verb::Persist,
            b"DEL" => Verb::Del,
            b"EXISTS" => Verb::Exists,
            b"KEYS" => Verb::Keys,
            b"COUNT" => Verb::Count,
            b"ACK" => Verb::Ack,
            b"STATUS" => Verb::Status,
            b"PEERS" => Verb::Peers,
            b"DIGEST" => Verb::Digest,
            b"DUMP" => Verb::Dump,
            b"RESTORE" => Verb::Restore,
            b"COMPACT" => Verb::Compact,
            b"RESUME" => Verb::Resume,
            b"PING" => Verb::Ping,
            b"HELP" => Verb::Help,
            b"QUIT" => Verb::Quit,
            _ => return None,
        })
    }

    pub fn help(self) -> &'static Help {
        &HELP[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_verbs_and_knows_their_names() {
        for (place, help) in HELP.iter().enumerate() {
            assert_eq!(help.verb as usize, place);
            assert_eq!(help.verb.help(), help);
            assert_eq!(Verb::parse(help.name.as_bytes()), Some(help.verb));
            assert_eq!(Verb::parse(help.name.to_lowercase().as_bytes()), Some(help.verb));
            assert!(help.usage.starts_with(help.name));
        }
        assert_eq!(Verb::parse(b""), None);
        assert_eq!(Verb::parse(b"SETS"), None);
        assert_eq!(Verb::parse(b"statuses"), None);
    }
}
