//! The users of a node: who may speak on the client port, and what each may do.
//!
//! A secret is known by its SHA-256 alone, which is never shown: neither in errors about the file,
//! where the secret itself may stand by mistake, nor anywhere else.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value;

use super::refusal::{ConfigRefusal, quoted};
use super::section::{FieldKind, FromField, Json, Section, USER_EXPECTED};
use crate::wire::role::Role;

const USER_FIELDS: &[&str] = &["name", "secret_sha256", "role", "keys", "enabled"];
const NAME: FieldKind = FieldKind::Text { default: None, expected: NAME_EXPECTED };
const NAME_EXPECTED: &str = "a name of 1 to 64 letters, digits and any of . _ - @";
const NAME_LEN_MAX: usize = 64;
const ROLE: FieldKind = FieldKind::Text { default: None, expected: Role::NAMES };
const ENABLED: FieldKind = FieldKind::Boolean { default: true };
const SECRET_EXPECTED: &str = "the SHA-256 of a secret, as 64 hexadecimal digits; kvctl genpass makes both";
const KEYS_EXPECTED: &str = "a list of prefixes such as [\"shop:\"], none of them empty; without this field all keys are meant";

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    pub name: String,
    pub secret_sha256: SecretHash,
    pub role: Role,
    /// The prefixes of the keys that the user may see and write; `None` for all keys.
    pub prefixes: Option<Vec<String>>,
    /// False for a user who may not log in.
    pub is_enabled: bool,
}

/// The SHA-256 of a secret. Is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl UserConfig {
    /// Returns true if the user may see and write a key, as far as it depends on the key.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.as_ref().is_none_or(|prefixes| prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes())))
    }

    fn from_section(mut user: Section) -> Result<UserConfig, ConfigRefusal> {
        let name = String::from_field(&mut user, "name", NAME)?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
        if name.is_empty() || name.len() > NAME_LEN_MAX || !is_name {
            return Err(ConfigRefusal::new(user.name("name"), quoted(&name), NAME_EXPECTED));
        }
        let prefixes = user.strings("keys", KEYS_EXPECTED)?;
        if prefixes.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigRefusal::new(user.name("keys"), "an empty list", KEYS_EXPECTED));
        }
        Ok(UserConfig {
            name,
            secret_sha256: SecretHash::from_section(&mut user)?,
            role: user.choice("role", ROLE)?,
            prefixes,
            is_enabled: bool::from_field(&mut user, "enabled", ENABLED)?,
        })
    }
}

impl SecretHash {
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the field out. The error shows nothing of what stands there.
    fn from_section(user: &mut Section) -> Result<SecretHash, ConfigRefusal> {
        let found = match user.take("secret_sha256") {
            Some(Json::Other(Value::String(text))) => match SecretHash::parse(&text) {
                Some(hash) => return Ok(hash),
                None => format!("a text of {} characters", text.chars().count()),
            },
            Some(_) => "no text".to_owned(),
            None => "nothing".to_owned(),
        };
        Err(ConfigRefusal::new(user.name("secret_sha256"), found, SECRET_EXPECTED))
    }

    fn parse(text: &str) -> Option<SecretHash> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
        }
        Some(SecretHash(bytes))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

impl FromField for Vec<UserConfig> {
    /// Without the field there are none, and nobody is asked who they are.
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Vec<UserConfig>, ConfigRefusal> {
        let is_there = section.has(field);
        let objects = section.objects(field, kind, USER_EXPECTED)?;
        if is_there && objects.is_empty() {
            let expected = "at least one user; without this field nobody is asked who they are";
            return Err(ConfigRefusal::new(section.name(field), "an empty list", expected));
        }
        let user = |(index, object)| UserConfig::from_section(Section::new(format!("{field}[{index}]."), object, USER_FIELDS)?);
        let users = objects.into_iter().enumerate().map(user).collect::<Result<Vec<_>, _>>()?;
        check_names(field, &users)?;
        Ok(users)
    }
}

/// Checks that no two users have the same name.
fn check_names(field: &str, users: &[UserConfig]) -> Result<(), ConfigRefusal> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, user) in users.iter().enumerate() {
        if let Some(first) = seen.insert(&user.name, index) {
            let expected = format!("a name that differs from {field}[{first}].name");
            return Err(ConfigRefusal::new(format!("{field}[{index}].name"), quoted(&user.name), expected));
        }
    }
    Ok(())
}
