//! Commands that concern the node, and those that are kvmesh's own.

use super::{Spec, Verb, keys};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Verb::Command, "command", -1, "loading stale")
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "2.8.13", "O(N) where N is the number of commands")
        .help("", "Describes all commands.")
        .containing(&COMMAND),
    Spec::new(Verb::Container, "config", -2, "")
        .docs("server", "2.0.0", "Depends on the subcommand")
        .help("", "A container for subcommands.")
        .containing(&CONFIG),
    Spec::new(Verb::Container, "debug", -2, "admin noscript loading stale")
        .docs("server", "1.0.0", "Depends on the subcommand")
        .help("", "A container for subcommands.")
        .containing(&DEBUG),
    Spec::new(Verb::Info, "info", -1, "loading stale")
        .categories("dangerous")
        .tips("nondeterministic_output request_policy:all_shards response_policy:special")
        .docs("server", "1.0.0", "O(1)")
        .help("[section...]", "Returns what was measured on this node."),
    Spec::new(Verb::Role, "role", 1, "noscript loading stale fast")
        .categories("admin dangerous")
        .docs("server", "2.8.12", "O(1)")
        .help("", "Returns the role of this node, which is that of a master."),
    Spec::new(Verb::Time, "time", 1, "loading stale fast")
        .tips("nondeterministic_output")
        .docs("server", "2.6.0", "O(1)")
        .help("", "Returns the time of this node."),
    Spec::new(Verb::Lolwut, "lolwut", -1, "readonly fast")
        .docs("server", "5.0.0", "O(1)")
        .help("[VERSION version]", "Shows something pretty, and the version."),
    Spec::new(Verb::Wait, "wait", 3, "noscript")
        .categories("connection")
        .tips("request_policy:all_shards response_policy:agg_min")
        .docs("generic", "3.0.0", "O(1)")
        .help("numreplicas timeout", "Waits until so many other nodes have the writes of this connection."),
    Spec::new(Verb::WaitAof, "waitaof", 4, "noscript")
        .categories("connection")
        .docs("generic", "7.2.0", "O(1)")
        .help("numlocal numreplicas timeout", "Waits until the writes of this connection are on the disks of so many nodes."),
    Spec::new(Verb::Upd, "upd", 3, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "0.1.0", "O(1)")
        .help("key value", "Changes the value of a key; an error if there is no such key."),
    Spec::new(Verb::Put, "put", 3, "write denyoom fast")
        .keys(keys::WRITTEN)
        .categories("string")
        .docs("string", "0.1.0", "O(1)")
        .help("key value", "Sets the value of a key, whether it exists or not."),
    Spec::new(Verb::Ack, "ack", -1, "loading stale fast").categories("connection").docs("connection", "0.1.0", "O(1)").help(
        "[LOCAL|MAJORITY|ALL]",
        "Sets how many nodes must hold a write before it is answered: local, majority or all; or returns it.",
    ),
    Spec::new(Verb::Status, "status", 1, "loading stale")
        .docs("server", "0.1.0", "O(1)")
        .help("", "Returns the state, the sizes and the limits of this node."),
    Spec::new(Verb::Peers, "peers", 1, "stale")
        .docs("server", "0.1.0", "O(N) where N is the number of nodes")
        .help("", "Returns how this node stands with each of the others."),
    Spec::new(Verb::Digest, "digest", 1, "readonly")
        .categories("keyspace")
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Returns a fingerprint of all keys and values, and their number."),
    Spec::new(Verb::Compact, "compact", 1, "admin")
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Writes a snapshot of the data of this node now."),
    Spec::new(Verb::Resume, "resume", 1, "admin")
        .docs("server", "0.1.0", "O(N) where N is the number of keys")
        .help("", "Takes writes again after a full disk, once there is space."),
];

static COMMAND: [Spec; 4] = [
    Spec::new(Verb::CommandCount, "command|count", 2, "loading stale")
        .categories("connection")
        .docs("server", "2.8.13", "O(1)")
        .help("", "Returns how many commands there are."),
    Spec::new(Verb::CommandList, "command|list", -2, "loading stale")
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "7.0.0", "O(N) where N is the number of commands")
        .help("[FILTERBY (MODULE module-name|ACLCAT category|PATTERN pattern)]", "Returns the names of commands."),
    Spec::new(Verb::CommandInfo, "command|info", -2, "loading stale")
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "2.8.13", "O(N) where N is the number of commands to look up")
        .help("[command-name...]", "Describes commands."),
    Spec::new(Verb::CommandDocs, "command|docs", -2, "loading stale")
        .categories("connection")
        .tips("nondeterministic_output_order")
        .docs("server", "7.0.0", "O(N) where N is the number of commands to look up")
        .help("[command-name...]", "Explains commands."),
];

static CONFIG: [Spec; 1] = [Spec::new(Verb::ConfigGet, "config|get", -3, "admin noscript loading stale")
    .docs("server", "2.0.0", "O(N) where N is the number of settings")
    .help("parameter...", "Returns settings of this node.")];

static DEBUG: [Spec; 1] = [Spec::new(Verb::DebugSleep, "debug|sleep", 3, "admin noscript loading stale")
    .docs("server", "1.0.0", "O(1)")
    .help("seconds", "Has this connection alone sleep for so many seconds.")];
