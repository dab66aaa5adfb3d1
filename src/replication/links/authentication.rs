//! How two peers prove to each other who they are, before anything of either is believed.
//!
//! Both know the secret of the cluster, and neither sends it. Each sends a nonce, and makes a
//! message authentication code (HMAC-SHA-256) over both nonces, both ids and the HELLOs:
//!
//! ```text
//!  dialler                                       acceptor
//!     │ CHALLENGE node, nonce                       │   or HELLO with a nonce in it, for builds
//!     │ ──────────────────────────────────────────▶ │   and nodes that prove nothing
//!     │        CHALLENGE node, nonce, MACs          │
//!     │ ◀────────────────────────────────────────── │   the acceptor has proven who it is
//!     │ AUTHENTICATED HELLO: MAC, HELLO             │
//!     │ ──────────────────────────────────────────▶ │   the dialler has
//!     │        AUTHENTICATED HELLO: MAC, HELLO      │
//!     │ ◀────────────────────────────────────────── │   over both HELLOs
//! ```
//!
//! Values in, values out: who has proven what is a type, and the next step cannot be taken from
//! another one. Never reads a socket. What follows the handshake is neither encrypted nor
//! protected: whoever can change bytes on the way can still do so.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::config::{PeerAuth, PeerSecrets};
use crate::data::version::NodeId;
use crate::testing::broken_rules::BrokenRule;
use crate::wire::challenge::{AuthenticatedHello, Challenge, Mac, Nonce};
use crate::wire::peer::{Hello, Message};

/// Stands in front of everything that a MAC is made over. Another way to make one has another.
const LABEL: &[u8] = b"kvmesh peer authentication 1";

/// MACs of a challenge that are looked at. No node has more secrets.
const MACS_MAX: usize = 2;

/// The refusal of a peer that proves nothing. It says nothing of this node.
pub const UNPROVEN: &str =
    "peers prove here who they are (peer_auth is \"required\"), and this one does not: give it the peer_secret_file of its cluster";

/// The refusal of a peer whose proof is wrong.
pub const WRONG: &str = "its proof is wrong: the two nodes have no secret in common (peer_secret_file)";

/// The refusal of a peer that asks this node for a proof, when this node has no secret.
pub const NO_SECRET: &str =
    "nothing is proven here (peer_auth is \"off\"): give this node a peer_secret_file, or let the other one take peer_auth \"accept\"";

/// The purpose of a MAC. None is good for another one: sent back to who made it, or put in the
/// place of a later one.
#[derive(Clone, Copy)]
enum Purpose {
    /// The acceptor knows the secret.
    Challenge = 1,
    /// The dialler knows the secret, and this is its HELLO.
    DialerHello = 2,
    /// This is the acceptor's HELLO, the answer to that of the dialler.
    AcceptorHello = 3,
}

/// The ids and nonces that every MAC of a connection is bound to.
#[derive(Clone, Copy)]
struct Binding {
    dialer: NodeId,
    acceptor: NodeId,
    dialer_nonce: Nonce,
    acceptor_nonce: Nonce,
}

impl Binding {
    /// Everything is of one length but the HELLOs, whose lengths stand before them.
    fn code(&self, secret: &[u8], purpose: Purpose, hellos: &[&[u8]]) -> Hmac<Sha256> {
        // A key of any length is a key.
        let mut code = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
        code.update(LABEL);
        code.update(&[purpose as u8]);
        code.update(&self.dialer.0.to_le_bytes());
        code.update(&self.acceptor.0.to_le_bytes());
        code.update(self.dialer_nonce.bytes());
        code.update(self.acceptor_nonce.bytes());
        for hello in hellos {
            code.update(&(hello.len() as u64).to_le_bytes());
            code.update(hello);
        }
        code
    }

    fn mac(&self, secret: &[u8], purpose: Purpose, hellos: &[&[u8]]) -> Mac {
        Mac::of(self.code(secret, purpose, hellos).finalize().into_bytes().into())
    }

    /// Compares in constant time.
    fn is_by(&self, secret: &[u8], purpose: Purpose, hellos: &[&[u8]], mac: &Mac) -> bool {
        BrokenRule::BelieveUnproven.is_on() || self.code(secret, purpose, hellos).verify_slice(mac.bytes()).is_ok()
    }
}

