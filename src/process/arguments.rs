//! The command line of all programs: argv in, and out a struct that argh derived, or the text and
//! the exit code to leave with.
//!
//! Owns what argh leaves open: `-h`, `--version`, `--option=value`, exit code 2 for bad usage,
//! arguments that are not UTF-8, and data that looks like an option or like `help`. The shape of
//! the command line comes from argh's own description of the struct ([`ArgsInfo`]), so there is
//! nothing to keep in step. Never knows what a command means.
//!
//! Once a command's first word is there, the words it still requires are data and are taken as they
//! are (`kvctl set k -5`, `kvctl set k help`). The first word of a command may be `-`, a negative
//! number or the word `help`. Any other first word that begins with a dash must follow `--`.

use std::ffi::OsString;
use std::io::Write;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs, Optionality};

/// An early end of the program: done, or bad usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The text to print, without a newline at its end: on stdout if the code is 0, on stderr
    /// otherwise.
    pub text: String,
    pub code: u8,
}

/// Parses this process's arguments. Exits if they ask for help or the version (stdout, code 0), or
/// if they are wrong (stderr, code 2).
#[expect(clippy::exit, reason = "at the start of a program, before it has anything to give back")]
pub fn from_env<T: FromArgs + ArgsInfo>(name: &str) -> T {
    let exit = match parse(name, std::env::args_os().skip(1).collect()) {
        Ok(parsed) => return parsed,
        Err(exit) => exit,
    };
    // A reader that has gone away (`kvctl --help | head -1`) is no reason to fail.
    let _ = match exit.code {
        0 => writeln!(std::io::stdout(), "{}", exit.text),
        _ => writeln!(std::io::stderr(), "{name}: {}\n\nTry: {name} --help", exit.text),
    };
    std::process::exit(exit.code.into())
}

/// Parses `args`, the program's name not among them.
pub fn parse<T: FromArgs + ArgsInfo>(name: &str, args: Vec<OsString>) -> Result<T, Exit> {
    let shape = T::get_args_info();
    let args = all_utf8(args, !shape.commands.is_empty())?;
    let args = normalise(name, &shape, &args)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    T::from_args(&[name], &args).map_err(|early| Exit {
        text: early.output.trim_end().to_string(),
        code: match early.status {
            Ok(()) => 0,
            Err(()) => USAGE,
        },
    })
}

const USAGE: u8 = 2;

fn usage(text: String) -> Exit {
    Exit { text, code: USAGE }
}

/// Checks that all arguments are UTF-8, which is all that argh takes. `takes_data`: the error says
/// how to pass other bytes.
fn all_utf8(args: Vec<OsString>, takes_data: bool) -> Result<Vec<String>, Exit> {
    let hint = if takes_data { "; a value of any bytes is read from stdin when - stands in its place" } else { "" };
    let one = |(index, arg): (usize, OsString)| {
        arg.into_string().map_err(|arg| usage(format!("argument {} ({arg:?}) is not UTF-8{hint}", index + 1)))
    };
    args.into_iter().enumerate().map(one).collect()
}

/// Rewrites a command line into the order that argh parses correctly: `<options> <command>
/// <options> -- <words>`.
fn normalise(name: &str, top: &CommandInfoWithArgs, args: &[String]) -> Result<Vec<String>, Exit> {
    let mut level = top;
    let mut path = vec![name];
    let mut top_options = Vec::new();
    let mut options = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut options_ended = false;

    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !options_ended && !is_word(level, words.len(), arg) {
            if arg == "--" {
                options_ended = true;
                continue;
            }
            let (option, value) = match arg.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (arg.as_str(), None),
            };
            // An option of the program as a whole may also stand behind the command: `kvctl status
            // --json`.
            let (flag, target) = match (find_flag(level, option), find_flag(top, option)) {
                (Some(flag), _) => (Some(flag), if std::ptr::eq(level, top) { &mut top_options } else { &mut options }),
                (None, flag) => (flag, &mut top_options),
            };
            match flag {
                Some(flag) if flag.long == "--help" => return Ok(help(&path)),
                Some(flag) => take_option(flag, option, value, &mut args, target)?,
                None if option == "-h" => return Ok(help(&path)),
                None if matches!(option, "--version" | "-V") => {
                    return Err(Exit { text: format!("{name} {}", env!("CARGO_PKG_VERSION")), code: 0 });
                }
                None => return Err(usage(format!("{} has no option {option}{}", path.join(" "), dash_hint(level)))),
            }
        } else if let Some(command) = level.commands.iter().find(|command| command.name == arg) {
            level = &command.command;
            path.push(command.name);
            options_ended = false;
        } else if arg == "help" && level.positionals.is_empty() {
            path.extend(args.map(String::as_str).filter(|word| level.commands.iter().any(|command| command.name == *word)).take(1));
            return Ok(help(&path));
        } else if !level.commands.is_empty() {
            return Err(usage(format!("{arg:?} is no command of {}", path.join(" "))));
        } else if words.len() == words_max(level) {
            return Err(usage(format!("{arg:?} is one word too many for {}{}", path.join(" "), expected(level))));
        } else {
            words.push(arg.clone());
        }
    }

    let mut normal = top_options;
    normal.extend(path[1..].iter().map(|command| command.to_string()));
    normal.append(&mut options);
    if !words.is_empty() {
        normal.push("--".to_string());
        normal.append(&mut words);
    }
    Ok(normal)
}

