//! One binary: real Postgres, real NATS, real processes. The suite starts its own servers; each test has a database
//! and a subject prefix of its own, and `verify` runs over what it leaves.

mod support;

mod bad_input;
mod conflicts;
mod convergence;
mod dev;
mod faults;
mod feeds;
mod import;
mod lifecycle;
mod outages;
mod processes;
mod reads;
mod relay;
mod storage;
mod tidy;
mod writes;

/// Whole worlds from seeds, in a time of their own.
#[path = "../sim/mod.rs"]
mod sim;
