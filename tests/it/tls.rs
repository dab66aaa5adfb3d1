//! TLS on the client port: with certificates that fit, with others, and with other ends that do not
//! keep to the protocol.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kvmesh::client;
use kvmesh::net::tls::ClientIdentity;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use serde_json::{Value, json};

use crate::client::REPLY_TIMEOUT;
use crate::cluster::{Cluster, ClusterPlan, DEADLINE, until};
use crate::program::{self, Ended, is_there, run};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A cluster that is not started, with a CA and the certificates of its nodes in `certs`.
fn planned(size: u16) -> Cluster {
    planned_as(Cluster::plan(size))
}

/// Does what [`planned`] does, with other settings.
pub fn planned_as(plan: ClusterPlan) -> Cluster {
    let cluster = plan.build();
    let hosts = vec![cluster.ip().to_string(); cluster.ids().len()].join(",");
    let made = run(program::kvctl(&[cluster.client_addr(1)], &["certs", "init", "certs", "--nodes", &hosts]).current_dir(cluster.dir()));
    assert_eq!(made.code, Some(0), "{made:?}");
    cluster
}

/// The section `tls` of a node, with its own files.
pub fn section(id: u16, more: Value) -> Value {
    let mut section = json!({ "cert_file": format!("certs/node{id}.pem"), "key_file": format!("certs/node{id}.key") });
    for (field, value) in more.as_object().unwrap() {
        section[field] = value.clone();
    }
    section
}

/// One node with TLS for clients, which answers.
fn node_with(more: Value) -> Cluster {
    let mut cluster = planned(1);
    cluster.configure(1, "tls", section(1, more));
    start(&mut cluster, 1);
    cluster
}

/// Starts a node and waits until it is open, which without TLS only its log may tell.
fn start(cluster: &mut Cluster, id: u16) {
    cluster.start(id);
    until("an open node", DEADLINE, || {
        cluster.revive(id);
        if cluster.log_of_this_start(id).contains("open to clients") { Ok(()) } else { Err("it is not".into()) }
    });
}

/// `kvctl --tls` with this CA and further arguments, for node 1.
fn kvctl(cluster: &Cluster, ca: &str, args: &[&str]) -> Ended {
    let all = [&["--tls", "--ca", ca, "--timeout", "10"], args].concat();
    run(program::kvctl(&[cluster.client_addr(1)], &all).current_dir(cluster.dir()))
}

/// A TLS connection to node 1, by kvmesh's own client.
fn connected(cluster: &Cluster) -> client::Client {
    let identity = ClientIdentity::load(&cluster.dir().join("certs/ca.pem"), None).unwrap();
    client::Client::connect_with(&[cluster.client_addr(1).to_string()], REPLY_TIMEOUT, Some(&identity)).unwrap()
}

#[test]
fn clients_speak_tls_or_none_as_the_node_is_configured() {
    let cluster = node_with(json!({ "clients": "optional" }));
    assert_eq!(kvctl(&cluster, "certs/ca.pem", &["put", "a", "1"]).out, "OK\n");
    assert_eq!(kvctl(&cluster, "certs/ca.pem", &["get", "a"]).out, "1\n");
    assert_eq!(cluster.ask_line(1, "GET a"), "VALUE 1");

    drop(cluster);

    let required = node_with(json!({}));
    assert_eq!(kvctl(&required, "certs/ca.pem", &["put", "a", "1"]).out, "OK\n");
    let mut plain = required.client(1);
    plain.send("GET a\n").unwrap();
    let said = String::from_utf8(plain.rest().unwrap()).unwrap();
    assert!(said.starts_with("ERROR UNKNOWN this port takes TLS alone; closing"), "{said}");
    let mut plain = required.client(1);
    plain.send("*1\r\n$4\r\nPING\r\n").unwrap();
    let said = String::from_utf8(plain.rest().unwrap()).unwrap();
    assert!(said.starts_with("-ERR this port takes TLS alone; closing"), "{said}");
    required.await_log(1, &["client port: closed a connection from", "it does not speak TLS, which tls.clients requires"]);
    let plain = run(&mut program::kvctl(&[required.client_addr(1)], &["get", "a"]));
    assert!(plain.code == Some(1) && plain.err.contains("this port takes TLS alone"), "{plain:?}");
    drop(required);

    for more in [json!({ "clients": "off" }), Value::Null] {
        let mut cluster = planned(1);
        if !more.is_null() {
            cluster.configure(1, "tls", section(1, more));
        }
        cluster.start_ready(1);
        let refused = kvctl(&cluster, "certs/ca.pem", &["get", "a"]);
        assert!(
            refused.code == Some(3) && refused.err.contains("TLS: the other end has refused TLS: it speaks no TLS there"),
            "{refused:?}"
        );
        cluster.await_log(1, &["client port: closed a connection from", "it speaks TLS, and this node is configured without"]);
        assert_eq!(cluster.ask_line(1, "PING"), "PONG");
    }
}

