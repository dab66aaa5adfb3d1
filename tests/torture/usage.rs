//! The command line of kvtorture, and the types that are valid once parsed.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use crate::schedule::FaultKind;

/// Tortures a kvmesh of real processes: clients write and read while faults are done to nodes and
/// links, and what was promised is checked.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    help_triggers("-h", "--help"),
    note = "The nodes are started on loopback, each with its data in the directory of the run. The same seed draws the same faults; their timing differs.\n\nKinds of faults: kill, stop, restart, wipe, cut-one-way, cut-two-way, hub, flap, delay, narrow, clock-ahead, deaf-peer, deaf-client, reset, flip, duplicate, disk-full.",
    example = "kvtorture --seed 7 --minutes 3\nkvtorture --faults kill,flap --nodes 5",
    error_code(0, "every check held"),
    error_code(1, "a check failed, a drawn fault had no effect, or the nodes could not be started"),
    error_code(2, "bad usage")
)]
pub struct Arguments {
    /// decides which faults are done to whom, and how the nodes are configured. Default: a random
    /// one, which is printed
    #[argh(option)]
    pub seed: Option<u64>,
    /// how long, but for the last checks, which may take half a minute more. Default: 1
    #[argh(option, default = "Minutes(Duration::from_secs(60))")]
    pub minutes: Minutes,
    /// how many nodes, from 3 to 5. Default: as the seed says
    #[argh(option)]
    pub nodes: Option<NodesLen>,
    /// only these kinds of faults
    #[argh(option, arg_name = "kind[,kind...]", default = "Kinds(FaultKind::all())")]
    pub faults: Kinds,
    /// where configuration, logs, data and, after a failure, the history go. Default: a new
    /// directory for temporary files, which is removed when every check has held
    #[argh(option, arg_name = "path")]
    pub dir: Option<PathBuf>,
    /// print the seed and the verdict only
    #[argh(switch)]
    pub quiet: bool,
}

/// A length of time in minutes, such as `3` or `0.5`.
#[derive(Clone, Copy, Debug)]
pub struct Minutes(pub Duration);

impl FromStr for Minutes {
    type Err = String;
    fn from_str(text: &str) -> Result<Minutes, String> {
        match text.parse::<f64>() {
            Ok(minutes) if (0.1..=1440.0).contains(&minutes) => Ok(Minutes(Duration::from_secs_f64(minutes * 60.0))),
            _ => Err("expected minutes, from 0.1 to 1440".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct NodesLen(pub u16);

impl FromStr for NodesLen {
    type Err = String;
    fn from_str(text: &str) -> Result<NodesLen, String> {
        match text.parse() {
            Ok(len @ 3..=5) => Ok(NodesLen(len)),
            _ => Err("expected 3, 4 or 5 nodes".to_owned()),
        }
    }
}

/// Kinds of faults without repetition, in the order of [`FaultKind::ALL`]: `kill,stop` and
/// `stop,kill` draw the same.
#[derive(Clone, Debug)]
pub struct Kinds(pub Vec<FaultKind>);

impl FromStr for Kinds {
    type Err = String;
    fn from_str(text: &str) -> Result<Kinds, String> {
        let named: Vec<FaultKind> = text.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?;
        Ok(Kinds(FaultKind::all().into_iter().filter(|kind| named.contains(kind)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_answered_with_those_that_there_are() {
        let wrong = "kill,nonsense".parse::<Kinds>().unwrap_err();
        assert!(wrong.contains("\"nonsense\"") && FaultKind::all().iter().all(|kind| wrong.contains(kind.name())), "{wrong}");
        assert_eq!("stop,kill,stop".parse::<Kinds>().unwrap().0, [FaultKind::Kill, FaultKind::Stop]);
    }

    #[test]
    fn the_help_names_every_kind() {
        let help = kvmesh::process::arguments::parse::<Arguments>("kvtorture", vec!["--help".into()]).unwrap_err().text;
        let missing: Vec<_> = FaultKind::all().into_iter().filter(|kind| !help.contains(kind.name())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        assert!("0".parse::<Minutes>().is_err() && "x".parse::<Minutes>().is_err());
        assert_eq!("0.5".parse::<Minutes>().unwrap().0, Duration::from_secs(30));
        assert!("2".parse::<NodesLen>().is_err() && "6".parse::<NodesLen>().is_err() && "3".parse::<NodesLen>().is_ok());
    }
}
