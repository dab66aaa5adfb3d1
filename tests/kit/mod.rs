//! The kit for tests on real processes, shared by the integration tests and by kvtorture.
//!
//! Both include this folder as a module. It depends on nothing that a program may not depend on.

pub mod proxy;
