//! Reading an object of the file, field by field.
//!
//! Each type that a field can have is a [`FromField`]. Refuses a field that is unknown, given
//! twice, of another kind or out of its bounds; the words name the field, what was found and what
//! would be right. Knows nothing of how fields fit each other.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::addr::ADDR_EXPECTED;
use super::peer_auth::PeerAuth;
use super::refusal::{ConfigRefusal, quoted, shortened};
use crate::data::fsync::Fsync;
use crate::data::version::NodeId;
use crate::process::logging::LogLevel;
use crate::wire::ack_level::AckLevel;

const PEER_EXPECTED: &str = "{ \"id\": 2, \"addr\": \"127.0.0.1:7102\" }";
pub(super) const USER_EXPECTED: &str = "{ \"name\": \"shop\", \"secret_sha256\": \"…\", \"role\": \"write\" }";
const PEER_FIELDS: &[&str] = &["id", "addr"];
const NODE_ID: FieldKind = FieldKind::Number { default: None, min: 1, max: u16::MAX as u64 };
const PEER_ADDR: FieldKind = FieldKind::Text { default: None, expected: ADDR_EXPECTED };

/// The values that a field takes, and its default. A field without a default must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A whole number between two bounds, both included.
    Number { default: Option<u64>, min: u64, max: u64 },
    /// Whole milliseconds, at least one.
    Milliseconds { default: u64, max: u64 },
    /// A string. `expected` says in an error what would be right.
    Text { default: Option<&'static str>, expected: &'static str },
    /// A list of [`PeerConfig`]. By default there are none.
    Peers,
    /// An object of fields of its own. By default it is not there. `expected` shows one.
    Object { expected: &'static str },
    /// A list of [`UserConfig`](super::UserConfig). By default there are none.
    Users,
    /// A list of words. By default there are none.
    Names { expected: &'static str },
    /// True or false.
    Boolean { default: bool },
}

/// One of the other members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub id: NodeId,
    /// `host:port` to dial; the host is resolved at every dial.
    pub addr: String,
}

/// JSON as far as a configuration goes. Objects keep a field that is given twice, which
/// `serde_json::Value` would swallow.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Json {
    Object(Object),
    Objects(Vec<Object>),
    Other(Value),
}

impl fmt::Display for Json {
    /// Shows the value as an error does: short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Object(_) => f.write_str("an object"),
            Json::Objects(_) | Json::Other(Value::Array(_)) => f.write_str("a list"),
            Json::Other(Value::String(text)) => f.write_str(&quoted(text)),
            Json::Other(value) => value.fmt(f),
        }
    }
}

/// Names and values in the order of the file.
pub(super) struct Object(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// One object of the file, from which fields are taken by name.
pub(super) struct Section {
    /// Stands before a field's name in an error: `peers[0].`
    prefix: String,
    fields: HashMap<String, Json>,
}

impl Section {
    /// Refuses unknown fields, and those given twice.
    pub fn new(prefix: impl Into<String>, object: Object, known: &[&str]) -> Result<Section, ConfigRefusal> {
        let mut section = Section { prefix: prefix.into(), fields: HashMap::new() };
        for (name, value) in object.0 {
            let field = section.name(&shortened(&name));
            if !known.contains(&name.as_str()) {
                return Err(ConfigRefusal::new(field, "an unknown field", format!("one of {}", known.join(", "))));
            }
            if section.fields.insert(name, value).is_some() {
                return Err(ConfigRefusal::new(field, "it twice", "each field once"));
            }
        }
        Ok(section)
    }

    /// True if the file names this field.
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Takes a field out, whatever it holds.
    pub fn take(&mut self, field: &str) -> Option<Json> {
        self.fields.remove(field)
    }

    /// The name of a field as errors have it.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    pub fn refusal(&self, field: &str, found: Option<&Json>, expected: impl fmt::Display) -> ConfigRefusal {
        ConfigRefusal::new(self.name(field), found.map_or("nothing".to_owned(), Json::to_string), expected)
    }

    /// Takes a list of objects out; an empty one without the field. `expected` is one of them.
    pub fn objects(&mut self, field: &str, kind: FieldKind, expected: &str) -> Result<Vec<Object>, ConfigRefusal> {
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Json::Objects(objects)) => Ok(objects),
            Some(Json::Other(Value::Array(mut elements))) => {
                // It is there: a list of objects alone is read as such.
                let index = elements.iter().position(|element| !element.is_object()).unwrap_or_default();
                let element = Json::Other(elements.swap_remove(index));
                Err(self.refusal(&format!("{field}[{index}]"), Some(&element), format_args!("an object such as {expected}")))
            }
            found => Err(self.refusal(field, found.as_ref(), kind)),
        }
    }

    /// Takes a list of strings out, none of which may be empty; `None` without the field.
    pub fn strings(&mut self, field: &str, expected: &str) -> Result<Option<Vec<String>>, ConfigRefusal> {
        let elements = match self.take(field) {
            None => return Ok(None),
            Some(Json::Other(Value::Array(elements))) => elements,
            // An empty list is one of anything.
            Some(Json::Objects(objects)) if objects.is_empty() => Vec::new(),
            found => return Err(self.refusal(field, found.as_ref(), expected)),
        };
        let string = |(index, element)| match element {
            Value::String(text) if !text.is_empty() => Ok(text),
            element => Err(self.refusal(&format!("{field}[{index}]"), Some(&Json::Other(element)), expected)),
        };
        elements.into_iter().enumerate().map(string).collect::<Result<_, _>>().map(Some)
    }

    /// A string that names one of several choices.
    pub fn choice<T: std::str::FromStr>(&mut self, field: &str, kind: FieldKind) -> Result<T, ConfigRefusal> {
        let text = String::from_field(self, field, kind)?;
        text.parse().map_err(|_| ConfigRefusal::new(self.name(field), quoted(&text), kind))
    }
}

