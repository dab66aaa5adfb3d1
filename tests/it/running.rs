//! A program that a test has started, and that does not outlive the test.

use std::process::{Child, ExitStatus};

use crate::cluster::{DEADLINE, until};

pub struct Running(pub Child);

impl Running {
    /// Waits for its end. Panics if it does not come.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        until("the end of a program", DEADLINE, || match self.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs on".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