/// Redis's own client, which brings OpenSSL.
#[test]
fn redis_cli_speaks_tls() {
    if !is_there("redis-cli", "redis-tools") {
        return;
    }
    let cluster = node_with(json!({}));
    let addr = cluster.client_addr(1);
    let redis_cli = |args: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "--tls", "--cacert", "certs/ca.pem"]);
        run(command.args(args).current_dir(cluster.dir()))
    };
    assert_eq!(redis_cli(&["SET", "greeting", "hello"]).out, "OK\n");
    assert_eq!(redis_cli(&["-3", "GET", "greeting"]).out, "hello\n");
    assert_eq!(kvctl(&cluster, "certs/ca.pem", &["get", "greeting"]).out, "hello\n");
}

/// A certificate for node 1 that another CA signs, or for other names, or at other times. `days`:
/// from when and until when it is valid, from today on.
fn replace_certificate(cluster: &Cluster, ca: &str, name: &str, days: (i64, i64)) {
    let epoch = date_time_ymd(1970, 1, 1);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / DAY.as_secs();
    let at = |days: i64| epoch + DAY * (today as i64 + days) as u32;
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, format!("test CA {ca}"));
    let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![match name.parse() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }];
    (params.not_before, params.not_after) = (at(days.0), at(days.1));
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let certs = cluster.dir().join("certs");
    write_pem(&certs.join(ca), "CERTIFICATE", authority_certificate.der());
    write_pem(&certs.join("node1.pem"), "CERTIFICATE", certificate.der());
    write_pem(&certs.join("node1.key"), "PRIVATE KEY", &key.serialize_der());
}