/// True if `arg` is data or the name of a command, and not an option. `taken`: how many words this
/// level has by now.
fn is_word(level: &CommandInfoWithArgs, taken: usize, arg: &str) -> bool {
    let required = level.positionals.iter().filter(|positional| positional.optionality == Optionality::Required).count();
    let begun = taken > 0 && taken < required && arg != "--";
    let plain = arg.strip_prefix('-').is_none_or(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit()));
    begun || plain
}

fn words_max(level: &CommandInfoWithArgs) -> usize {
    match level.positionals.last() {
        Some(last) if matches!(last.optionality, Optionality::Repeating | Optionality::Greedy) => usize::MAX,
        _ => level.positionals.len(),
    }
}

fn find_flag<'a>(level: &'a CommandInfoWithArgs, option: &str) -> Option<&'a FlagInfo<'static>> {
    let short = option.strip_prefix('-').and_then(|short| {
        let mut chars = short.chars();
        chars.next().filter(|_| chars.next().is_none())
    });
    level.flags.iter().find(|flag| flag.long == option || (short.is_some() && flag.short == short))
}

/// Writes one option as argh wants it: the value is a word of its own.
fn take_option<'a>(
    flag: &FlagInfo<'_>,
    option: &str,
    value: Option<&str>,
    rest: &mut impl Iterator<Item = &'a String>,
    target: &mut Vec<String>,
) -> Result<(), Exit> {
    target.push(option.to_string());
    match (&flag.kind, value) {
        (FlagInfoKind::Switch, None) => {}
        (FlagInfoKind::Switch, Some(value)) => return Err(usage(format!("{option} takes no value, and {value:?} was given"))),
        (FlagInfoKind::Option { .. }, Some(value)) => target.push(value.to_string()),
        (FlagInfoKind::Option { arg_name }, None) => match rest.next() {
            Some(value) => target.push(value.clone()),
            None => return Err(usage(format!("{option} needs a value: {option} <{arg_name}>"))),
        },
    }
    Ok(())
}

/// Returns a request for the help of one command. argh prints it if nothing else is on the command
/// line.
fn help(path: &[&str]) -> Vec<String> {
    path[1..].iter().copied().chain(["--help"]).map(str::to_string).collect()
}

fn expected(level: &CommandInfoWithArgs) -> String {
    if level.positionals.is_empty() {
        return ", which takes none".to_string();
    }
    let names: Vec<String> = level.positionals.iter().map(|positional| format!("<{}>", positional.name)).collect();
    format!(", which takes {} (a word that holds spaces needs the shell's quotes)", names.join(" "))
}

