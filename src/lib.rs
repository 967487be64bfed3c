//! Tidegate: an event-sourced sync gateway.
//!
//! Apps post batches of ops; the gateway appends them to a journal in Postgres; documents are its fold; NATS carries the
//! events to other regions and the changes to subscribers; an auditor proves the documents from the journal alone.
//!
//! Read the modules in this order. The ground, which every stage uses and which knows no stage:
pub mod access;
pub mod clock;
pub mod config;
pub mod error;
pub mod id;
pub mod json;
pub mod lifecycle;
pub mod planted;
pub mod problem;
pub mod random;
pub mod telemetry;
pub mod token;
pub mod vector;

// The pipeline, in the order that data flows.
pub mod ingest;
pub mod journal;
pub mod project;
pub mod relay;
pub mod serve;
pub mod store;

// What puts it together and what stands beside it.
pub mod cli;
pub mod gateway;
pub mod lanes;
pub mod verify;
