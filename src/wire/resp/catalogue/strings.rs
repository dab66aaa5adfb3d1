//! Commands on the values of keys.

use super::{Spec, Verb, keys};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Verb::Get, "get", 2, "readonly fast")
        .keys(keys::READ)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Returns the value of a key."),
    Spec::new(Verb::Set, "set", -3, "write denyoom").keys(keys::SET).categories("string").docs("string", "1.0.0", "O(1)").help(
        "key value [NX|XX] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]",
        "Sets the value of a key, whether it exists or not, and when it expires.",
    ),
    Spec::new(Verb::SetNx, "setnx", 3, "write denyoom fast")
        .keys(keys::CREATED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key value", "Sets the value of a key that does not exist."),
    Spec::new(Verb::SetEx, "setex", 4, "write denyoom")
        .keys(keys::WRITTEN)
        .categories("string")
        .docs("string", "2.0.0", "O(1)")
        .help("key seconds value", "Sets the value of a key, and in how many seconds it expires."),
    Spec::new(Verb::PSetEx, "psetex", 4, "write denyoom")
        .keys(keys::WRITTEN)
        .categories("string")
        .docs("string", "2.6.0", "O(1)")
        .help("key milliseconds value", "Sets the value of a key, and in how many milliseconds it expires."),
    Spec::new(Verb::GetSet, "getset", 3, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key value", "Sets the value of a key and returns the former one."),
    Spec::new(Verb::GetDel, "getdel", 2, "write fast")
        .keys(keys::TAKEN)
        .categories("string")
        .docs("string", "6.2.0", "O(1)")
        .help("key", "Returns the value of a key and deletes it."),
    Spec::new(Verb::GetEx, "getex", -2, "write fast").keys(keys::CHANGED).categories("string").docs("string", "6.2.0", "O(1)").help(
        "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]",
        "Returns the value of a key and changes when it expires.",
    ),
    Spec::new(Verb::MGet, "mget", -2, "readonly fast")
        .keys(keys::ALL_READ)
        .categories("string")
        .tips("request_policy:multi_shard")
        .docs("string", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Returns the values of several keys, as they are at one moment on this node."),
    Spec::new(Verb::MSet, "mset", -3, "write denyoom")
        .keys(keys::PAIRS_WRITTEN)
        .categories("string")
        .tips("request_policy:multi_shard response_policy:all_succeeded")
        .docs("string", "1.0.1", "O(N) where N is the number of keys")
        .help("(key value)...", "Sets the values of several keys in one step on this node."),
    Spec::new(Verb::MSetNx, "msetnx", -3, "write denyoom")
        .keys(keys::PAIRS_CREATED)
        .categories("string")
        .tips("request_policy:multi_shard response_policy:agg_min")
        .docs("string", "1.0.1", "O(N) where N is the number of keys")
        .help("(key value)...", "Sets the values of several keys, if none of them exists."),
    Spec::new(Verb::Append, "append", 3, "write denyoom fast")
        .keys(keys::EXTENDED)
        .categories("string")
        .docs("string", "2.0.0", "O(N) where N is the length of the value")
        .help("key value", "Adds bytes to the end of a value."),
    Spec::new(Verb::StrLen, "strlen", 2, "readonly fast")
        .keys(keys::LOOKED_UP)
        .categories("string")
        .docs("string", "2.2.0", "O(1)")
        .help("key", "Returns the length of a value."),
    Spec::new(Verb::GetRange, "getrange", 4, "readonly")
        .keys(keys::READ)
        .categories("string")
        .docs("string", "2.4.0", "O(N) where N is the length of the answer")
        .help("key start end", "Returns some bytes of a value."),
    Spec::new(Verb::SubStr, "substr", 4, "readonly")
        .keys(keys::READ)
        .categories("string")
        .docs("string", "1.0.0", "O(N) where N is the length of the answer")
        .help("key start end", "Returns some bytes of a value, as GETRANGE does."),
    Spec::new(Verb::SetRange, "setrange", 4, "write denyoom")
        .keys(keys::ALTERED)
        .categories("string")
        .docs("string", "2.2.0", "O(N) where N is the length of the value")
        .help("key offset value", "Overwrites some bytes of a value."),
    Spec::new(Verb::Incr, "incr", 2, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Adds one to the integer that is the value of a key."),
    Spec::new(Verb::Decr, "decr", 2, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key", "Subtracts one from the integer that is the value of a key."),
    Spec::new(Verb::IncrBy, "incrby", 3, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key increment", "Adds to the integer that is the value of a key."),
    Spec::new(Verb::DecrBy, "decrby", 3, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "1.0.0", "O(1)")
        .help("key decrement", "Subtracts from the integer that is the value of a key."),
    Spec::new(Verb::IncrByFloat, "incrbyfloat", 3, "write denyoom fast")
        .keys(keys::CHANGED)
        .categories("string")
        .docs("string", "2.6.0", "O(1)")
        .help("key decimal", "Adds a decimal to the number that is the value of a key."),
];
