//! Entries of any kind, for laws that hold of all of them.

use proptest::prelude::*;

use crate::data::clock::Stamp;
use crate::data::entry::{Entry, Expiry};
use crate::data::version::{NodeId, Origin, Version};

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..20), any::<String>().prop_map(String::into_bytes)]
}

pub fn any_entry() -> impl Strategy<Value = Entry> {
    let fields = (any_bytes(), prop::option::of(any_bytes()), prop::option::of(1..u64::MAX), any::<u64>(), 1..5u16, any::<u64>());
    fields.prop_map(|(key, value, expires, stamp, node, nonce)| {
        let version = Version { stamp: Stamp::from_bits(stamp), origin: Origin { node: NodeId(node), nonce } };
        Entry::new(&key, value.as_deref(), expires.map(Expiry::from_wall_ms), version)
    })
}
