//! Access: the users that there are, and the commands that nobody may use.
//!
//! [`AccessControl`] owns what is in force, of which a reload puts another in its place. A session
//! compares one number to know that nothing has changed. Knows no connection and no command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::UserConfig;

/// The users of a node and its disabled commands. Without any, everybody may do everything.
#[derive(Default)]
pub struct Access {
    users: Vec<Arc<UserConfig>>,
    /// The names of commands, those of subcommands too, in upper or lower case.
    disabled: Vec<&'static str>,
}

/// The access that is in force.
pub(crate) struct AccessControl {
    current: RwLock<Current>,
    /// The generation of `current`; 0 while everybody may do everything.
    generation: AtomicU64,
}

struct Current {
    access: Arc<Access>,
    generation: u64,
    /// How often the access was replaced. No generation but 0 comes twice.
    replaced: u64,
}

impl Access {
    pub fn new(users: &[UserConfig], disabled: Vec<&'static str>) -> Access {
        Access { users: users.iter().cloned().map(Arc::new).collect(), disabled }
    }

    /// Returns true if clients must say who they are.
    pub fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    pub fn users(&self) -> &[Arc<UserConfig>] {
        &self.users
    }

    pub fn user(&self, name: &[u8]) -> Option<&Arc<UserConfig>> {
        self.users.iter().find(|user| user.name.as_bytes() == name)
    }

    pub fn has_disabled(&self) -> bool {
        !self.disabled.is_empty()
    }

    pub fn is_disabled(&self, command: &str) -> bool {
        self.disabled.iter().any(|name| name.eq_ignore_ascii_case(command))
    }

    /// The user of that name, if the password is right and the user may log in. Takes as long for a
    /// name that no user has.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<&Arc<UserConfig>> {
        /// No password has it that anybody knows.
        const OF_NOBODY: [u8; 32] = [0; 32];
        let user = self.user(name);
        let wanted = user.map_or(&OF_NOBODY, |user| user.secret_sha256.bytes());
        let given: [u8; 32] = Sha256::digest(password).into();
        let is_right = bool::from(given.ct_eq(wanted));
        user.filter(|user| is_right && user.is_enabled)
    }

    /// The user that takes the place of one of an access before this: of the same name and secret.
    pub fn successor(&self, former: &UserConfig) -> Option<&Arc<UserConfig>> {
        let user = self.user(former.name.as_bytes())?;
        Some(user).filter(|user| user.is_enabled && user.secret_sha256 == former.secret_sha256)
    }
}

impl AccessControl {
    pub fn new(access: Access) -> AccessControl {
        let current = Current { access: Arc::default(), generation: 0, replaced: 0 };
        let control = AccessControl { current: RwLock::new(current), generation: AtomicU64::new(0) };
        control.replace(access);
        control
    }

    /// Puts another access in force. Sessions notice it before their next command.
    pub fn replace(&self, access: Access) {
        let mut current = self.current.write();
        let replaced = current.replaced + 1;
        let generation = if access.users.is_empty() && access.disabled.is_empty() { 0 } else { replaced };
        *current = Current { access: Arc::new(access), generation, replaced };
        self.generation.store(generation, Ordering::Release);
    }

    /// The number of the access in force: another one after every change. 0 if everybody may do
    /// everything.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The access in force, and its generation.
    pub fn current(&self) -> (Arc<Access>, u64) {
        let current = self.current.read();
        (Arc::clone(&current.access), current.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::simulated_node::config;
    use serde_json::json;

    fn hash(secret: &str) -> String {
        Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn access(users: serde_json::Value) -> Access {
        Access::new(&config(1, 1, &json!({ "users": users })).users, Vec::new())
    }

    #[test]
    fn a_user_logs_in_with_the_right_secret_alone() {
        let access = access(json!([
            { "name": "a", "secret_sha256": hash("one"), "role": "read" },
            { "name": "b", "secret_sha256": hash("two").to_uppercase(), "role": "admin", "enabled": false },
        ]));
        let logs_in = |name: &str, password: &str| access.authenticate(name.as_bytes(), password.as_bytes()).is_some();
        assert!(logs_in("a", "one"));
        for (name, password) in [("a", "two"), ("a", ""), ("b", "two"), ("A", "one"), ("c", "one"), ("", ""), ("a", &hash("one"))] {
            assert!(!logs_in(name, password), "{name} {password}");
        }
    }

    #[test]
    fn a_user_with_another_secret_or_none_any_more_has_no_successor() {
        let before = access(json!([{ "name": "a", "secret_sha256": hash("one"), "role": "read" }]));
        let former = &before.users()[0];
        let with = |name: &str, secret: &str, enabled: bool| {
            access(json!([{ "name": name, "secret_sha256": hash(secret), "role": "write", "enabled": enabled }]))
        };
        assert!(with("a", "one", true).successor(former).is_some());
        for after in [with("a", "two", true), with("a", "one", false), with("b", "one", true), Access::default()] {
            assert!(after.successor(former).is_none());
        }
    }

    #[test]
    fn every_access_has_a_generation_of_its_own_but_one_that_forbids_nothing() {
        let control = AccessControl::new(Access::default());
        assert_eq!(control.generation(), 0);
        let mut seen = Vec::new();
        for _ in 0..3 {
            control.replace(Access::new(&[], vec!["get"]));
            assert_eq!(control.current().1, control.generation());
            assert!(control.generation() != 0 && !seen.contains(&control.generation()));
            seen.push(control.generation());
            control.replace(Access::default());
            assert_eq!((control.generation(), control.current().1), (0, 0));
        }
    }
}