/// How an acceptor goes on after the first message of a connection.
#[derive(Debug, PartialEq)]
pub enum Opening {
    /// The HELLO is believed as it is.
    Believed(Box<Hello>),
    /// The dialler is to prove that it is this node, by this nonce of its own.
    Challenged(NodeId, Nonce),
}

/// Why a connection is not believed.
#[derive(Debug, PartialEq)]
pub enum Unbelieved {
    /// The node that it says it is does not prove it. The sentence is for both sides.
    Unproven(NodeId, &'static str),
    /// It sent something else than what comes first.
    OutOfOrder,
}

/// Decides about the first message of a connection.
pub fn open(auth: PeerAuth, first: Message) -> Result<Opening, Unbelieved> {
    match (auth, first) {
        (PeerAuth::Accept | PeerAuth::Required, Message::Hello(Hello { node, challenge: Some(nonce), .. })) => {
            Ok(Opening::Challenged(node, nonce))
        }
        (PeerAuth::Off | PeerAuth::Accept, Message::Hello(hello)) => Ok(Opening::Believed(Box::new(hello))),
        (PeerAuth::Required, Message::Hello(hello)) if BrokenRule::BelieveUnproven.is_on() => Ok(Opening::Believed(Box::new(hello))),
        (PeerAuth::Required, Message::Hello(hello)) => Err(Unbelieved::Unproven(hello.node, UNPROVEN)),
        (PeerAuth::Off, Message::Challenge(challenge)) => Err(Unbelieved::Unproven(challenge.node, NO_SECRET)),
        (PeerAuth::Accept | PeerAuth::Required, Message::Challenge(Challenge { node, nonce, .. })) => Ok(Opening::Challenged(node, nonce)),
        _ => Err(Unbelieved::OutOfOrder),
    }
}

/// An acceptor that has sent its challenge. Nobody is proven to it yet.
pub struct Accepting<'a> {
    secrets: &'a PeerSecrets,
    binding: Binding,
}

impl<'a> Accepting<'a> {
    /// Challenges a dialler that says it is node `from`. `nonce` is random. Costs a MAC for each
    /// secret, whoever asks.
    pub fn challenge(
        secrets: &'a PeerSecrets,
        own: NodeId,
        (from, dialer_nonce): (NodeId, Nonce),
        nonce: Nonce,
    ) -> (Accepting<'a>, Challenge) {
        let binding = Binding { dialer: from, acceptor: own, dialer_nonce, acceptor_nonce: nonce };
        let macs = secrets.iter().map(|secret| binding.mac(secret, Purpose::Challenge, &[])).collect();
        (Accepting { secrets, binding }, Challenge { node: own, nonce, macs })
    }

    /// Takes the dialler's HELLO if it proves that it is the node that it said it was, and knows
    /// one of the secrets. Returns what answers it. An error is for both sides.
    pub fn verify(self, proven: AuthenticatedHello) -> Result<(Hello, Answering<'a>), String> {
        let AuthenticatedHello { mac, json } = proven;
        let is_by = |secret: &&[u8]| self.binding.is_by(secret, Purpose::DialerHello, &[&json], &mac);
        let secret = self.secrets.iter().find(is_by).ok_or(WRONG)?;
        let hello = hello_of(&json, self.binding.dialer)?;
        Ok((hello, Answering { secret, binding: self.binding, dialer_hello: json }))
    }
}

/// A dialler that has sent its challenge. Nobody is proven to it yet.
pub struct Dialing<'a> {
    secrets: &'a PeerSecrets,
    own: NodeId,
    nonce: Nonce,
}