impl fmt::Display for FieldKind {
    /// Says what would be right, for an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldKind::Number { min, max, .. } => write!(f, "a whole number from {min} to {max}"),
            FieldKind::Milliseconds { max, .. } => write!(f, "a whole number from 1 to {max} (milliseconds)"),
            FieldKind::Text { expected, .. } => f.write_str(expected),
            FieldKind::Peers => write!(f, "a list of objects such as [{PEER_EXPECTED}]"),
            FieldKind::Object { expected } => write!(f, "an object such as {expected}"),
            FieldKind::Users => write!(f, "a list of objects such as [{USER_EXPECTED}]"),
            FieldKind::Names { expected } => f.write_str(expected),
            FieldKind::Boolean { .. } => f.write_str("true or false"),
        }
    }
}

/// A value that is read from a field.
pub(super) trait FromField: Sized {
    /// Takes the field out of the section. An error says why it is refused.
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Self, ConfigRefusal>;

    /// The value as a number, if it bounds something.
    fn limit(&self) -> Option<u64> {
        None
    }
}

impl FromField for u64 {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<u64, ConfigRefusal> {
        let found = section.fields.remove(field);
        let (default, bounds) = match kind {
            FieldKind::Number { default, min, max } => (default, min..=max),
            FieldKind::Milliseconds { default, max } => (Some(default), 1..=max),
            // Nothing is a number there.
            _ => return Err(section.refusal(field, found.as_ref(), kind)),
        };
        let number = match &found {
            Some(Json::Other(value)) => value.as_u64(),
            Some(_) => None,
            None => default,
        };
        number.filter(|number| bounds.contains(number)).ok_or_else(|| section.refusal(field, found.as_ref(), kind))
    }

    fn limit(&self) -> Option<u64> {
        Some(*self)
    }
}

impl FromField for usize {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<usize, ConfigRefusal> {
        u64::from_field(section, field, kind).map(|number| number as usize)
    }

    fn limit(&self) -> Option<u64> {
        Some(*self as u64)
    }
}

impl FromField for Duration {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Duration, ConfigRefusal> {
        u64::from_field(section, field, kind).map(Duration::from_millis)
    }

    /// Milliseconds.
    fn limit(&self) -> Option<u64> {
        Some(self.as_millis() as u64)
    }
}

impl FromField for NodeId {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<NodeId, ConfigRefusal> {
        u64::from_field(section, field, kind).map(|number| NodeId(number as u16))
    }
}

impl FromField for String {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<String, ConfigRefusal> {
        match (section.fields.remove(field), kind) {
            (Some(Json::Other(Value::String(text))), _) => Ok(text),
            (None, FieldKind::Text { default: Some(default), .. }) => Ok(default.to_owned()),
            (found, _) => Err(section.refusal(field, found.as_ref(), kind)),
        }
    }
}

impl FromField for PathBuf {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<PathBuf, ConfigRefusal> {
        String::from_field(section, field, kind).map(PathBuf::from)
    }
}

impl FromField for Option<PathBuf> {
    /// Without the field, or with an empty one, there is none.
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Option<PathBuf>, ConfigRefusal> {
        let path = String::from_field(section, field, kind)?;
        Ok((!path.is_empty()).then(|| path.into()))
    }
}

impl FromField for bool {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<bool, ConfigRefusal> {
        match (section.fields.remove(field), kind) {
            (Some(Json::Other(Value::Bool(value))), _) => Ok(value),
            (None, FieldKind::Boolean { default }) => Ok(default),
            (found, _) => Err(section.refusal(field, found.as_ref(), kind)),
        }
    }
}

impl FromField for Vec<String> {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Vec<String>, ConfigRefusal> {
        section.strings(field, &kind.to_string()).map(Option::unwrap_or_default)
    }
}

impl FromField for PeerAuth {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<PeerAuth, ConfigRefusal> {
        section.choice(field, kind)
    }
}

impl FromField for AckLevel {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<AckLevel, ConfigRefusal> {
        section.choice(field, kind)
    }
}

impl FromField for Fsync {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Fsync, ConfigRefusal> {
        section.choice(field, kind)
    }
}

impl FromField for LogLevel {
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<LogLevel, ConfigRefusal> {
        section.choice(field, kind)
    }
}

impl FromField for Vec<PeerConfig> {
    /// No peers without the field: a mesh of one.
    fn from_field(section: &mut Section, field: &str, kind: FieldKind) -> Result<Vec<PeerConfig>, ConfigRefusal> {
        let objects = section.objects(field, kind, PEER_EXPECTED)?;
        let peer = |(index, object)| {
            let mut peer = Section::new(format!("{field}[{index}]."), object, PEER_FIELDS)?;
            Ok(PeerConfig { id: NodeId::from_field(&mut peer, "id", NODE_ID)?, addr: String::from_field(&mut peer, "addr", PEER_ADDR)? })
        };
        objects.into_iter().enumerate().map(peer).collect()
    }
}
