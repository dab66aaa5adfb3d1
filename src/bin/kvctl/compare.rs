//! `kvctl converge` and `kvctl diff`: do several nodes hold the same data, and if not, which keys
//! differ?

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use rapidhash::v3::rapidhash_v3;
use serde_json::{Map, Value, json};

use kvmesh::client::{self, Client, as_digest, unexpected};
use kvmesh::data::clock;
use kvmesh::data::version::{Version, VersionVector};
use kvmesh::wire::dump::{DumpReader, Line};
use kvmesh::wire::quoting;

use crate::credentials::explained;
use crate::json::put_bytes;
use crate::terminal::{TerminalOut, print_lines};
use crate::{Code, Failure, Options};

/// The pause between two looks at the nodes.
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Keys that expire within this time are ignored: the nodes are asked one after the other, and
/// their clocks differ a little.
const EXPIRES_SOON: Duration = Duration::from_secs(10);

/// Waits until every node shows the same version vector and the same digest.
pub fn converge(options: &Options, timeout: Duration) -> Result<(), Failure> {
    several(options, "converge")?;
    let begun = Instant::now();
    let deadline = begun + timeout;
    let mut watched: Vec<ComparedNode<'_>> =
        options.nodes.iter().map(|addr| ComparedNode { addr, client: None, seen: Err("not asked yet".to_string()) }).collect();
    loop {
        // One time for all of them.
        let before = soon_ms();
        for node in &mut watched {
            let left = deadline.saturating_duration_since(Instant::now()).max(POLL_PAUSE);
            node.look(options, options.timeout.min(left), before);
        }
        if let Some(same) = agreed(&watched) {
            return report_agreed(options, same, begun.elapsed());
        }
        if Instant::now() >= deadline {
            let code = if watched.iter().all(|node| node.seen.is_err()) { Code::NoConnection } else { Code::Refused };
            return Err(Failure::new(code, format_args!("the nodes differ after {timeout:?}\n{}", differences(&watched))));
        }
        #[expect(clippy::disallowed_methods, reason = "nothing else is to be done, and Ctrl-C ends the process")]
        std::thread::sleep(POLL_PAUSE);
    }
}

/// One node, with a connection that is kept between looks.
struct ComparedNode<'a> {
    addr: &'a str,
    client: Option<Client>,
    /// The result of the last look, or why there is none.
    seen: Result<Observed, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Observed {
    vector: VersionVector,
    digest: String,
    keys: u64,
}

impl ComparedNode<'_> {
    fn look(&mut self, options: &Options, timeout: Duration, before: u64) {
        self.seen = self.try_look(options, timeout, before).map_err(|error| explained(error).to_string());
        if self.seen.is_err() {
            self.client = None;
        }
    }

    fn try_look(&mut self, options: &Options, timeout: Duration, before: u64) -> Result<Observed, client::Error> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(options.connect_to(self.addr, timeout)?),
        };
        let status = client.call_report(b"STATUS")?;
        let line = status.iter().find(|line| line.starts_with("vector "));
        let line = line.ok_or_else(|| client::Error::Garbled("STATUS showed no vector".to_string()))?;
        let vector = line.strip_prefix("vector ").and_then(|json| serde_json::from_str(json).ok());
        let vector = vector.ok_or_else(|| unexpected(line.as_bytes(), "vector <json object>"))?;
        let (digest, keys) = as_digest(client.call(format!("DIGEST {before}").as_bytes())?)?;
        Ok(Observed { vector, digest, keys })
    }
}

fn soon_ms() -> u64 {
    clock::wall_ms() + EXPIRES_SOON.as_millis() as u64
}