fn write_pem(path: &Path, label: &str, der: &[u8]) {
    fs::write(path, format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_certificate_that_does_not_fit_is_refused_with_the_reason_at_both_ends() {
    let mut cluster = planned(1);
    cluster.configure(1, "tls", section(1, json!({ "clients": "optional" })));
    let ip = cluster.ip().to_string();
    for (name, days, ca, said, logged) in [
        (
            ip.as_str(),
            (-9, 9),
            "ca.pem",
            "is signed by no CA that is trusted here",
            "it trusts no CA that has signed this end's certificate",
        ),
        (
            "other.example",
            (-9, 9),
            "good.pem",
            "is for other names than the address that was dialled",
            "it does not accept this end's certificate",
        ),
        (&ip, (-9, -2), "good.pem", "has expired", "this end's certificate has expired or is not valid yet"),
        (
            &ip,
            (2, 9),
            "good.pem",
            "is not valid yet, by the clock of this machine",
            "this end's certificate has expired or is not valid yet",
        ),
    ] {
        replace_certificate(&cluster, "good.pem", name, days);
        cluster.start_ready(1);
        let refused = kvctl(&cluster, &format!("certs/{ca}"), &["set", "a", "1"]);
        assert!(refused.code == Some(3) && refused.err.contains(&format!("TLS: the certificate of the other end {said}")), "{refused:?}");
        cluster.await_log(1, &["client port: closed a connection from", "the other end has refused TLS", logged]);
        // It ends soon, or has ended.
        cluster.await_log(1, &["this node's TLS certificate", "certs/node1.pem end"]);
        cluster.stop(1);
    }
    replace_certificate(&cluster, "good.pem", &ip, (-1, 300));
    cluster.start_ready(1);
    assert_eq!(kvctl(&cluster, "certs/good.pem", &["set", "a", "1"]).out, "OK\n");
    assert!(!cluster.log_of_this_start(1).contains("this node's TLS certificate"));
    assert_eq!(cluster.status(1).number("tls_certificate_days"), 300);
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let cluster = node_with(json!({ "ca_file": "certs/ca.pem", "client_certs": "required" }));
    let made = kvctl(&cluster, "certs/ca.pem", &["certs", "client", "certs", "--name", "alice"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let refused = kvctl(&cluster, "certs/ca.pem", &["set", "a", "1"]);
    assert!(refused.err.contains("the other end has refused TLS: it requires a certificate of this end"), "{refused:?}");
    assert_ne!(refused.code, Some(0));
    cluster.await_log(1, &["client port: closed a connection from", "the other end has shown no certificate, and one is required"]);
    let own = ["--cert", "certs/alice.pem", "--key", "certs/alice.key", "set", "a", "1"];
    assert_eq!(kvctl(&cluster, "certs/ca.pem", &own).out, "OK\n");
    // Signed by the CA of another cluster.
    for made in [&["init", "other", "--nodes", "a.example"][..], &["client", "other", "--name", "mallory"]] {
        let made = kvctl(&cluster, "certs/ca.pem", &[&["certs"], made].concat());
        assert_eq!(made.code, Some(0), "{made:?}");
    }
    let own = ["--cert", "other/mallory.pem", "--key", "other/mallory.key", "set", "b", "1"];
    let refused = kvctl(&cluster, "certs/ca.pem", &own);
    assert!(refused.code != Some(0) && refused.err.contains("the other end has refused TLS"), "{refused:?}");
}

#[test]
fn a_reload_takes_a_new_certificate_and_closes_no_connection() {
    let cluster = node_with(json!({ "clients": "optional" }));
    let mut before = connected(&cluster);
    assert_eq!(before.call(b"PUT a 1").unwrap(), b"OK");
    let ip = cluster.ip().to_string();
    replace_certificate(&cluster, "next.pem", &ip, (-1, 300));
    assert_eq!(kvctl(&cluster, "certs/ca.pem", &["get", "a"]).out, "1\n");
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied none", "needs_restart none"]);
    assert_eq!(kvctl(&cluster, "certs/next.pem", &["get", "a"]).out, "1\n");
    let refused = kvctl(&cluster, "certs/ca.pem", &["get", "a"]);
    assert!(refused.err.contains("is signed by no CA that is trusted here"), "{refused:?}");
    assert_eq!(before.call(b"GET a").unwrap(), b"VALUE 1");
    // Files that cannot be used change nothing.
    fs::write(cluster.dir().join("certs/node1.pem"), "no certificate").unwrap();
    let refused = cluster.ask_line(1, "RELOAD");
    assert!(refused.starts_with("ERROR BADCONFIG ") && refused.contains("tls: certs/node1.pem: holds no certificate"), "{refused}");
    assert_eq!(kvctl(&cluster, "certs/next.pem", &["get", "a"]).out, "1\n");
    // TLS can end, too.
    let config = fs::read_to_string(cluster.config_path(1)).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().remove("tls");
    fs::write(cluster.config_path(1), config.to_string()).unwrap();
    assert_eq!(cluster.ask(1, "RELOAD"), ["applied tls", "needs_restart none"]);
    assert_ne!(kvctl(&cluster, "certs/next.pem", &["get", "a"]).code, Some(0));
    assert_eq!(before.call(b"GET a").unwrap(), b"VALUE 1");
}

#[test]
fn a_certificate_stands_for_the_user_that_it_names() {
    let mut cluster = planned(1);
    cluster.configure(1, "tls", section(1, json!({ "ca_file": "certs/ca.pem", "client_certs": "optional" })));
    let secret = "0".repeat(64);
    cluster.configure(1, "users", json!([{ "name": "alice", "secret_sha256": secret, "role": "write", "keys": ["a:"] }]));
    start(&mut cluster, 1);
    for name in ["alice", "bob"] {
        let made = kvctl(&cluster, "certs/ca.pem", &["certs", "client", "certs", "--name", name]);
        assert_eq!(made.code, Some(0), "{made:?}");
    }
    let put = |name: &str, key: &str| {
        let (cert, key_file) = (format!("certs/{name}.pem"), format!("certs/{name}.key"));
        kvctl(&cluster, "certs/ca.pem", &["--cert", &cert, "--key", &key_file, "put", key, "1"])
    };
    assert_eq!(put("alice", "a:1").out, "OK\n");
    let beyond = put("alice", "b:1");
    assert!(beyond.code == Some(1) && beyond.err.contains("ERROR NOPERM"), "{beyond:?}");
    for refused in [put("bob", "a:2"), kvctl(&cluster, "certs/ca.pem", &["put", "a:3", "1"])] {
        assert!(refused.code == Some(1) && refused.err.contains("ERROR NOAUTH"), "{refused:?}");
    }
}

/// The beginning of a TLS connection, as kvctl sends it.
fn hello(cluster: &Cluster) -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let hello = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = vec![0; 5];
        stream.read_exact(&mut head).unwrap();
        let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut rest).unwrap();
        [head, rest].concat()
    });
    let ended = run(program::kvctl(&[addr], &["--tls", "--ca", "certs/ca.pem", "get", "a"]).current_dir(cluster.dir()));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    hello.join().unwrap()
}

