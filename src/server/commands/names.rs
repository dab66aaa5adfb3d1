//! The names of all commands, of both protocols, as a configuration may name them.

use super::table;
use crate::wire::text::VERBS;

/// The commands that a name in upper or lower case is about: that of either protocol or both, and
/// for a container all its subcommands. There are none if no command has the name.
pub(crate) fn named(name: &str) -> Vec<&'static str> {
    let commands = table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)).map(|spec| spec.name);
    let is_named = |command: &&str| {
        let container = command.split_once('|').map(|(container, _)| container);
        [Some(*command), container].into_iter().flatten().any(|command| command.eq_ignore_ascii_case(name))
    };
    commands.chain(VERBS.iter().map(|verb| verb.name)).filter(is_named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_command_of_either_protocol_or_of_a_container() {
        assert_eq!(named("FlushAll"), ["flushall"]);
        assert_eq!(named("get"), ["get", "GET"]);
        assert_eq!(named("RESTORE"), ["RESTORE"]);
        assert_eq!(named("client|kill"), ["client|kill"]);
        let client = named("client");
        assert!(client.contains(&"client") && client.contains(&"client|kill") && client.len() > 5, "{client:?}");
        for name in ["", "nosuch", "kill", "client|", "get "] {
            assert!(named(name).is_empty(), "{name:?}");
        }
    }
}
