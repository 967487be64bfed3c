//! One binary: real Postgres, real NATS, real processes. The suite starts its own servers; each test has a database
//! and a subject prefix of its own, and `verify` runs over what it leaves.

mod support;

mod access;
mod bad_input;
mod bench;
mod browser;
mod commands;
mod conflicts;
mod convergence;
mod dev;
mod docs;
mod faults;
mod feeds;
mod fuzz;
mod import;
mod lifecycle;
mod limits;
mod openapi;
mod outages;
mod processes;
mod reads;
mod relay;
mod storage;
mod subscribers;
mod tidy;
mod writes;

/// Whole worlds from seeds, in a time of their own.
#[path = "../sim/mod.rs"]
mod sim;