fn dash_hint(level: &CommandInfoWithArgs) -> &'static str {
    if level.positionals.is_empty() { "" } else { "; a word that begins with a dash must follow --" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a tool
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    struct Tool {
        /// be loud
        #[argh(switch)]
        loud: bool,
        /// whom to ask
        #[argh(option, short = 'n')]
        node: Option<String>,
        #[argh(subcommand)]
        command: Option<ToolCommand>,
    }

    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(subcommand)]
    enum ToolCommand {
        Set(ToolSet),
        List(ToolList),
        Ping(ToolPing),
    }

    /// write a key
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(subcommand, name = "set")]
    struct ToolSet {
        /// as they are
        #[argh(switch)]
        raw: bool,
        #[argh(positional)]
        key: String,
        #[argh(positional)]
        value: String,
    }

    /// list the keys
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(subcommand, name = "list")]
    struct ToolList {
        /// how many
        #[argh(option)]
        limit: Option<i64>,
        #[argh(positional)]
        prefix: Option<String>,
    }

    /// is it there
    #[derive(FromArgs, ArgsInfo, Debug, PartialEq)]
    #[argh(subcommand, name = "ping")]
    struct ToolPing {}

    fn tool(line: &str) -> Result<Tool, Exit> {
        parse("tool", line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect())
    }

    fn set(key: &str, value: &str) -> Option<ToolCommand> {
        Some(ToolCommand::Set(ToolSet { raw: false, key: key.to_string(), value: value.to_string() }))
    }

    fn code(line: &str) -> u8 {
        tool(line).expect_err(line).code
    }

    #[test]
    fn data_that_looks_like_an_option_or_like_help_is_data() {
        for value in ["help", "-5", "--x", "--x=v", "-", "--help", "-h", "--version", "--raw", "--loud", "set"] {
            assert_eq!(tool(&format!("set k {value}")).unwrap().command, set("k", value), "{value}");
            assert_eq!(tool(&format!("set -- {value} {value}")).unwrap().command, set(value, value), "{value}");
            assert_eq!(tool(&format!("set k -- {value}")).unwrap().command, set("k", value), "{value}");
        }
        assert_eq!(tool("set -5 v").unwrap().command, set("-5", "v"));
        assert_eq!(tool("set - -").unwrap().command, set("-", "-"));
        assert_eq!(tool("set help help").unwrap().command, set("help", "help"));
        assert_eq!(tool("set -- -- --").unwrap().command, set("--", "--"));
        assert_eq!(parse::<Tool>("tool", vec!["set".into(), "".into(), "".into()]).unwrap().command, set("", ""));
    }

    #[test]
    fn options_take_their_value_behind_an_equals_sign_or_as_the_next_word() {
        for line in ["-n a=b ping", "--node a=b ping", "--node=a=b ping", "-n=a=b ping", "ping --node a=b"] {
            assert_eq!(tool(line).unwrap().node.as_deref(), Some("a=b"), "{line}");
        }
        assert_eq!(tool("--node help ping").unwrap().node.as_deref(), Some("help"));
        assert_eq!(tool("--node= ping").unwrap().node.as_deref(), Some(""));
        assert_eq!(tool("list --limit -3").unwrap().command, Some(ToolCommand::List(ToolList { limit: Some(-3), prefix: None })));
        assert_eq!(
            tool("list pre --limit=3").unwrap().command,
            Some(ToolCommand::List(ToolList { limit: Some(3), prefix: Some("pre".into()) }))
        );
    }

    #[test]
    fn an_option_of_the_whole_program_may_stand_behind_the_command() {
        assert!(tool("ping --loud").unwrap().loud);
        let parsed = tool("set k v --raw --loud").unwrap();
        assert!(parsed.loud);
        assert_eq!(parsed.command, Some(ToolCommand::Set(ToolSet { raw: true, key: "k".into(), value: "v".into() })));
        assert_eq!(code("--raw set k v"), 2);
    }

    #[test]
    fn help_and_version_exit_with_0() {
        for line in ["-h", "--help", "help", "--loud -h", "help nonsense", "help -x"] {
            let exit = tool(line).expect_err(line);
            assert_eq!(exit.code, 0, "{line}");
            assert!(exit.text.starts_with("Usage: tool ") && exit.text.contains("--loud"), "{line}: {}", exit.text);
        }
        for line in ["set -h", "set --help", "help set", "--node x set --help"] {
            let exit = tool(line).expect_err(line);
            assert_eq!(exit.code, 0, "{line}");
            assert!(exit.text.starts_with("Usage: tool set "), "{line}: {}", exit.text);
        }
        assert_eq!(tool("ping help").unwrap_err().code, 0);
        assert_eq!(tool("--version").unwrap_err(), Exit { text: format!("tool {}", env!("CARGO_PKG_VERSION")), code: 0 });
    }

    #[test]
    fn bad_usage_exits_with_2_and_says_what_is_wrong() {
        for (line, word) in [
            ("set", "key"),
            ("set k", "value"),
            ("set k v w", "\"w\" is one word too many for tool set, which takes <key> <value>"),
            ("ping x", "takes none"),
            ("nonsense", "\"nonsense\" is no command of tool"),
            ("--nonsense", "tool has no option --nonsense"),
            ("set -k v", "must follow --"),
            ("set k v --x", "tool set has no option --x"),
            ("--loud=1 ping", "--loud takes no value"),
            ("-n", "-n needs a value"),
            ("-n a -n b ping", "duplicate"),
            ("list --limit many", "many"),
        ] {
            let exit = tool(line).expect_err(line);
            assert_eq!(exit.code, 2, "{line}");
            assert!(exit.text.contains(word), "{line}: {}", exit.text);
        }
    }

    #[test]
    fn other_bytes_than_utf_8_are_refused_in_words() {
        use std::os::unix::ffi::OsStringExt;
        let exit = parse::<Tool>("tool", vec!["set".into(), "k".into(), OsString::from_vec(vec![b'a', 0xff])]).unwrap_err();
        assert_eq!(exit.code, 2);
        assert!(exit.text.starts_with("argument 3 (\"a\\xFF\") is not UTF-8") && exit.text.contains("stdin"), "{}", exit.text);
    }
}
