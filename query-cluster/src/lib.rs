//! Private answers to questions about flow logs that lie on several machines.
//!
//! `query` reads its logs in one pass and one process. [`Cluster`] is the same [`chaff_query::Engine`] over worker processes:
//! DataFusion plans, split by datafusion-distributed. It computes the exact table of units and nothing else. Requests, the
//! ledger, clamping, noise, kept answers and what is printed are `chaff_query`'s own, in the coordinator.
//!
//! # Map
//! [`command`] is the command line. [`Cluster`] asks workers whether they are there and see the same files ([`roll`]), and runs
//! a [`plan`] with [`functions`] that are `query`'s own code. [`worker`] is the other end, behind a [`store`] that
//! reads what it was given and writes nothing; [`link`] connects them.
//!
//! # What is promised
//! A worker runs any plan that reaches its port: only mutual TLS says who may reach it. What workers send is exact and
//! private. Engine errors may show rows, so they go to the owner's log only.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod command;
mod engine;
pub mod functions;
pub mod link;
pub mod plan;
pub mod roll;
pub mod session;
pub mod store;
mod tables;
pub mod worker;

pub use engine::{Cluster, Limits};