impl<'a> Dialing<'a> {
    /// `nonce` is random.
    pub fn new(secrets: &'a PeerSecrets, own: NodeId, nonce: Nonce) -> Dialing<'a> {
        Dialing { secrets, own, nonce }
    }

    /// The first message of a connection. A dialler that would also believe a node which proves
    /// nothing says HELLO at once. Otherwise it tells no more than its id before the other one is
    /// proven.
    pub fn first(&self, auth: PeerAuth, hello: Hello) -> Message {
        match auth {
            PeerAuth::Off => Message::Hello(hello),
            PeerAuth::Accept => Message::Hello(Hello { challenge: Some(self.nonce), ..hello }),
            PeerAuth::Required => Message::Challenge(Challenge { node: self.own, nonce: self.nonce, macs: Vec::new() }),
        }
    }

    /// Takes the challenge of an acceptor if it proves by that to know one of the secrets.
    pub fn verify(self, challenge: &Challenge) -> Result<ProvenAcceptor<'a>, &'static str> {
        let Challenge { node, nonce, macs } = challenge;
        let binding = Binding { dialer: self.own, acceptor: *node, dialer_nonce: self.nonce, acceptor_nonce: *nonce };
        let is_by = |secret: &&[u8]| macs.iter().take(MACS_MAX).any(|mac| binding.is_by(secret, Purpose::Challenge, &[], mac));
        let secret = self.secrets.iter().find(is_by).ok_or(WRONG)?;
        Ok(ProvenAcceptor { secret, binding })
    }
}

/// An acceptor that has proven to the dialler who it is.
pub struct ProvenAcceptor<'a> {
    secret: &'a [u8],
    binding: Binding,
}

impl<'a> ProvenAcceptor<'a> {
    /// The node that it is.
    pub fn node(&self) -> NodeId {
        self.binding.acceptor
    }

    /// Makes the dialler's own HELLO, with its proof.
    pub fn greet(self, hello: &Hello) -> (AuthenticatedHello, Answering<'a>) {
        let ProvenAcceptor { secret, binding } = self;
        let json = hello.to_json();
        let mac = binding.mac(secret, Purpose::DialerHello, &[&json]);
        (AuthenticatedHello { mac, json: json.clone() }, Answering { secret, binding, dialer_hello: json })
    }
}

/// Either side, once the dialler's HELLO is proven or sent. The acceptor's HELLO answers it.
pub struct Answering<'a> {
    secret: &'a [u8],
    binding: Binding,
    dialer_hello: Vec<u8>,
}

impl Answering<'_> {
    /// Makes the acceptor's HELLO, with its proof.
    pub fn answer(&self, hello: &Hello) -> AuthenticatedHello {
        let json = hello.to_json();
        AuthenticatedHello { mac: self.binding.mac(self.secret, Purpose::AcceptorHello, &[&self.dialer_hello, &json]), json }
    }

    /// Takes the acceptor's HELLO if its proof is right.
    pub fn verify_answer(&self, proven: &AuthenticatedHello) -> Result<Hello, String> {
        let AuthenticatedHello { mac, json } = proven;
        if !self.binding.is_by(self.secret, Purpose::AcceptorHello, &[&self.dialer_hello, json], mac) {
            return Err(WRONG.to_owned());
        }
        hello_of(json, self.binding.acceptor)
    }
}

