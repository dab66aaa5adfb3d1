//! kvctl without a command: lines of the text protocol, typed at a prompt or read from a script,
//! and the server's replies as they are.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Context, Editor, Helper};

use kvmesh::client::{self, Client, as_error};
use kvmesh::config::{CONFIG_DIR, config_files};
use kvmesh::wire::text::{VERBS, Verb, VerbSpec};

use crate::terminal::{self, TerminalOut};
use crate::{Code, Failure, Options, credentials};

/// Bytes of a line of a script; a longer one is refused, since no server takes it.
const LINE_LEN_MAX: u64 = client::LINE_LEN_MAX as u64;
const HISTORY_LEN: usize = 1000;

/// Reads commands from a terminal until `exit` or the end of input. `node_named`: the command line
/// names a node.
pub fn run(mut options: Options, node_named: bool) -> Result<(), Failure> {
    let config = rustyline::Config::builder().completion_type(CompletionType::List).max_history_size(HISTORY_LEN);
    let config = config.and_then(|config| config.history_ignore_dups(true)).map_err(terminal_failed)?.build();
    let mut editor: Editor<VerbCompleter, FileHistory> = Editor::with_config(config).map_err(terminal_failed)?;
    if !node_named {
        match ask_node(&mut editor)? {
            Some(addr) => options.nodes = vec![addr],
            None => return Ok(()),
        }
    }
    editor.set_helper(Some(VerbCompleter));
    let history = history_file();
    if let Some(history) = &history {
        // There is no history before the first time.
        let _ = editor.load_history(history);
    }

    let mut session = PromptSession { options: &options, client: None };
    session.connect_or_report();
    loop {
        match editor.readline(&format!("{}> ", session.addr())) {
            Ok(line) => {
                let line = line.trim_start();
                match line.trim_end().to_ascii_lowercase().as_str() {
                    "" => continue,
                    "exit" | "quit" => break,
                    _ => {}
                }
                if !holds_secret(line) {
                    // The prompt works without a history.
                    let _ = editor.add_history_entry(line);
                }
                let mut out = TerminalOut::stdout(false);
                let answered = session.run(line.as_bytes(), &mut out);
                out.flush()?;
                match answered {
                    Ok(_) => {}
                    Err(failure) if session.client.is_none() => report(format_args!("{}; the next command connects again", failure.text)),
                    Err(failure) => return Err(failure),
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal_failed(error)),
        }
    }
    if let Some(history) = &history
        && let Err(error) = editor.append_history(history)
    {
        report(format_args!("kvctl: cannot write the history to {}: {error}", history.display()));
    }
    Ok(())
}

/// Sends each line of stdin and prints the replies in order, refusals among them. Ends at the first
/// command that is not answered. The exit code is 4 if any outcome is unknown, else 1 if any
/// command was refused.
pub fn run_script(options: Options) -> Result<(), Failure> {
    let mut session = PromptSession { options: &options, client: None };
    let mut input = io::stdin().lock();
    let mut out = TerminalOut::stdout(false);
    let mut worst = CommandOutcome::Done;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.len() as u64 == LINE_LEN_MAX && line.last() != Some(&b'\n') {
            return Err(Failure::new(Code::Usage, format_args!("a line of the script is longer than {LINE_LEN_MAX} bytes")));
        }
        let command = line.strip_suffix(b"\n").unwrap_or(&line);
        let command = command.strip_suffix(b"\r").unwrap_or(command);
        if command.trim_ascii().is_empty() {
            continue;
        }
        if matches!(command.trim_ascii().to_ascii_lowercase().as_slice(), b"exit" | b"quit") {
            break;
        }
        worst = worst.max(session.run(command, &mut out)?);
        out.flush()?;
    }
    // The server's own words have been printed; they explain the code.
    let failed = |code| Err(Failure { code, text: String::new() });
    match worst {
        CommandOutcome::Done => Ok(()),
        CommandOutcome::Refused => failed(Code::Refused),
        CommandOutcome::Unknown => failed(Code::Unknown),
    }
}

/// A session with one node at a time. A broken connection is made again for the next command, and
/// never for one of which a byte may have been sent.
struct PromptSession<'a> {
    options: &'a Options,
    client: Option<Client>,
}

/// How a command ended, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CommandOutcome {
    Done,
    Refused,
    /// The server replied that the outcome is unknown.
    Unknown,
}

