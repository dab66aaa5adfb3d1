//! Events among the peers, to be logged once the table's lock is released.

use std::fmt;

use log::Level;

use crate::data::version::NodeId;

/// Something that an operator wants to read about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Up(NodeId),
    Down(NodeId, &'static str),
    /// Two processes with the id of this peer take each other's place.
    Contested(NodeId),
    Opened {
        degraded: bool,
        caught_up: Vec<NodeId>,
        missing: Vec<NodeId>,
    },
    /// A node that opened degraded has caught up with a majority.
    Whole,
    Asked {
        node: NodeId,
        why: &'static str,
    },
    /// The dump of this peer was given up.
    Stalled(NodeId),
}

impl Event {
    pub fn level(&self) -> Level {
        match self {
            Event::Contested(_) => Level::Error,
            Event::Down(..) | Event::Stalled(_) | Event::Opened { degraded: true, .. } => Level::Warn,
            Event::Up(_) | Event::Opened { .. } | Event::Whole | Event::Asked { .. } => Level::Info,
        }
    }

    /// A name for events that differ only in their numbers and words, and the node that the event
    /// is about. Lines of one kind are limited in number.
    pub fn kind(&self) -> (&'static str, Option<NodeId>) {
        match self {
            Event::Up(node) => ("up", Some(*node)),
            Event::Down(node, _) => ("down", Some(*node)),
            Event::Contested(node) => ("contested", Some(*node)),
            Event::Opened { .. } => ("opened", None),
            Event::Whole => ("whole", None),
            Event::Asked { node, .. } => ("asked", Some(*node)),
            Event::Stalled(node) => ("stalled", Some(*node)),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Up(node) => write!(f, "node {node} is up"),
            Event::Down(node, why) => write!(f, "node {node} is down: {why}"),
            Event::Contested(node) => {
                write!(f, "two processes keep replacing each other as node {node}: check the ids in their configurations, and stop one")
            }
            Event::Opened { degraded: false, caught_up, missing } if missing.is_empty() => {
                write!(f, "open to clients; caught up with {}", names(caught_up))
            }
            Event::Opened { degraded: false, caught_up, missing } => {
                write!(f, "open to clients; caught up with {}, without hearing from {}", names(caught_up), names(missing))
            }
            Event::Opened { degraded: true, missing, .. } => write!(
                f,
                "open to clients, DEGRADED: this is less than a majority; not caught up with {}, whose writes may be missing here",
                names(missing)
            ),
            Event::Whole => f.write_str("no longer degraded: caught up with a majority"),
            Event::Asked { node, why } => write!(f, "asking node {node} for a dump: {why}"),
            Event::Stalled(node) => write!(f, "the dump from node {node} makes no progress; given up, to be asked for again"),
        }
    }
}

/// "node 2", "nodes 2 and 3", "nobody".
pub fn names(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "nobody".to_owned(),
        [one] => format!("node {one}"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(NodeId::to_string).collect();
            format!("nodes {} and {last}", first.join(", "))
        }
    }
}