/// Reads a HELLO that was proven by `node`.
fn hello_of(json: &[u8], node: NodeId) -> Result<Hello, String> {
    let hello = Hello::from_json(json)?;
    if hello.node != node {
        return Err(format!("it has proven that it is node {node}, and its HELLO is of node {}", hello.node));
    }
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::version::{Origin, VersionVector};
    use crate::wire::challenge::MAC_LEN;
    use crate::wire::frame::HEAD_LEN;
    use crate::wire::peer::Protocol;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    fn secret() -> PeerSecrets {
        PeerSecrets::of(&["the secret of the cluster"])
    }

    fn nonce(byte: u8) -> Nonce {
        Nonce::of([byte; MAC_LEN])
    }

    fn hello(node: NodeId) -> Hello {
        Hello {
            cluster: "kvmesh".to_owned(),
            protocol: Protocol::OLDEST,
            protocols: None,
            node,
            origin: Origin { node, nonce: 7 },
            members: vec![ONE, TWO],
            wall_ms: 1,
            clocks: None,
            durable: true,
            vector: VersionVector::default(),
            order: None,
            limits: None,
            challenge: None,
        }
    }

    /// Lets node 2 dial node 1. An error says which side refuses the other, and why.
    fn meet(dialer: (PeerAuth, &PeerSecrets), acceptor: (PeerAuth, &PeerSecrets)) -> Result<&'static str, String> {
        let dialing = Dialing::new(dialer.1, TWO, nonce(2));
        let (from, dialer_nonce) = match open(acceptor.0, dialing.first(dialer.0, hello(TWO))) {
            // The acceptor answers with HELLO.
            Ok(Opening::Believed(_)) if dialer.0 == PeerAuth::Required => return Err("the dialler: proves nothing".to_owned()),
            Ok(Opening::Believed(_)) => return Ok("believed"),
            Ok(Opening::Challenged(from, nonce)) => (from, nonce),
            Err(Unbelieved::Unproven(node, why)) => return Err(format!("node 1 of {node}: {why}")),
            Err(Unbelieved::OutOfOrder) => return Err("out of order".to_owned()),
        };
        let (accepting, challenge) = Accepting::challenge(acceptor.1, ONE, (from, dialer_nonce), nonce(1));
        let proven = dialing.verify(&challenge).map_err(|why| format!("node 2: {why}"))?;
        assert_eq!(proven.node(), ONE);
        let (greeting, answered) = proven.greet(&hello(TWO));
        let (theirs, answering) = accepting.verify(greeting)?;
        assert_eq!(theirs, hello(TWO));
        assert_eq!(answered.verify_answer(&answering.answer(&hello(ONE))), Ok(hello(ONE)));
        Ok("proven")
    }

    #[test]
    fn two_nodes_prove_themselves_where_both_can_and_are_believed_where_both_allow_it() {
        use PeerAuth::{Accept, Off, Required};
        let (none, secret) = (PeerSecrets::default(), secret());
        let both = |dialer: PeerAuth, acceptor: PeerAuth| {
            let secrets = |auth: PeerAuth| if auth == Off { &none } else { &secret };
            meet((dialer, secrets(dialer)), (acceptor, secrets(acceptor)))
        };
        // A build before this one does as a node at "off" does.
        for (dialer, acceptor) in [(Off, Off), (Off, Accept), (Accept, Off)] {
            assert_eq!(both(dialer, acceptor), Ok("believed"), "{dialer} to {acceptor}");
        }
        for (dialer, acceptor) in [(Accept, Accept), (Accept, Required), (Required, Accept), (Required, Required)] {
            assert_eq!(both(dialer, acceptor), Ok("proven"), "{dialer} to {acceptor}");
        }
        assert_eq!(both(Off, Required), Err(format!("node 1 of 2: {UNPROVEN}")));
        assert_eq!(both(Required, Off), Err(format!("node 1 of 2: {NO_SECRET}")));
    }

    #[test]
    fn one_secret_in_common_will_do() {
        let [old, both, new, other] = [&["old"][..], &["new", "old"], &["new"], &["other"]].map(PeerSecrets::of);
        let meet = |dialer, acceptor| meet((PeerAuth::Required, dialer), (PeerAuth::Accept, acceptor));
        for (dialer, acceptor) in [(&old, &both), (&both, &old), (&both, &both), (&both, &new), (&new, &both)] {
            assert_eq!(meet(dialer, acceptor), Ok("proven"), "{dialer:?} to {acceptor:?}");
        }
        for (dialer, acceptor) in [(&old, &new), (&other, &both), (&both, &other), (&new, &PeerSecrets::default())] {
            assert_eq!(meet(dialer, acceptor), Err(format!("node 2: {WRONG}")), "{dialer:?} to {acceptor:?}");
        }
    }

    /// Each MAC of a good handshake between node 2, which dials, and node 1.
    fn handshake() -> (Challenge, AuthenticatedHello, AuthenticatedHello) {
        let secrets = secret();
        let (accepting, challenge) = Accepting::challenge(&secrets, ONE, (TWO, nonce(2)), nonce(1));
        let (greeting, _) = Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).unwrap().greet(&hello(TWO));
        let (_, answering) = accepting.verify(greeting.clone()).unwrap();
        (challenge, greeting, answering.answer(&hello(ONE)))
    }

    /// Whoever replays what was sent on another connection knows no secret.
    #[test]
    fn a_proof_is_good_for_its_own_nonces_ids_and_purpose_alone() {
        let secrets = secret();
        let (challenge, greeting, answer) = handshake();
        let accepting = |from, own, nonces: (u8, u8)| Accepting::challenge(&secrets, own, (from, nonce(nonces.0)), nonce(nonces.1)).0;
        assert!(accepting(TWO, ONE, (2, 1)).verify(greeting.clone()).is_ok());
        // Replayed: each side has made another nonce.
        assert!(accepting(TWO, ONE, (2, 9)).verify(greeting.clone()).is_err());
        assert!(accepting(TWO, ONE, (9, 1)).verify(greeting.clone()).is_err());
        assert!(Dialing::new(&secrets, TWO, nonce(9)).verify(&challenge).is_err());
        // Swapped: it was made by another node, or for another one.
        assert!(accepting(NodeId(3), ONE, (2, 1)).verify(greeting.clone()).is_err());
        assert!(accepting(TWO, NodeId(3), (2, 1)).verify(greeting.clone()).is_err());
        assert!(accepting(ONE, TWO, (2, 1)).verify(greeting.clone()).is_err());
        assert!(Dialing::new(&secrets, NodeId(3), nonce(2)).verify(&challenge).is_err());
        assert!(Dialing::new(&secrets, TWO, nonce(2)).verify(&Challenge { node: NodeId(3), ..challenge.clone() }).is_err());
        // Reflected: sent back to who made it, in whatever place.
        let of_challenge = AuthenticatedHello { mac: challenge.macs[0], ..greeting.clone() };
        for mac in [of_challenge, answer.clone(), AuthenticatedHello { mac: answer.mac, ..greeting.clone() }] {
            assert!(accepting(TWO, ONE, (2, 1)).verify(mac).is_err());
        }
        let (_, answered) = Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).unwrap().greet(&hello(TWO));
        assert!(answered.verify_answer(&answer).is_ok());
        for mac in [greeting.clone(), AuthenticatedHello { mac: greeting.mac, ..answer.clone() }] {
            assert!(answered.verify_answer(&mac).is_err());
        }
        let dialing = Dialing::new(&secrets, TWO, nonce(2));
        assert!(dialing.verify(&Challenge { macs: vec![greeting.mac, answer.mac, challenge.macs[0]], ..challenge.clone() }).is_err());
        assert!(Dialing::new(&secrets, TWO, nonce(2)).verify(&Challenge { macs: Vec::new(), ..challenge }).is_err());
    }

    #[test]
    fn a_hello_that_was_changed_on_the_way_is_not_read() {
        let secrets = secret();
        let (challenge, greeting, answer) = handshake();
        for at in 0..greeting.json.len() {
            let accepting = Accepting::challenge(&secrets, ONE, (TWO, nonce(2)), nonce(1)).0;
            let mut changed = greeting.clone();
            changed.json[at] ^= 1;
            assert_eq!(accepting.verify(changed).map(drop), Err(WRONG.to_owned()), "byte {at}");
            let accepting = Accepting::challenge(&secrets, ONE, (TWO, nonce(2)), nonce(1)).0;
            let cut = AuthenticatedHello { json: greeting.json[..at].to_vec(), ..greeting.clone() };
            assert_eq!(accepting.verify(cut).map(drop), Err(WRONG.to_owned()), "cut at {at}");
        }
        // The answer is one to this HELLO.
        let other = Hello { wall_ms: 2, ..hello(TWO) };
        let (_, answered) = Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).unwrap().greet(&other);
        assert_eq!(answered.verify_answer(&answer), Err(WRONG.to_owned()));
    }

    #[test]
    fn the_hello_is_that_of_the_node_that_has_proven_itself() {
        let secrets = secret();
        let (accepting, challenge) = Accepting::challenge(&secrets, ONE, (TWO, nonce(2)), nonce(1));
        let (greeting, _) = Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).unwrap().greet(&hello(NodeId(3)));
        let refused = accepting.verify(greeting).map(drop).unwrap_err();
        assert_eq!(refused, "it has proven that it is node 2, and its HELLO is of node 3");
    }

    /// So that another program can make one: docs/protocol.md has the bytes.
    #[test]
    fn the_bytes_of_a_proof_are_those_of_the_protocol() {
        let secret = b"the secret of the cluster";
        let binding = Binding { dialer: TWO, acceptor: ONE, dialer_nonce: nonce(2), acceptor_nonce: nonce(1) };
        let message = [LABEL, &[2], &[2, 0], &[1, 0], &[2; 32], &[1; 32], &[2, 0, 0, 0, 0, 0, 0, 0], b"{}"].concat();
        let mut code = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        code.update(&message);
        assert!(binding.is_by(secret, Purpose::DialerHello, &[b"{}"], &Mac::of(code.finalize().into_bytes().into())));
    }

    /// The bodies of good messages with some bytes changed, cut or doubled. `KVMESH_FUZZ_INPUTS` is
    /// how many.
    #[test]
    fn no_change_of_a_good_message_makes_a_proof() {
        let inputs = std::env::var("KVMESH_FUZZ_INPUTS").map_or(20_000_u64, |inputs| inputs.parse().expect("a number"));
        let secrets = secret();
        let (challenge, greeting, answer) = handshake();
        let first = Challenge { macs: Vec::new(), node: TWO, nonce: nonce(2) };
        let asking = Hello { challenge: Some(nonce(2)), ..hello(TWO) };
        let messages = [
            Message::Challenge(first),
            Message::Challenge(challenge),
            Message::AuthenticatedHello(greeting),
            Message::AuthenticatedHello(answer),
            Message::Hello(asking),
            Message::Hello(hello(TWO)),
        ];
        let bodies = messages.map(|message| {
            let mut bytes = Vec::new();
            message.encode(&mut bytes, Protocol::OLDEST);
            bytes.split_off(HEAD_LEN)
        });
        let mut random = fastrand::Rng::with_seed(17);
        let mut decoded = 0;
        for _ in 0..inputs {
            let mut body = bodies[random.usize(..bodies.len())].clone();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..body.len().max(1));
                match random.u32(..4) {
                    0 => body.truncate(at),
                    1 => body.insert(at, random.u8(..)),
                    2 => body.extend_from_within(at..),
                    _ => body.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
                }
            }
            let Ok(message) = Message::decode(&body, Protocol::OLDEST) else { continue };
            decoded += 1;
            // The nonces of this connection are others than those of the recorded one.
            match &message {
                Message::AuthenticatedHello(proven) => {
                    let (accepting, challenge) = Accepting::challenge(&secrets, ONE, (TWO, nonce(2)), nonce(9));
                    assert!(accepting.verify(proven.clone()).is_err(), "an impostor is believed");
                    let (_, answered) = Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).unwrap().greet(&hello(TWO));
                    assert!(answered.verify_answer(proven).is_err(), "an impostor is believed");
                }
                Message::Challenge(challenge) => {
                    assert!(Dialing::new(&secrets, TWO, nonce(9)).verify(challenge).is_err(), "an impostor is believed")
                }
                _ => {}
            }
            assert!(!matches!(open(PeerAuth::Required, message), Ok(Opening::Believed(_))), "an impostor is believed");
        }
        println!("{inputs} inputs, of which {decoded} were messages");
    }

    proptest! {
        /// Whoever knows no secret may send what it likes.
        #[test]
        fn nothing_is_believed_of_who_knows_no_secret(mac in any::<[u8; MAC_LEN]>(), json in prop::collection::vec(any::<u8>(), 0..200), node in 0..4u16) {
            let secrets = secret();
            for json in [hello(NodeId(node)).to_json(), json.clone()] {
                let (accepting, _) = Accepting::challenge(&secrets, ONE, (NodeId(node), nonce(2)), nonce(1));
                let greeting = AuthenticatedHello { mac: Mac::of(mac), json };
                prop_assert!(accepting.verify(greeting).is_err());
            }
            let challenge = Challenge { node: NodeId(node), nonce: nonce(1), macs: vec![Mac::of(mac)] };
            prop_assert!(Dialing::new(&secrets, TWO, nonce(2)).verify(&challenge).is_err());
            if let Ok(message) = Message::decode(&json, Protocol::OLDEST) {
                prop_assert!(!matches!(open(PeerAuth::Required, message), Ok(Opening::Believed(_))));
            }
        }
    }
}