impl PromptSession<'_> {
    fn addr(&self) -> &str {
        self.client.as_ref().map_or(&self.options.nodes[0], Client::addr)
    }

    fn connect_or_report(&mut self) {
        match self.options.connect(&self.options.nodes) {
            Ok(client) => self.client = Some(client),
            Err(error) => report(format_args!("{}; the next command tries again", Failure::from(error).text)),
        }
    }

    /// Sends one command and prints its whole reply. If the reply does not come, it fails and drops
    /// the connection.
    fn run(&mut self, command: &[u8], out: &mut impl Write) -> Result<CommandOutcome, Failure> {
        let spec = VerbSpec::find(command.split(|byte| *byte == b' ').find(|word| !word.is_empty()).unwrap_or_default());
        if spec.is_some_and(|spec| spec.verb == Verb::Restore) {
            report(format_args!("kvctl: RESTORE is followed by the lines of a dump; kvctl restore FILE sends them"));
            return Ok(CommandOutcome::Refused);
        }
        // A verb that this program does not know may be a write of a newer server.
        let is_write = spec.is_none_or(|spec| spec.writes);
        let is_long = spec.is_some_and(|spec| spec.answers_lines);
        // If the node was restarted, or has closed for another reason, this command is sent on a
        // new connection: nothing of it was sent.
        let mut client = match self.client.take().map(|mut client| (client.is_closed(), client)) {
            Some((false, client)) => client,
            _ => self.options.connect(&self.options.nodes)?,
        };
        match client.send_command(command) {
            Ok(()) => {}
            Err(client::Error::Refused { code, sentence }) => {
                // The server closed with these words.
                writeln!(out, "ERROR {code} {sentence}")?;
                return Ok(CommandOutcome::Refused);
            }
            Err(error) => return Err(Failure::of(error, is_write)),
        }
        let mut line = client.line();
        let answer = loop {
            let reply = line.map_err(|error| Failure::of(error, is_write))?;
            out.write_all(reply)?;
            out.write_all(b"\n")?;
            match as_error(reply) {
                Some(client::Error::Refused { code, .. }) if code == "NOAUTH" => {
                    report(format_args!("kvctl: {}", credentials::MISSING));
                    break CommandOutcome::Refused;
                }
                Some(client::Error::Unknown(_)) => break CommandOutcome::Unknown,
                Some(_) => break CommandOutcome::Refused,
                None if !is_long || reply == b"END" => break CommandOutcome::Done,
                None => line = client.following_line(),
            }
        };
        self.client = Some(client);
        Ok(answer)
    }
}

/// True if a line may hold a password, which belongs in no history.
fn holds_secret(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace().map(str::to_ascii_uppercase);
    match words.next().as_deref() {
        Some("AUTH") => true,
        Some("HELLO") => words.any(|word| word == "AUTH"),
        _ => false,
    }
}

/// Prints a sentence on stderr.
fn report(sentence: fmt::Arguments<'_>) {
    terminal::print_error(&sentence.to_string());
}

/// Asks which node to connect to; `None` if the user leaves instead.
fn ask_node(editor: &mut Editor<VerbCompleter, FileHistory>) -> Result<Option<String>, Failure> {
    const DEFAULT: &str = "127.0.0.1:7001";
    let configured = configured_nodes();
    let mut list = TerminalOut::stdout(false);
    for (index, (file, addr)) in configured.iter().enumerate() {
        writeln!(list, "{}) {addr}  ({file})", index + 1)?;
    }
    list.flush()?;
    drop(list);
    let choice = if configured.is_empty() { "address" } else { "number or address" };
    loop {
        let answer = match editor.readline(&format!("Which node? {choice} [{DEFAULT}]: ")) {
            Ok(answer) => answer,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
            Err(error) => return Err(terminal_failed(error)),
        };
        let answer = answer.trim();
        if answer.is_empty() {
            return Ok(Some(DEFAULT.to_string()));
        }
        if let Some((_, addr)) = answer.parse::<usize>().ok().and_then(|number| configured.get(number.wrapping_sub(1))) {
            return Ok(Some(addr.clone()));
        }
        match answer.parse::<crate::NodeAddrs>() {
            Ok(nodes) if nodes.0.len() == 1 => return Ok(nodes.0.into_iter().next()),
            Ok(_) => writeln!(io::stdout(), "one node, please")?,
            Err(wrong) => writeln!(io::stdout(), "{wrong}")?,
        }
    }
}

/// Lists the files `config/*.json` that name a client address, with that address. A file that
/// cannot be read is left out; kvnode explains what is wrong with it.
fn configured_nodes() -> Vec<(String, String)> {
    let one = |path: PathBuf| {
        let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        Some((path.display().to_string(), config.get("client_addr")?.as_str()?.to_string()))
    };
    config_files(Path::new(CONFIG_DIR)).unwrap_or_default().into_iter().filter_map(one).collect()
}

