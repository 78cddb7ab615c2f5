//! The program `query` over logs of a small site.

#[path = "../common/mod.rs"]
mod common;
mod flaws;
mod ledger;
mod logs;
mod parquet;
