//! The user that kvctl is to the nodes, and `kvctl genpass`, which makes a secret.
//!
//! Owns the way of a password: from a file or the environment into `AUTH`. It is never taken from
//! the command line, which every user of the machine can read, and never printed.

use std::io::Write;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use kvmesh::client::{self, Client};
use kvmesh::process::private_file::{create_new, is_secret, read_secret};
use kvmesh::wire::resp::encoding::request;

use crate::command_line::GenpassArgs;
use crate::terminal::print_lines;
use crate::{Code, Failure};

const USER: &str = "KVMESH_USER";
const PASSWORD: &str = "KVMESH_PASSWORD";
/// The sentence for a node that answers its users alone, where kvctl was given no user.
pub const MISSING: &str = "this node answers its users alone; say which one asks: --user NAME and --password-file FILE, \
                           or KVMESH_USER and KVMESH_PASSWORD in the environment";
const SECRET_BITS: usize = 256;

/// A user's name and password. Both are one word. Has no `Debug`, so that no message shows it.
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// Takes the name and the password from the options, or from the environment where an option is
    /// not given. `None` if there is neither.
    pub fn read(
        user: Option<String>,
        password_file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Credentials>, Failure> {
        let refused = |why: String| Err(Failure::new(Code::Usage, why));
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user = user.or_else(|| variable(USER));
        let password = match password_file {
            None => variable(PASSWORD),
            Some(path) => match read_secret(path) {
                Ok(password) => Some(password),
                Err(why) => return refused(format!("--password-file {}: {why}", path.display())),
            },
        };
        match (user, password) {
            (None, None) => Ok(None),
            (Some(user), None) => {
                refused(format!("the password of user {user:?} is missing: --password-file FILE, or {PASSWORD} in the environment"))
            }
            (None, Some(_)) => refused(format!("there is a password, and no user: --user NAME, or {USER} in the environment")),
            (Some(user), Some(_)) if !is_secret(&user) => {
                refused(format!("{user:?} is no name of a user; expected printable characters without spaces"))
            }
            (Some(_), Some(password)) if !is_secret(&password) => {
                refused(format!("the password in {PASSWORD} is none; expected printable characters without spaces, as kvctl genpass makes"))
            }
            (Some(user), Some(password)) => Ok(Some(Credentials { user, password })),
        }
    }

    /// Says who asks, in the text protocol.
    pub fn show(&self, client: &mut Client) -> Result<(), client::Error> {
        let line = format!("AUTH {} {}", self.user, self.password);
        let is_believed = client.call(line.as_bytes()).map(|reply| reply == b"OK");
        self.heard(is_believed, client.addr())
    }

    /// Says who asks, in RESP.
    pub fn show_in_resp(&self, client: &mut Client) -> Result<(), client::Error> {
        let mut asked = Vec::new();
        request(&["AUTH", &self.user, &self.password], &mut asked);
        let is_believed = client.send(&asked).and_then(|()| client.reply().map(|reply| reply == b"+OK"));
        self.heard(is_believed, client.addr())
    }

    /// The outcome of AUTH. Words of the other end are not shown if they repeat the password, or if
    /// they are no reply.
    fn heard(&self, is_believed: Result<bool, client::Error>, addr: &str) -> Result<(), client::Error> {
        match is_believed {
            Ok(true) => Ok(()),
            Err(error) if !error.to_string().contains(&self.password) => Err(error),
            _ => Err(client::Error::Garbled(format!("{addr} gave AUTH no reply that it can have"))),
        }
    }
}

/// Puts kvctl's own sentence in place of that of a node to which kvctl has not said who asks.
pub fn explained(error: client::Error) -> client::Error {
    match error {
        client::Error::Refused { code, .. } if code == "NOAUTH" => client::Error::Refused { code, sentence: MISSING.to_owned() },
        error => error,
    }
}

/// Makes a secret and prints it with the hash that a configuration has. With a file, the secret
/// goes there, and only the hash is printed.
pub fn generate(is_json: bool, args: &GenpassArgs) -> Result<(), Failure> {
    let mut random = [0; SECRET_BITS / 8];
    getrandom::fill(&mut random).map_err(|error| Failure::new(Code::Refused, format_args!("the system gives no random bytes: {error}")))?;
    let secret = hex(&random);
    let hash = hash_of(&secret);
    let Some(path) = &args.file else {
        let lines = [format!("secret {secret}"), format!("secret_sha256 {hash}")];
        return Ok(print_lines(is_json, &lines, &json!({ "secret": secret, "secret_sha256": hash }))?);
    };
    let written = create_new(path).and_then(|mut file| writeln!(file, "{secret}").and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::new(Code::Refused, format_args!("cannot write a new file {}: {error}", path.display())))?;
    Ok(print_lines(is_json, &[format!("secret_sha256 {hash}")], &json!({ "secret_sha256": hash }))?)
}

