//! Commands on keys, whatever their values.

use super::{Spec, Verb, keys};

pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Verb::Del, "del", -2, "write")
        .keys(keys::ALL_DELETED)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Deletes keys."),
    Spec::new(Verb::Unlink, "unlink", -2, "write fast")
        .keys(keys::ALL_DELETED)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "4.0.0", "O(N) where N is the number of keys")
        .help("key...", "Deletes keys, as DEL does."),
    Spec::new(Verb::Exists, "exists", -2, "readonly fast")
        .keys(keys::ALL_LOOKED_UP)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys")
        .help("key...", "Counts which of the keys exist."),
    Spec::new(Verb::Type, "type", 2, "readonly fast")
        .keys(keys::LOOKED_UP)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key", "Returns string for a key that exists, and none for one that does not."),
    Spec::new(Verb::Touch, "touch", -2, "readonly fast")
        .keys(keys::ALL_LOOKED_UP)
        .categories("keyspace")
        .tips("request_policy:multi_shard response_policy:agg_sum")
        .docs("generic", "3.2.1", "O(N) where N is the number of keys")
        .help("key...", "Counts which of the keys exist, as EXISTS does."),
    Spec::new(Verb::Rename, "rename", 3, "write")
        .keys(keys::RENAMED)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key newkey", "Renames a key, over one that has the new name."),
    Spec::new(Verb::RenameNx, "renamenx", 3, "write fast")
        .keys(keys::RENAMED_NX)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key newkey", "Renames a key, unless one has the new name."),
    Spec::new(Verb::RandomKey, "randomkey", 1, "readonly")
        .categories("keyspace")
        .tips("request_policy:all_shards nondeterministic_output")
        .docs("generic", "1.0.0", "O(1)")
        .help("", "Returns any key."),
    Spec::new(Verb::Keys, "keys", 2, "readonly")
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards nondeterministic_output_order")
        .docs("generic", "1.0.0", "O(N) where N is the number of keys there are")
        .help("pattern", "Returns the keys that a pattern matches."),
    Spec::new(Verb::Scan, "scan", -2, "readonly")
        .categories("keyspace")
        .tips("nondeterministic_output request_policy:special")
        .docs("generic", "2.8.0", "O(COUNT) for every call; O(N) for all of them")
        .help("cursor [MATCH pattern] [COUNT count] [TYPE type]", "Returns some of the keys, and where to go on."),
    Spec::new(Verb::DbSize, "dbsize", 1, "readonly fast")
        .categories("keyspace")
        .tips("request_policy:all_shards response_policy:agg_sum")
        .docs("server", "1.0.0", "O(1)")
        .help("", "Returns how many keys there are."),
    Spec::new(Verb::FlushDb, "flushdb", -1, "write")
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("server", "1.0.0", "O(N) where N is the number of keys")
        .help("[ASYNC|SYNC]", "Deletes every key, on every node."),
    Spec::new(Verb::FlushAll, "flushall", -1, "write")
        .categories("keyspace dangerous")
        .tips("request_policy:all_shards response_policy:all_succeeded")
        .docs("server", "1.0.0", "O(N) where N is the number of keys")
        .help("[ASYNC|SYNC]", "Deletes every key, on every node."),
    Spec::new(Verb::Container, "object", -2, "")
        .docs("generic", "2.2.3", "Depends on the subcommand")
        .help("", "A container for subcommands.")
        .containing(&OBJECT),
    Spec::new(Verb::Container, "memory", -2, "")
        .docs("server", "4.0.0", "Depends on the subcommand")
        .help("", "A container for subcommands.")
        .containing(&MEMORY),
    Spec::new(Verb::Expire, "expire", -3, "write fast")
        .keys(keys::ALTERED)
        .categories("keyspace")
        .docs("generic", "1.0.0", "O(1)")
        .help("key seconds [NX|XX|GT|LT]", "Sets in how many seconds a key expires."),
    Spec::new(Verb::PExpire, "pexpire", -3, "write fast")
        .keys(keys::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.6.0", "O(1)")
        .help("key milliseconds [NX|XX|GT|LT]", "Sets in how many milliseconds a key expires."),
    Spec::new(Verb::ExpireAt, "expireat", -3, "write fast")
        .keys(keys::ALTERED)
        .categories("keyspace")
        .docs("generic", "1.2.0", "O(1)")
        .help("key unix-time-seconds [NX|XX|GT|LT]", "Sets at what time a key expires, in seconds since 1970."),
    Spec::new(Verb::PExpireAt, "pexpireat", -3, "write fast")
        .keys(keys::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.6.0", "O(1)")
        .help("key unix-time-milliseconds [NX|XX|GT|LT]", "Sets at what time a key expires, in milliseconds since 1970."),
    Spec::new(Verb::Ttl, "ttl", 2, "readonly fast")
        .keys(keys::READ)
        .categories("keyspace")
        .tips("nondeterministic_output")
        .docs("generic", "1.0.0", "O(1)")
        .help("key", "Returns in how many seconds a key expires."),
    Spec::new(Verb::PTtl, "pttl", 2, "readonly fast")
        .keys(keys::READ)
        .categories("keyspace")
        .tips("nondeterministic_output")
        .docs("generic", "2.6.0", "O(1)")
        .help("key", "Returns in how many milliseconds a key expires."),
    Spec::new(Verb::ExpireTime, "expiretime", 2, "readonly fast")
        .keys(keys::READ)
        .categories("keyspace")
        .docs("generic", "7.0.0", "O(1)")
        .help("key", "Returns at what time a key expires, in seconds since 1970."),
    Spec::new(Verb::PExpireTime, "pexpiretime", 2, "readonly fast")
        .keys(keys::READ)
        .categories("keyspace")
        .docs("generic", "7.0.0", "O(1)")
        .help("key", "Returns at what time a key expires, in milliseconds since 1970."),
    Spec::new(Verb::Persist, "persist", 2, "write fast")
        .keys(keys::ALTERED)
        .categories("keyspace")
        .docs("generic", "2.2.0", "O(1)")
        .help("key", "Has a key never expire."),
];

static OBJECT: [Spec; 1] = [Spec::new(Verb::ObjectEncoding, "object|encoding", 3, "readonly")
    .keys(keys::SECOND_LOOKED_UP)
    .categories("keyspace")
    .tips("nondeterministic_output")
    .docs("generic", "2.2.3", "O(1)")
    .help("key", "Returns how Redis would keep a value in memory.")];

static MEMORY: [Spec; 1] = [Spec::new(Verb::MemoryUsage, "memory|usage", -3, "readonly")
    .keys(keys::SECOND_LOOKED_UP)
    .docs("server", "4.0.0", "O(1)")
    .help("key [SAMPLES count]", "Estimates how many bytes of memory a key and its value take.")];
