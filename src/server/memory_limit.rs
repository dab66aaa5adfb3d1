//! `memory_max`: the bound on what the entries of a node may take.

use crate::server::shared::Services;
use crate::store::Memory;

/// Returns true if this node has reached `memory_max`.
///
/// A delete cannot be refused, and its tombstone stays for a while: tombstones may take half as
/// much besides before they count. So a node whose keys were all deleted takes new ones at once,
/// and yet no client can fill it with deletes.
pub(crate) fn is_full(services: &Services) -> bool {
    let (Memory { values, tombstones }, max) = (services.store.memory(), services.live.memory_max());
    max > 0 && values + tombstones.saturating_sub(max / 2) >= max
}

/// The reason that a client hears; what became of its request follows it.
pub(crate) fn why_full(services: &Services) -> String {
    let (Memory { values, tombstones }, max) = (services.store.memory(), services.live.memory_max());
    if tombstones <= max / 2 {
        return format!("the entries take {values} bytes and memory_max is {max}");
    }
    format!(
        "the entries take {values} bytes and tombstones of deleted keys {tombstones}; memory_max is {max}, and {} more for tombstones, which are kept for {} s at least (STATUS: tombstones_kept_s)",
        max / 2,
        services.config.tombstone_age_min.as_secs()
    )
}
