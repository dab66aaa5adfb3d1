//! The kit for tests on real processes, shared by the integration tests and by kvtorture.
//!
//! Both include this folder as a module. What only one of them needs stands there: it may extend
//! the types of the kit. Nothing here depends on what a program may not depend on.

pub mod backup;
pub mod client;
pub mod cluster;
pub mod process;
pub mod proxy;
pub mod wait;