/// The SHA-256 of a secret's characters, in hex: what a node compares.
fn hash_of(secret: &str) -> String {
    hex(Sha256::digest(secret.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use crate::Options;
    use crate::scripted_node::{options, scripted};

    fn read(user: Option<&str>, file: Option<&Path>, variables: &[(&str, &str)]) -> Result<Option<(String, String)>, (Code, String)> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        let read = Credentials::read(user.map(str::to_owned), file, variable);
        read.map(|read| read.map(|Credentials { user, password }| (user, password))).map_err(|failure| (failure.code, failure.text))
    }

    #[test]
    fn name_and_password_come_from_options_or_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "of-the-file\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let both = [(USER, "eve"), (PASSWORD, "of-the-shell")];
        let is = |user: &str, password: &str| Ok(Some((user.to_owned(), password.to_owned())));
        assert_eq!(read(None, None, &[]), Ok(None));
        assert_eq!(read(None, None, &[(USER, ""), (PASSWORD, "")]), Ok(None));
        assert_eq!(read(None, None, &both), is("eve", "of-the-shell"));
        assert_eq!(read(Some("ann"), None, &both), is("ann", "of-the-shell"));
        assert_eq!(read(Some("ann"), Some(&path), &both), is("ann", "of-the-file"));
        assert_eq!(read(None, Some(&path), &both), is("eve", "of-the-file"));
        for (wrong, words) in [
            (read(Some("ann"), None, &[]), "kvctl: the password of user \"ann\" is missing: --password-file FILE, or KVMESH_PASSWORD"),
            (read(None, Some(&path), &[]), "there is a password, and no user: --user NAME, or KVMESH_USER"),
            (read(Some("a b"), None, &both), "\"a b\" is no name of a user"),
            (read(Some("a"), None, &[(PASSWORD, "of the shell")]), "the password in KVMESH_PASSWORD is none"),
            (read(Some("a"), Some(dir.path()), &[]), "--password-file "),
        ] {
            let (code, text) = wrong.unwrap_err();
            assert!(code == Code::Usage && text.contains(words) && !text.contains("of the shell"), "{text}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (_, text) = read(Some("ann"), Some(&path), &both).unwrap_err();
        assert!(text.contains("others can read or write it (mode 0644)") && !text.contains("of-the-file"), "{text}");
    }

    fn as_ann(nodes: &[&str]) -> Options {
        let credentials = Some(Credentials { user: "ann".to_owned(), password: "s3cret".to_owned() });
        Options { credentials, timeout: Duration::from_millis(300), ..options(nodes) }
    }

    #[test]
    fn a_connection_says_who_asks_before_anything_else() {
        let node = scripted(&[("AUTH ann s3cret", "OK\n"), ("ACK all", "OK\n"), ("COUNT", "7\n")]);
        let options = Options { ack: Some("all".parse().unwrap()), ..as_ann(&[&node]) };
        assert_eq!(options.connect(&options.nodes).unwrap().call(b"COUNT").unwrap(), b"7");
    }

    #[test]
    fn a_refused_login_is_told_in_the_words_of_the_node_and_never_with_the_password() {
        for (reply, code, words) in [
            ("ERROR WRONGPASS invalid username-password pair\n", Code::Refused, "ERROR WRONGPASS invalid username-password pair"),
            ("ERROR UNKNOWN command \"AUTH ann s3cret\"\n", Code::NoConnection, "gave AUTH no reply"),
            ("AUTH ann s3cret\n", Code::NoConnection, "gave AUTH no reply"),
        ] {
            let node = scripted(&[("AUTH *", reply)]);
            let options = as_ann(&[&node]);
            let failure = Failure::from(options.connect(&options.nodes).map(drop).unwrap_err());
            assert!(failure.code == code && failure.text.contains(words), "{reply}: {}", failure.text);
            assert!(!failure.text.contains("s3cret"), "{}", failure.text);
        }
    }

    #[test]
    fn a_node_that_wants_a_user_is_told_in_one_sentence_with_what_helps() {
        let node = scripted(&[("GET k", "ERROR NOAUTH Authentication required.\n")]);
        let options = options(&[&node]);
        let failure = Failure::from(options.connect(&options.nodes).unwrap().call(b"GET k").map(drop).unwrap_err());
        assert_eq!((failure.code, failure.text), (Code::Refused, format!("ERROR NOAUTH {MISSING}")));
    }

    #[test]
    fn hashes_are_those_that_every_tool_makes() {
        assert_eq!(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