/// The state that all nodes show, if it is the same.
fn agreed<'a>(watched: &'a [ComparedNode<'_>]) -> Option<&'a Observed> {
    let first = watched.first()?.seen.as_ref().ok()?;
    watched.iter().all(|node| node.seen.as_ref() == Ok(first)).then_some(first)
}

fn report_agreed(options: &Options, same: &Observed, took: Duration) -> Result<(), Failure> {
    let Observed { digest, keys, .. } = same;
    let nodes = options.nodes.len();
    let line = format!("converged: {nodes} nodes, {keys} keys, digest {digest}");
    let json = json!({ "converged": true, "nodes": nodes, "digest": digest, "keys": keys, "seconds": took.as_secs_f64() });
    Ok(print_lines(options.json, &[line], &json)?)
}

/// Prints a line for each node. A version vector is shown by the writes that it lacks of the
/// others.
fn differences(watched: &[ComparedNode<'_>]) -> String {
    let mut newest = VersionVector::default();
    for seen in watched.iter().filter_map(|node| node.seen.as_ref().ok()) {
        newest.join(&seen.vector);
    }
    let one = |node: &ComparedNode<'_>| match &node.seen {
        Err(reason) => format!("  {}: {reason}", node.addr),
        Ok(seen) => {
            let lacks: Vec<String> = newest.ahead_of(&seen.vector).iter().map(|(origin, _)| origin.to_string()).collect();
            let lacks = if lacks.is_empty() { "lacks no writes".to_string() } else { format!("lacks writes of {}", lacks.join(", ")) };
            format!("  {}: digest and keys {} {}, {lacks}", node.addr, seen.digest, seen.keys)
        }
    };
    watched.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Prints every key of which not all nodes show the same live version and value.
pub fn diff(options: &Options) -> Result<(), Failure> {
    several(options, "diff")?;
    let keys = differing_keys(options)?;
    let mut out = TerminalOut::stdout(options.json);
    for (key, held) in &keys {
        let on_nodes = options.nodes.iter().zip(held).map(|(addr, held)| match held {
            None => format!("  {addr} none"),
            Some(held) => format!("  {addr} {held}"),
        });
        let line = quoting::quoted(key) + &on_nodes.collect::<String>();
        out.write_lines(options.json, &[line], &difference_json(&options.nodes, key, held))?;
    }
    out.flush()?;
    match keys.len() {
        0 => Ok(()),
        1 => Err(Failure::new(Code::Refused, "the nodes differ on 1 key")),
        differing => Err(Failure::new(Code::Refused, format_args!("the nodes differ on {differing} keys"))),
    }
}

/// Each node's version of a key, in the order of the nodes.
type VersionsByKey = BTreeMap<Box<[u8]>, Vec<Option<LiveVersion>>>;

/// Returns every key that is not the same on all nodes, with the version of each.
fn differing_keys(options: &Options) -> Result<VersionsByKey, client::Error> {
    // Values are kept as a hash: that is a hundred-odd bytes for each key and node, whatever the
    // size of the values.
    let mut keys = VersionsByKey::new();
    let soon = soon_ms();
    for (index, addr) in options.nodes.iter().enumerate() {
        read_dump(options, addr, |entry| {
            if let Some(value) = entry.value().filter(|_| entry.is_live(|| soon)) {
                let held = LiveVersion { version: entry.version(), len: value.len(), hash: rapidhash_v3(value) };
                keys.entry(entry.key()[..].into()).or_insert_with(|| vec![None; options.nodes.len()])[index] = Some(held);
            }
        })?;
    }
    keys.retain(|_, held| held.iter().any(|one| *one != held[0]));
    Ok(keys)
}

/// The version of a live entry on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LiveVersion {
    version: Version,
    len: usize,
    /// `rapidhash_v3` of the value.
    hash: u64,
}

impl std::fmt::Display for LiveVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} ({} bytes, {:016x})", self.version.stamp, self.version.origin, self.len, self.hash)
    }
}

fn difference_json(nodes: &[String], key: &[u8], held: &[Option<LiveVersion>]) -> Value {
    let one = |held: &LiveVersion| json!({ "s": held.version.stamp, "o": held.version.origin, "len": held.len, "hash": format!("{:016x}", held.hash) });
    let mut object = Map::new();
    put_bytes(&mut object, "k", key);
    let nodes: Map<String, Value> = nodes.iter().cloned().zip(held.iter().map(|held| held.as_ref().map_or(Value::Null, one))).collect();
    object.insert("nodes".to_string(), nodes.into());
    Value::Object(object)
}

/// Reads one node's dump to its end line, which must be there and correct: half a dump would show
/// keys as missing.
fn read_dump(options: &Options, addr: &str, mut each: impl FnMut(&kvmesh::data::entry::Entry)) -> Result<(), client::Error> {
    let in_dump = |error: String| client::Error::Garbled(format!("{addr}: {error}"));
    let mut reader = DumpReader::default();
    options.connect_to(addr, options.timeout)?.call_lines::<client::Error>(b"DUMP", |line| {
        if let Line::Entry(entry) = reader.line(line).map_err(in_dump)? {
            each(&entry);
        }
        Ok(())
    })?;
    reader.finish().map_err(in_dump)
}

