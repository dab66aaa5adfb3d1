//! The handshake of two nodes: what a HELLO says, and which HELLOs are refused.

use std::sync::atomic::Ordering;

use crate::config::MEMBERS_MAX;
use crate::data::clock::Now;
use crate::data::version::{Origin, VersionVector};
use crate::replication::agreed_limits::limits_of;
use crate::replication::replica::Replica;
use crate::replication::stamps;
use crate::wire::peer::{Hello, Protocol};
use crate::wire::quoting::shown;

/// Entries that a peer's version vector may have, together with those that are known here. That
/// many fit into a HELLO, generously counted. A vector beyond this is refused.
pub(in crate::replication) const VECTOR_LEN_MAX: usize = 20_000;

/// Builds this node's HELLO, the first message of a connection in either direction.
pub fn hello(replica: &Replica, now: Now) -> Hello {
    Hello {
        cluster: replica.config.cluster.clone(),
        protocol: replica.protocols.min,
        protocols: Some(replica.protocols),
        node: replica.config.id,
        origin: replica.origin,
        members: replica.config.members(),
        wall_ms: now.wall_ms,
        clocks: Some(replica.clock.read(now.elapsed)),
        durable: replica.acks.durable_upto().is_some(),
        vector: replica.vector(),
        order: replica.scan_order.get(),
        limits: Some(limits_of(&replica.config)),
        challenge: None,
    }
}

/// Checks a HELLO. Returns the peer's index in the configuration and the protocol to speak. An
/// error says why the HELLO is refused.
pub fn check_hello(replica: &Replica, hello: &Hello, now: Now) -> Result<(usize, Protocol), String> {
    let id = replica.config.id;
    if hello.cluster != replica.config.cluster {
        return Err(format!("this is cluster \"{}\", not {}", replica.config.cluster, shown(hello.cluster.as_bytes())));
    }
    let protocol = replica.protocols.common(hello.spoken()).ok_or_else(|| no_common_protocol(replica, hello))?;
    if hello.node == id {
        return Err(format!("this is node {id} itself, or another process with its id: check the addresses and ids in the configurations"));
    }
    let peer = replica.config.peers.iter().position(|peer| peer.id == hello.node);
    let peer = peer.ok_or_else(|| format!("node {id} has no node {} in its configuration", hello.node))?;
    if hello.origin.node != hello.node {
        return Err(format!("node {} with an origin of node {}", hello.node, hello.origin.node));
    }
    if hello.origin.is_all_incarnations() {
        return Err(format!("node {} with the origin {}, which stands for all of its incarnations", hello.node, hello.origin));
    }
    if hello.spoken().max < Protocol::FOLDED && replica.coverage.has_folded() {
        return Err(format!(
            "incarnations are folded here, which the build of node {} does not know of (it speaks peer protocol {}, and {} brings it): upgrade it",
            hello.node,
            hello.spoken(),
            Protocol::FOLDED
        ));
    }
    if hello.members.len() > MEMBERS_MAX {
        return Err(format!("node {} lists {} members, and a mesh has at most {MEMBERS_MAX}", hello.node, hello.members.len()));
    }
    if !hello.members.contains(&id) {
        return Err(format!("node {} has no node {id} in its configuration", hello.node));
    }
    stamps::check_clock(replica, peer, hello.clocks, hello.wall_ms, true, now)?;
    check_vector(replica, &hello.vector, now)?;
    Ok((peer, protocol))
}

/// Checks that a peer's vector may be joined with what is known here: how far ahead it is, and how
/// many entries the two have together.
pub(in crate::replication) fn check_vector(replica: &Replica, vector: &VersionVector, now: Now) -> Result<(), String> {
    stamps::check_stamp(replica, vector.greatest(), now)?;
    if replica.coverage.len() + vector.len() < VECTOR_LEN_MAX {
        return Ok(());
    }
    // A cluster that is beyond the bound already goes on, and so do the present incarnations of its
    // members.
    let mut joined = replica.vector();
    let goes_on = joined.len() + MEMBERS_MAX;
    joined.join(vector);
    if joined.len() > VECTOR_LEN_MAX.max(goes_on) {
        let (theirs, all) = (vector.len(), joined.len());
        return Err(format!(
            "a version vector of {theirs} entries, which makes {all} together with this node's; at most {VECTOR_LEN_MAX} are allowed"
        ));
    }
    Ok(())
}

