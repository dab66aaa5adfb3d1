//! The nodes that `kvctl cluster` is to run, from the command line and a folder of configurations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvmesh::config::{CONFIG_DIR, Config, config_files};
use kvmesh::net;

use crate::command_line::ClusterArgs;
use crate::{Code, Failure};

/// The nodes to run, and the command that starts one of them again.
pub struct Choice {
    /// Sorted by number; at least one.
    pub nodes: Vec<ChosenNode>,
    restart_command: String,
}

/// One configured node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenNode {
    /// The N of its `nodeN.json`, which need not be its id.
    pub number: u32,
    pub config: PathBuf,
    /// The address at which a client on this machine reaches the node, `host:port`.
    pub client_addr: String,
}

impl Choice {
    /// Reads the configurations of the chosen nodes. One that is missing, refused or unknown is bad
    /// usage.
    pub fn read(args: &ClusterArgs) -> Result<Choice, Failure> {
        let dir = args.config_dir.as_deref().unwrap_or(Path::new(CONFIG_DIR));
        let refused = |sentence: String| Failure::new(Code::Usage, sentence);
        let mut found = numbered_configs(dir).map_err(|error| refused(format!("cannot read the folder {}: {error}", dir.display())))?;
        if found.is_empty() {
            return Err(refused(format!("{} holds no node1.json, node2.json, …", dir.display())));
        }
        if let Some(wanted) = &args.node {
            let is_wanted = |number: &u32| number.to_string() == *wanted;
            if !found.keys().any(is_wanted) {
                let numbers: Vec<String> = found.keys().map(u32::to_string).collect();
                return Err(refused(format!(
                    "found {wanted:?}, expected nothing or one of {}: the N of a {}",
                    numbers.join(" "),
                    dir.join("nodeN.json").display()
                )));
            }
            found.retain(|number, _| is_wanted(number));
        }
        let chosen = |(number, path): (u32, PathBuf)| {
            let config = Config::load(&path).map_err(|error| refused(error.to_string()))?;
            let client_addr = reachable(&config.client_addr);
            if client_addr.ends_with(":0") {
                return Err(refused(format!(
                    "{}: client_addr has port 0, and it would not be known when the node is ready; expected a port",
                    path.display()
                )));
            }
            Ok(ChosenNode { number, config: path, client_addr })
        };
        let nodes = found.into_iter().map(chosen).collect::<Result<_, _>>()?;
        let restart_command = match (&args.restart_command, &args.config_dir) {
            (Some(command), _) => command.clone(),
            (None, Some(dir)) => format!("kvctl cluster --config-dir {}", shell_quoted(&dir.to_string_lossy())),
            (None, None) => "kvctl cluster".to_owned(),
        };
        Ok(Choice { nodes, restart_command })
    }

    /// The shell command that starts one node again.
    pub fn restart_command(&self, number: u32) -> String {
        format!("{} {number}", self.restart_command)
    }
}

/// Lists the `nodeN.json` of a folder by N, which has no leading zero.
fn numbered_configs(dir: &Path) -> std::io::Result<BTreeMap<u32, PathBuf>> {
    let number = |path: &Path| -> Option<u32> {
        let digits = path.file_stem()?.to_str()?.strip_prefix("node")?;
        digits.starts_with(|first: char| matches!(first, '1'..='9')).then(|| digits.parse().ok())?
    };
    let numbered = |path: PathBuf| Some((number(&path)?, path));
    Ok(config_files(dir)?.into_iter().filter_map(numbered).collect())
}

/// The address at which this machine reaches a node: loopback, if that listens everywhere.
fn reachable(client_addr: &str) -> String {
    client_addr.parse().map_or_else(|_| client_addr.to_owned(), |addr| net::reachable(addr).to_string())
}

/// Quotes one word for a shell.
fn shell_quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-+=:,./@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, node: Option<&str>) -> ClusterArgs {
        ClusterArgs { config_dir: Some(dir.to_owned()), restart_command: None, node: node.map(str::to_owned) }
    }

    fn write(dir: &Path, name: &str, client_addr: &str) {
        let config = serde_json::json!({ "id": 1, "client_addr": client_addr, "peer_addr": "127.0.0.1:7101", "peers": [] });
        std::fs::write(dir.join(name), config.to_string()).unwrap();
    }

    fn refusal(args: &ClusterArgs) -> String {
        let failure = Choice::read(args).err().unwrap();
        assert_eq!(failure.code, Code::Usage, "{}", failure.text);
        failure.text
    }

    #[test]
    fn the_nodes_of_a_folder_come_by_number_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["node10.json", "node2.json", "node1.json", "node01.json", "node.json", "nodeX.json", "node3.json.old", "other.json"] {
            write(dir.path(), name, "127.0.0.1:7001");
        }
        let numbers =
            |node| -> Vec<u32> { Choice::read(&args(dir.path(), node)).ok().unwrap().nodes.iter().map(|node| node.number).collect() };
        assert_eq!(numbers(None), [1, 2, 10]);
        assert_eq!(numbers(Some("10")), [10]);
        for unknown in ["3", "01", "x", "", "-1"] {
            assert!(refusal(&args(dir.path(), Some(unknown))).contains("expected nothing or one of 1 2 10"));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(&args(dir.path(), None)).contains("holds no node1.json"));
        assert!(refusal(&args(&dir.path().join("none"), None)).contains("cannot read the folder"));
        write(dir.path(), "node1.json", "127.0.0.1:0");
        assert!(refusal(&args(dir.path(), None)).contains("expected a port"));
        write(dir.path(), "node1.json", "nowhere");
        let wrong = refusal(&args(dir.path(), None));
        assert!(wrong.contains("node1.json") && wrong.contains("client_addr"), "{wrong}");
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_on_loopback() {
        for (configured, reached) in [
            ("0.0.0.0:7001", "127.0.0.1:7001"),
            ("[::]:7001", "[::1]:7001"),
            ("127.0.0.2:7001", "127.0.0.2:7001"),
            ("localhost:7001", "localhost:7001"),
        ] {
            assert_eq!(reachable(configured), reached);
        }
    }

    #[test]
    fn the_command_that_starts_a_node_again_can_be_pasted() {
        for (dir, command) in [("config", "config"), ("/a/b-c_1.d", "/a/b-c_1.d"), ("it's $HOME", r"'it'\''s $HOME'")] {
            assert_eq!(shell_quoted(dir), command);
        }
        let choice = Choice { nodes: Vec::new(), restart_command: "./run-cluster.sh".to_owned() };
        assert_eq!(choice.restart_command(2), "./run-cluster.sh 2");
    }
}