fn several(options: &Options, verb: &str) -> Result<(), Failure> {
    match options.nodes.len() {
        0 | 1 => Err(Failure::new(
            Code::Usage,
            format_args!(
                "{verb} compares nodes and needs the addresses of several: kvctl -n 127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003 {verb}"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_node::{options, scripted};
    use kvmesh::data::clock::Stamp;
    use kvmesh::data::entry::Entry;
    use kvmesh::data::version::{NodeId, Origin};
    use kvmesh::wire::dump::{DumpKind, Header, whole_dump};

    const ORIGIN: Origin = Origin { node: NodeId(1), nonce: 7 };

    /// Returns what DUMP prints of these entries.
    fn dump_of(entries: &[(&str, Option<&str>, u64)]) -> String {
        let entries = entries.iter().map(|(key, value, stamp)| {
            let version = Version { stamp: Stamp::from_bits(*stamp), origin: ORIGIN };
            Entry::new(key.as_bytes(), value.map(str::as_bytes), None, version)
        });
        let header = Header::new(DumpKind::Full, ORIGIN, VersionVector::default(), 0, None);
        String::from_utf8(whole_dump(&header, entries, VersionVector::default())).unwrap()
    }

    fn dumping(dump: &str) -> String {
        scripted(&[("DUMP", &format!("{dump}END\n"))])
    }

    #[test]
    fn keys_differ_by_value_by_version_or_by_being_there() {
        let one = dumping(&dump_of(&[("same", Some("1"), 1), ("value", Some("a"), 2), ("only one", Some("x"), 3), ("gone", None, 4)]));
        let two = dumping(&dump_of(&[("same", Some("1"), 1), ("value", Some("b"), 5), ("later", Some("y"), 6)]));
        let differing = differing_keys(&options(&[&one, &two])).unwrap();
        let there: Vec<(&[u8], Vec<bool>)> =
            differing.iter().map(|(key, held)| (&key[..], held.iter().map(Option::is_some).collect())).collect();
        assert_eq!(there, [(&b"later"[..], vec![false, true]), (b"only one", vec![true, false]), (b"value", vec![true, true])]);
        assert!(differing_keys(&options(&[&one, &one])).unwrap().is_empty());
    }

    #[test]
    fn a_dump_that_is_not_whole_is_no_answer() {
        let whole = dump_of(&[("a", Some("1"), 1), ("b", Some("2"), 2)]);
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let without = |left_out: usize| (0..lines.len()).filter(|index| *index != left_out).map(|index| lines[index]).collect::<String>();
        assert!(read_dump(&options(&[]), &dumping(&whole), |_| {}).is_ok());
        for left_out in 0..lines.len() {
            let read = read_dump(&options(&[]), &dumping(&without(left_out)), |_| {});
            assert!(matches!(read, Err(client::Error::Garbled(_))), "{left_out}: {read:?}");
        }
        // The connection breaks between two lines.
        let broken = scripted(&[("DUMP", lines[0])]);
        let hasty = Options { timeout: Duration::from_millis(100), ..options(&[]) };
        assert!(matches!(read_dump(&hasty, &broken, |_| {}), Err(client::Error::Unknown(_))));
    }

    fn showing(vector: &str, digest: &str) -> String {
        scripted(&[("STATUS", &format!("node 1\nvector {vector}\nEND\n")), ("DIGEST *", &format!("DIGEST {digest}\n"))])
    }

    #[test]
    fn nodes_have_converged_when_vectors_and_digests_are_equal() {
        let wait = |nodes: &[&str]| converge(&options(nodes), Duration::from_millis(120)).map_err(|failure| (failure.code, failure.text));
        let (one, two) = (r#"{"1-0000000000000007":"5"}"#, r#"{"1-0000000000000007":"6"}"#);
        let (a, b) = (showing(one, "00ff 3"), showing(one, "00ff 3"));
        assert_eq!(wait(&[&a, &b]), Ok(()));

        let behind = showing(two, "00ff 3");
        let (code, text) = wait(&[&a, &behind]).unwrap_err();
        assert_eq!(code, Code::Refused);
        assert!(text.contains(&format!("{a}: digest and keys 00ff 3, lacks writes of 1-0000000000000007")), "{text}");
        assert!(text.contains(&format!("{behind}: digest and keys 00ff 3, lacks no writes")), "{text}");

        let other = showing(one, "00fe 3");
        assert_eq!(wait(&[&a, &other]).unwrap_err().0, Code::Refused);
        let gone = crate::scripted_node::deserted();
        let (code, text) = wait(&[&a, &gone]).unwrap_err();
        assert!(code == Code::Refused && text.contains(&gone), "{text}");
        assert_eq!(wait(&[&gone, &gone]).unwrap_err().0, Code::NoConnection);
        assert_eq!(wait(&[&a]).unwrap_err().0, Code::Usage);
    }
}