fn no_common_protocol(replica: &Replica, hello: &Hello) -> String {
    let (id, peer) = (replica.config.id, hello.node);
    let (ours, theirs) = (replica.protocols, hello.spoken());
    let (older, from, to) = if ours.max < theirs.min { (id, ours.max, theirs.min) } else { (peer, theirs.max, ours.min) };
    format!(
        "node {id} speaks peer protocol {ours}, and node {peer} speaks {theirs}: none in common. Node {older} runs the older build: upgrade by way of a \
         build that speaks both {from} and {to}"
    )
}

/// Opens the outbox for a dial. Batches are queued from here on, and the HELLO that is sent next
/// says from where.
pub fn dialing(replica: &Replica, peer: usize) {
    replica.links.outbox(peer).open();
}

/// Notes that the peer has answered the dial with a good HELLO.
pub fn dialed(replica: &Replica, peer: usize, hello: &Hello, now: Now) {
    greeted(replica, hello, now);
    replica.decide(now, |table| {
        table.peers[peer].spoken = hello.spoken().max;
        table.linked_out(peer, true, now);
    });
}

/// Notes whether the peer has proven who it is, on its connection to this node.
pub fn authenticated_in(replica: &Replica, peer: usize, is_proven: bool) {
    replica.peers.table().peers[peer].is_proven_in = is_proven;
}

/// Notes whether the peer has proven who it is, on this node's connection to it.
pub fn authenticated_out(replica: &Replica, peer: usize, is_proven: bool) {
    replica.peers.table().peers[peer].is_proven_out = is_proven;
}

/// Takes note of what a good HELLO says beside who sends it: clocks, earlier incarnations of this
/// node, limits, the scan order.
pub(in crate::replication) fn greeted(replica: &Replica, hello: &Hello, now: Now) {
    stamps::observe(replica, hello.vector.greatest(), now);
    stamps::observe_clocks(replica, hello.clocks, now);
    note_earlier_incarnations(replica, hello);
    note_limits(replica, hello, now);
    replica.learn_scan_order(hello.order);
}

/// Notes that a heartbeat is under way which ends at byte `len` of the outgoing connection.
pub fn awaits_echo(replica: &Replica, peer: usize, len: u64) {
    replica.peers.table().peers[peer].liveness.await_echo(len);
}

/// Notes that the outgoing connection has ended, or was not made.
pub fn hung_up(replica: &Replica, peer: usize, now: Now) {
    replica.links.outbox(peer).close();
    replica.decide(now, |table| table.linked_out(peer, false, now));
}

/// Notes that the disk is blank although the operator has not asked for that. A peer may know
/// whether there should have been something.
pub fn suspect_blank_disk(replica: &Replica) {
    replica.is_unexpectedly_blank.store(true, Ordering::Release);
}

/// Takes note of how long keys and values are that a peer takes. Warns if that is something else
/// than here, whenever the peer says something new.
fn note_limits(replica: &Replica, hello: &Hello, now: Now) {
    let own = limits_of(&replica.config);
    let is_new = {
        let mut table = replica.peers.table();
        let peer = table.peers.iter_mut().find(|peer| peer.id == hello.node);
        let is_new = peer.is_some_and(|peer| std::mem::replace(&mut peer.limits, hello.limits) != hello.limits);
        replica.agreed_limits.agree(own, table.peers.iter().filter_map(|peer| peer.limits));
        is_new
    };
    if is_new
        && let Some(theirs) = hello.limits.filter(|theirs| *theirs != own)
        && let Some(more) = replica.log_limit.admit("limits", hello.node.0, now.elapsed)
    {
        log::warn!(
            "limits differ from those of node {}: it takes keys of {} bytes and values of {}, and this node of {} and {}; set key_len_max and value_len_max equal on all members: \
             until then clients are held to the least{more}",
            hello.node,
            theirs.key_len_max,
            theirs.value_len_max,
            own.key_len_max,
            own.value_len_max
        );
    }
}

/// Warns once that the directory may be the wrong one, or have been lost: a peer knows of earlier
/// incarnations of this node, which its blank disk does not know.
fn note_earlier_incarnations(replica: &Replica, hello: &Hello) {
    if !replica.is_unexpectedly_blank.load(Ordering::Acquire) {
        return;
    }
    let is_earlier = |origin: Origin| origin.node == replica.config.id && origin != replica.origin;
    let earlier = hello.vector.iter().filter(|(origin, _)| is_earlier(*origin)).count();
    if earlier > 0 && replica.is_unexpectedly_blank.swap(false, Ordering::AcqRel) {
        log::warn!(
            "this node starts blank, but node {} knows what it wrote in {earlier} earlier incarnations: if its disk was not replaced, look whether data_dir {} is the right \
             directory. It takes everything from its peers; what only it had is not there",
            hello.node,
            replica.config.data_dir.display()
        );
    }
}