#[test]
fn who_does_not_keep_to_the_protocol_is_closed_and_others_are_served() {
    let cluster = node_with(json!({ "clients": "optional" }));
    let hello = hello(&cluster);
    assert_eq!(hello[0], 0x16);
    // Half a handshake, in pieces, and then nothing.
    let mut half = TcpStream::connect(cluster.client_addr(1)).unwrap();
    half.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
    half.write_all(&hello[..3]).unwrap();
    half.write_all(&hello[3..hello.len() / 2]).unwrap();
    // Garbage behind a whole hello, and in its place.
    for bytes in [[hello.clone(), vec![0x17; 100]].concat(), [vec![0x16, 3, 3, 0xff, 0xff], vec![7; 70_000]].concat(), vec![0x16; 64]] {
        let mut garbage = TcpStream::connect(cluster.client_addr(1)).unwrap();
        garbage.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        let _ = garbage.write_all(&bytes);
        // Whatever comes, it ends.
        let _ = garbage.read_to_end(&mut Vec::new());
        assert_eq!(connected(&cluster).call(b"PING").unwrap(), b"PONG");
    }
    cluster.await_log(1, &["client port: closed a connection from"]);
    // Ten seconds after it came.
    let mut rest = Vec::new();
    half.read_to_end(&mut rest).unwrap();
    assert_eq!(connected(&cluster).call(b"PING").unwrap(), b"PONG");
}

#[test]
fn large_values_and_long_pipelines_pass_through_tls() {
    const LARGE_LEN: usize = 15 << 20;
    // A client that is slow on a busy machine is not given up.
    let mut cluster = planned(1);
    cluster.configure(1, "write_timeout_ms", 10_000);
    cluster.configure(1, "tls", section(1, json!({ "clients": "optional" })));
    cluster.start_ready(1);
    let mut client = connected(&cluster);
    let large = "x".repeat(LARGE_LEN);
    assert_eq!(client.call(format!("PUT large {large}").as_bytes()).unwrap(), b"OK");
    assert_eq!(client.call(b"GET large").unwrap().len(), "VALUE ".len() + LARGE_LEN);
    let lines: String = (0..20_000).map(|key| format!("PUT k{key} {key}\nGET k{key}\n")).collect();
    client.send(lines.as_bytes()).unwrap();
    for key in 0..20_000 {
        assert_eq!(client.line().unwrap(), b"OK");
        assert_eq!(client.line().unwrap(), format!("VALUE {key}").as_bytes());
    }
    let backup = kvctl(&cluster, "certs/ca.pem", &["backup", "backup.jsonl"]);
    assert_eq!(backup.code, Some(0), "{backup:?}");
    let restored = kvctl(&cluster, "certs/ca.pem", &["restore", "backup.jsonl"]);
    assert!(restored.code == Some(0) && restored.out.contains("covered 20001"), "{restored:?}");
    // A long report, and a client that was idle.
    assert!(client.call_report(b"STATUS").unwrap().len() > 10);
    assert!(!client.is_closed());
}

/// Its requests and the replies to them exceed the buffers between the two.
#[test]
fn who_sends_everything_before_reading_anything_is_served_over_tls() {
    const LARGE_LEN: usize = 15 << 20;
    let mut cluster = planned(1);
    cluster.configure(1, "write_timeout_ms", 10_000);
    cluster.configure(1, "tls", section(1, json!({ "clients": "optional" })));
    cluster.start_ready(1);
    let large = "x".repeat(LARGE_LEN);
    let mut client = connected(&cluster);
    assert_eq!(client.call(format!("PUT large {large}").as_bytes()).unwrap(), b"OK");
    client.send(format!("GET large\nPUT other {large}\nEXISTS other\n").as_bytes()).unwrap();
    assert_eq!(client.line().unwrap().len(), "VALUE ".len() + LARGE_LEN);
    assert_eq!(client.line().unwrap(), b"OK");
    assert_eq!(client.line().unwrap(), b"1");
}

