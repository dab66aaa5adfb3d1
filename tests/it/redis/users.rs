//! Users: what a redis-server with users of an ACL says to clients, a node says as well.

use serde_json::json;

use super::servers::{Redis, ask, open, shown};
use crate::users::{node_with_users, user};

/// The user that both servers have: may read keys that begin with `own:`.
const RULES: &str = "ACL SETUSER reader on >reader-secret ~own:* -@all +@read +@connection +@transaction -@admin -@dangerous";

#[test]
fn refusals_for_want_of_rights() {
    let Some(redis) = Redis::start() else { return };
    let mut reader = user("reader", "read");
    reader["keys"] = json!(["own:"]);
    let node = node_with_users(&[user("admin", "admin"), reader]);
    let mut setup = open(redis.addr);
    for line in [RULES, "ACL SETUSER admin on >admin-secret ~* +@all", "ACL SETUSER default resetpass off"] {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(!ask(&mut setup, &words).is_error(), "{line}");
    }
    for session in [
        // Before a login.
        &["GET own:a", "SET own:a 1", "nosuch", "GET", "SET own:a b c", "HELLO", "HELLO 3", "HELLO 9", "MULTI", "EXEC", "CLIENT LIST"][..],
        &["AUTH reader wrong", "AUTH nobody x", "AUTH wrong"],
        &["HELLO 3 AUTH reader wrong", "HELLO 2 AUTH nobody x", "AUTH a b c", "GET own:a"],
        // The rights of a user.
        &[
            "AUTH reader reader-secret",
            "GET own:a",
            "GET other",
            "MGET own:a other",
            "SET own:a 1",
            "FLUSHALL",
            "CONFIG GET port",
            "CLIENT LIST",
        ],
        &["AUTH reader reader-secret", "WATCH other", "EXISTS own:a other", "nosuch", "GET", "SET own:a b c", "CLIENT KILL ID 3"],
        &[
            "AUTH reader reader-secret",
            "MULTI",
            "GET own:a",
            "GET other",
            "EXEC",
            "MULTI",
            "SET own:a 1",
            "DISCARD",
            "MULTI",
            "GET own:a",
            "EXEC",
        ],
        &["AUTH reader reader-secret", "AUTH reader wrong", "GET own:a", "RESET", "GET own:a"],
    ] {
        let mut both = [open(redis.addr), open(node.client_addr(1))];
        for line in session {
            let words: Vec<&str> = line.split(' ').collect();
            let [expected, found] = both.each_mut().map(|connection| ask(connection, &words));
            assert_eq!(expected.raw, found.raw, "{}: redis {expected:?}, kvmesh {found:?}", shown(&words));
        }
    }
}
