//! Commands that concern the connection, and its transactions.

use super::{Spec, Verb, keys};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Verb::Ping, "ping", -1, "loading stale fast")
        .categories("connection")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("connection", "1.0.0", "O(1)")
        .help("[message]", "Returns PONG, or what it is given."),
    Spec::new(Verb::Echo, "echo", 2, "loading stale fast")
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("message", "Returns what it is given."),
    Spec::new(Verb::Quit, "quit", -1, "noscript loading stale fast no_auth allow_busy")
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("", "Closes the connection."),
    Spec::new(Verb::Reset, "reset", 1, "noscript loading stale fast no_auth allow_busy")
        .categories("connection")
        .docs("connection", "6.2.0", "O(1)")
        .help("", "Makes the connection as it was when it began."),
    Spec::new(Verb::Select, "select", 2, "loading stale fast")
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("index", "Chooses the database, of which there is one: 0."),
    Spec::new(Verb::Auth, "auth", -2, "noscript loading stale fast no_auth allow_busy")
        .categories("connection")
        .docs("connection", "1.0.0", "O(1)")
        .help("[username] password", "Is accepted for the user default, who has no password."),
    Spec::new(Verb::Hello, "hello", -1, "noscript loading stale fast no_auth allow_busy")
        .categories("connection")
        .docs("connection", "6.0.0", "O(1)")
        .help(
            "[protover [AUTH username password] [SETNAME clientname]]",
            "Chooses the version of the protocol and says who this server is.",
        ),
    Spec::new(Verb::Container, "client", -2, "")
        .docs("connection", "2.4.0", "Depends on the subcommand")
        .help("", "A container for subcommands.")
        .containing(&CLIENT),
    Spec::new(Verb::Multi, "multi", 1, "noscript loading stale fast allow_busy")
        .categories("transaction")
        .docs("transactions", "1.2.0", "O(1)")
        .help("", "Queues the commands that follow, until EXEC."),
    Spec::new(Verb::Exec, "exec", 1, "noscript loading stale skip_slowlog")
        .categories("transaction")
        .docs("transactions", "1.2.0", "Depends on the queued commands")
        .help("", "Executes the queued commands in one step on this node."),
    Spec::new(Verb::Discard, "discard", 1, "noscript loading stale fast allow_busy")
        .categories("transaction")
        .docs("transactions", "2.0.0", "O(N) where N is the number of queued commands")
        .help("", "Forgets the queued commands."),
    Spec::new(Verb::Watch, "watch", -2, "noscript loading stale fast allow_busy")
        .keys(keys::ALL_LOOKED_UP)
        .categories("transaction")
        .docs("transactions", "2.2.0", "O(N) where N is the number of keys")
        .help("key...", "Has EXEC execute nothing if one of the keys is written before."),
    Spec::new(Verb::Unwatch, "unwatch", 1, "noscript loading stale fast allow_busy")
        .categories("transaction")
        .docs("transactions", "2.2.0", "O(1)")
        .help("", "Forgets the watched keys."),
];

static CLIENT: [Spec; 9] = [
    Spec::new(Verb::ClientId, "client|id", 2, "noscript loading stale")
        .categories("connection")
        .docs("connection", "5.0.0", "O(1)")
        .help("", "Returns the number of this connection."),
    Spec::new(Verb::ClientGetName, "client|getname", 2, "noscript loading stale")
        .categories("connection")
        .docs("connection", "2.6.9", "O(1)")
        .help("", "Returns the name of this connection."),
    Spec::new(Verb::ClientSetName, "client|setname", 3, "noscript loading stale")
        .categories("connection")
        .docs("connection", "2.6.9", "O(1)")
        .help("connection-name", "Names this connection."),
    Spec::new(Verb::ClientSetInfo, "client|setinfo", 4, "noscript loading stale")
        .categories("connection")
        .docs("connection", "7.2.0", "O(1)")
        .help("(LIB-NAME libname|LIB-VER libver)", "Says which library this connection comes from."),
    Spec::new(Verb::ClientList, "client|list", -2, "admin noscript loading stale")
        .categories("connection")
        .tips("nondeterministic_output")
        .docs("connection", "2.4.0", "O(N) where N is the number of connections")
        .help("[TYPE (NORMAL|MASTER|REPLICA|PUBSUB)|ID client-id...]", "Lists the connections of clients."),
    Spec::new(Verb::ClientInfo, "client|info", 2, "noscript loading stale")
        .categories("connection")
        .tips("nondeterministic_output")
        .docs("connection", "6.2.0", "O(1)")
        .help("", "Describes this connection."),
    Spec::new(Verb::ClientKill, "client|kill", -3, "admin noscript loading stale")
        .categories("connection")
        .docs("connection", "2.4.0", "O(N) where N is the number of connections")
        .help(
            "(ip:port|(ID client-id|TYPE (NORMAL|MASTER|REPLICA|PUBSUB)|USER username|ADDR ip:port|LADDR ip:port|SKIPME (YES|NO))...)",
            "Closes connections.",
        ),
    Spec::new(Verb::ClientNoEvict, "client|no-evict", 3, "admin noscript loading stale")
        .categories("connection")
        .docs("connection", "7.0.0", "O(1)")
        .help("(ON|OFF)", "Changes nothing: connections are never closed to free memory."),
    Spec::new(Verb::ClientNoTouch, "client|no-touch", 3, "noscript loading stale")
        .categories("connection")
        .docs("connection", "7.2.0", "O(1)")
        .help("(ON|OFF)", "Changes nothing: reading a key never changes it."),
];