#[test]
fn a_client_that_reads_nothing_over_tls_is_closed() {
    let cluster = node_with(json!({ "clients": "optional" }));
    let mut client = connected(&cluster);
    assert_eq!(client.call(format!("PUT big {}", "x".repeat(8 << 20)).as_bytes()).unwrap(), b"OK");
    client.send("GET big\n".repeat(16).as_bytes()).unwrap();
    cluster.await_log(1, &["is closed: it has taken none of its replies for 1s"]);
    assert_eq!(connected(&cluster).call(b"PING").unwrap(), b"PONG");
}

#[test]
fn files_that_cannot_be_used_are_named_and_the_node_does_not_start() {
    let mut cluster = planned(2);
    cluster.configure(1, "tls", section(1, json!({ "ca_file": "certs/ca.pem", "client_certs": "optional" })));
    let certs = cluster.dir().join("certs");
    let good: Vec<_> = ["node1.pem", "node1.key", "ca.pem"].map(|name| (certs.join(name), fs::read(certs.join(name)).unwrap())).into();
    let node2 = |name: &str| fs::read(certs.join(name)).unwrap();
    for (file, bytes, mode, words) in [
        ("node1.key", None, 0o644, "others than its owner may use this private key (mode 0644); chmod 600 certs/node1.key"),
        ("node1.key", Some(node2("node2.key")), 0o600, "is not the private key of the first certificate in certs/node1.pem"),
        ("node1.key", Some(b"no key".to_vec()), 0o600, "holds no private key; expected one in PEM"),
        ("node1.pem", Some(b"no certificate".to_vec()), 0o600, "holds no certificate; expected one in PEM"),
        ("ca.pem", Some(node2("ca.key")), 0o600, "holds no certificate; expected one in PEM"),
    ] {
        if let Some(bytes) = bytes {
            fs::write(certs.join(file), bytes).unwrap();
        }
        fs::set_permissions(certs.join(file), Permissions::from_mode(mode)).unwrap();
        cluster.start(1);
        let reason = cluster.await_refused(1, 2);
        assert!(reason.starts_with(&format!("tls: certs/{file}: ")) && reason.contains(words), "{reason}");
        good.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        fs::set_permissions(certs.join(file), Permissions::from_mode(0o600)).unwrap();
    }
    fs::remove_file(certs.join("node1.pem")).unwrap();
    cluster.start(1);
    let reason = cluster.await_refused(1, 2);
    assert!(reason.starts_with("tls: certs/node1.pem: cannot be read: No such file"), "{reason}");
}

#[test]
fn certificates_are_made_for_their_owner_alone_and_never_overwritten() {
    let cluster = planned(2);
    let certs = cluster.dir().join("certs");
    let files = ["ca", "node1", "node2"].map(|name| (certs.join(format!("{name}.pem")), certs.join(format!("{name}.key"))));
    let before: Vec<_> = files.iter().map(|(_, key)| fs::read(key).unwrap()).collect();
    for (_, key) in &files {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o7777, 0o600, "{key:?}");
    }
    assert_eq!(fs::metadata(&certs).unwrap().permissions().mode() & 0o7777, 0o700);
    let again =
        run(program::kvctl(&[cluster.client_addr(1)], &["certs", "init", "certs", "--nodes", "a.example"]).current_dir(cluster.dir()));
    assert!(again.code == Some(2) && again.err.contains("certs/ca.pem is there already, and nothing is overwritten"), "{again:?}");
    assert!(files.iter().map(|(_, key)| fs::read(key).unwrap()).eq(before));
    for (args, words) in [
        (&["certs", "init", "new", "--nodes", "a b"][..], "is no host"),
        (&["certs", "client", "certs", "--name", "../x"], "expected 1 to 64 letters"),
        (&["certs", "client", "nowhere", "--name", "x"], "nowhere/ca.key: cannot be read"),
        (&["--ca", "certs/ca.pem", "ping"], "--ca is for TLS; expected --tls beside it"),
        (&["--tls", "ping"], "--tls needs --ca FILE"),
        (&["--tls", "--ca", "certs/ca.pem", "--cert", "certs/node1.pem", "ping"], "--cert FILE and --key FILE go together"),
        (&["--tls", "--ca", "certs/ca.key", "ping"], "certs/ca.key: holds no certificate"),
    ] {
        let refused = run(program::kvctl(&[cluster.client_addr(1)], args).current_dir(cluster.dir()));
        assert!(refused.code == Some(2) && refused.err.contains(words), "{args:?}: {refused:?}");
    }
}
