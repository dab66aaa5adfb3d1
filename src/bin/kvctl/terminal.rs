//! Output for terminals. Keys and values hold any bytes, and the other end may be no node: on a
//! terminal, no byte of either may be more than text.
//!
//! To a file or a pipe everything goes as it is.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use kvmesh::wire::quoting;
use serde_json::Value;

/// Stdout, for everything that kvctl prints there.
pub struct TerminalOut<W> {
    to: W,
    escapes: Option<Escapes>,
}

/// How a character is written that a terminal would obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// `\xHH` for each byte, as in quoted keys and values.
    Hex,
    /// `\uHHHH`, as JSON has it.
    Json,
}

/// The process's stdout, locked.
pub type Stdout = BufWriter<StdoutLock<'static>>;

impl TerminalOut<Stdout> {
    /// Locks stdout, buffered. `is_json`: the output is JSON.
    pub fn stdout(is_json: bool) -> Self {
        let out = io::stdout().lock();
        let escapes = if is_json { Escapes::Json } else { Escapes::Hex };
        let escapes = out.is_terminal().then_some(escapes);
        TerminalOut { to: BufWriter::new(out), escapes }
    }
}

impl<W: Write> TerminalOut<W> {
    #[cfg(test)]
    pub fn new(to: W, escapes: Option<Escapes>) -> TerminalOut<W> {
        TerminalOut { to, escapes }
    }

    pub fn is_terminal(&self) -> bool {
        self.escapes.is_some()
    }

    /// Writes the bytes as they are, to a terminal, too.
    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    /// Writes lines, or what they say as JSON.
    pub fn write_lines(&mut self, is_json: bool, lines: &[impl AsRef<[u8]>], json: &Value) -> io::Result<()> {
        if is_json {
            return writeln!(self, "{json}");
        }
        lines.iter().try_for_each(|line| {
            self.write_all(line.as_ref())?;
            self.write_all(b"\n")
        })
    }

    /// A key or a value as replies show it: in quotes if it would be ambiguous otherwise.
    pub fn text(&self, bytes: &[u8]) -> String {
        let is_odd = self.is_terminal() && std::str::from_utf8(bytes).is_ok_and(|text| text.contains(is_obeyed));
        if is_odd { quoting::quoted(bytes) } else { quoting::text(bytes) }
    }
}

/// Each call must bring whole characters. A character that is cut in two is shown as the bytes of
/// neither.
impl<W: Write> Write for TerminalOut<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.escapes {
            None => self.to.write(bytes),
            Some(escapes) => write_shown(&mut self.to, bytes, escapes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Prints lines on stdout, or what they say as JSON.
pub fn print_lines(is_json: bool, lines: &[impl AsRef<[u8]>], json: &Value) -> io::Result<()> {
    let mut out = TerminalOut::stdout(is_json);
    out.write_lines(is_json, lines, json)?;
    out.flush()
}

/// Prints a line on stderr. An error cannot be reported anywhere.
pub fn print_error(text: &str) {
    let mut stderr = io::stderr().lock();
    let mut line = Vec::new();
    let shown = match stderr.is_terminal() {
        true => write_shown(&mut line, text.as_bytes(), Escapes::Hex),
        false => line.write_all(text.as_bytes()),
    };
    line.push(b'\n');
    let _ = shown.and_then(|()| stderr.write_all(&line));
}

fn write_shown(out: &mut impl Write, bytes: &[u8], escapes: Escapes) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((at, obeyed)) = rest.char_indices().find(|(_, c)| is_obeyed(*c) && !matches!(c, '\n' | '\t')) {
            let (plain, from) = rest.split_at(at);
            let (character, behind) = from.split_at(obeyed.len_utf8());
            out.write_all(plain.as_bytes())?;
            match escapes {
                Escapes::Hex => write_hex(out, character.as_bytes())?,
                Escapes::Json => write!(out, "\\u{:04x}", u32::from(obeyed))?,
            }
            rest = behind;
        }
        out.write_all(rest.as_bytes())?;
        write_hex(out, chunk.invalid())?;
    }
    Ok(())
}

fn write_hex(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    bytes.iter().try_for_each(|byte| write!(out, "\\x{byte:02X}"))
}

/// True for a character that a terminal obeys instead of showing it: control characters, those of
/// eight bits included, and characters that change the direction of text or end its line.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(bytes: &[u8], escapes: Option<Escapes>) -> Vec<u8> {
        let mut out = TerminalOut::new(Vec::new(), escapes);
        out.write_all(bytes).unwrap();
        out.to
    }

    #[test]
    fn a_terminal_is_shown_escapes_and_a_pipe_gets_the_bytes() {
        let odd = "a\x1b]0;b\x07\t\u{9b}31m\u{202e}ünï\n\r".as_bytes();
        let odd = &[odd, b"\xff\x9b"].concat();
        assert_eq!(printed(odd, None), *odd);
        let hex = "a\\x1B]0;b\\x07\t\\xC2\\x9B31m\\xE2\\x80\\xAEünï\n\\x0D\\xFF\\x9B";
        assert_eq!(String::from_utf8(printed(odd, Some(Escapes::Hex))).unwrap(), hex);
        let json = "a\\u001b]0;b\\u0007\t\\u009b31m\\u202eünï\n\\u000d\\xFF\\x9B";
        assert_eq!(String::from_utf8(printed(odd, Some(Escapes::Json))).unwrap(), json);
    }

    #[test]
    fn what_a_terminal_is_shown_of_a_value_can_be_typed_as_one() {
        let mut out = TerminalOut::new(Vec::new(), Some(Escapes::Hex));
        for value in ["plain ünï", "two\nlines", "\u{9b}31m \" \\", "\u{202e}gnp.exe", "", "\\x41"] {
            let text = out.text(value.as_bytes());
            out.write_all(text.as_bytes()).unwrap();
            let shown = std::mem::take(&mut out.to);
            assert!(!String::from_utf8_lossy(&shown).contains(is_obeyed), "{shown:?}");
            assert_eq!(quoting::unquote(&shown).unwrap(), value.as_bytes(), "{value:?}");
        }
        assert_eq!(TerminalOut::new(Vec::new(), None).text("\u{202e}".as_bytes()), "\u{202e}");
    }
}
