//! The form of the source tree, as far as a test can keep it.

use std::process::Command;

use serde_json::Value;

use crate::cluster::repository_path;

/// `cargo install` takes every program that needs no feature.
#[test]
fn what_is_installed_is_the_node_and_its_tool() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(repository_path("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
    let targets = metadata["packages"][0]["targets"].as_array().expect("a package has targets");
    let installed: Vec<&str> = targets
        .iter()
        .filter(|target| target["kind"][0] == "bin" && target.get("required-features").is_none())
        .filter_map(|target| target["name"].as_str())
        .collect();
    assert_eq!(installed, ["kvctl", "kvnode"]);
}