/// The history file: in the user's state directory if there is one, after the base directories of
/// freedesktop.org, else in the home directory.
fn history_file() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match dir("XDG_STATE_HOME").filter(|state| state.is_dir()) {
        Some(state) => Some(state.join("kvctl_history")),
        None => dir("HOME").map(|home| home.join(".kvctl_history")),
    }
}

fn terminal_failed(error: ReadlineError) -> Failure {
    Failure::new(Code::Usage, format_args!("cannot read from the terminal: {error}"))
}

/// Completes the first word of a line.
struct VerbCompleter;

impl Completer for VerbCompleter {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((0, completions(line.get(..pos).unwrap_or(line))))
    }
}

impl Hinter for VerbCompleter {
    type Hint = String;
}
impl Highlighter for VerbCompleter {}
impl Validator for VerbCompleter {}
impl Helper for VerbCompleter {}

/// Returns the verbs that begin with `typed`, in the case of its first letter. HELP takes a verb as
/// its word.
fn completions(typed: &str) -> Vec<String> {
    let (before, word) = match typed.split_once(' ') {
        Some((verb, word)) if verb.eq_ignore_ascii_case("help") => (typed.split_at(verb.len() + 1).0, word),
        Some(_) => return Vec::new(),
        None => ("", typed),
    };
    let upper = word.to_ascii_uppercase();
    let is_lower = typed.starts_with(|c: char| c.is_ascii_lowercase());
    let names = VERBS.iter().map(|spec| spec.name).chain(before.is_empty().then_some("EXIT"));
    let in_case = |name: &str| if is_lower { name.to_ascii_lowercase() } else { name.to_string() };
    names.filter(|name| name.starts_with(&upper)).map(|name| format!("{before}{} ", in_case(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_node::{options, scripted};
    use kvmesh::testing::wait::until;

    #[test]
    fn the_first_word_is_completed_in_the_case_it_is_typed_in() {
        assert_eq!(completions("sta"), ["status "]);
        assert_eq!(completions("P"), ["PUT ", "PERSIST ", "PEERS ", "PING "]);
        assert_eq!(completions("ex"), ["exists ", "expire ", "exit "]);
        assert_eq!(completions("help st"), ["help status "]);
        assert!(completions("get st").is_empty());
        assert!(completions("zzz").is_empty());
    }

    #[test]
    fn a_line_with_a_password_is_told_from_others() {
        for line in ["AUTH ann s3cret", "auth s3cret", "HELLO 3 AUTH ann s3cret", "hello 3 auth ann s3cret"] {
            assert!(holds_secret(line), "{line}");
        }
        for line in ["GET AUTH", "HELLO", "HELP AUTH", "SET auth 1"] {
            assert!(!holds_secret(line), "{line}");
        }
    }

    #[test]
    fn a_session_prints_replies_as_they_are_and_connects_again_for_the_next_command() {
        let node = scripted(&[
            ("GET a", "VALUE 1\n"),
            ("HELP", "one\nEND\n"),
            ("SET a 1", "ERROR TIMEOUT here only\n"),
            ("DEL b", "ERROR NOTFOUND b\n"),
        ]);
        let options = options(&[&node]);
        let mut session = PromptSession { options: &options, client: None };
        let mut out = Vec::new();
        let mut run = |command: &str| session.run(command.as_bytes(), &mut out).map_err(|failure| failure.code);
        assert_eq!(run("GET a"), Ok(CommandOutcome::Done));
        assert_eq!(run("HELP"), Ok(CommandOutcome::Done));
        assert_eq!(run("SET a 1"), Ok(CommandOutcome::Unknown));
        assert_eq!(run("DEL b"), Ok(CommandOutcome::Refused));
        // The node closes the connection at a command that it does not know.
        for write in ["UPD x 1", "INCR x", "EXPIRE x 9", "PERSIST x"] {
            assert_eq!(run(write), Err(Code::Unknown), "{write}");
        }
        assert_eq!(run("COUNT"), Err(Code::NoConnection));
        assert_eq!(run("GET a"), Ok(CommandOutcome::Done));
        // The connection was idle when the node closed it.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut idle = Client::connect(&[closed.local_addr().unwrap().to_string()], options.timeout).unwrap();
        drop(closed.accept().unwrap());
        until("the close arrives", || idle.is_closed());
        session.client = Some(idle);
        assert_eq!(session.run(b"SET a 1", &mut out).map_err(|failure| failure.code), Ok(CommandOutcome::Unknown));
        let expected = "VALUE 1\none\nEND\nERROR TIMEOUT here only\nERROR NOTFOUND b\nVALUE 1\nERROR TIMEOUT here only\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
