//! What tests of several crates share: [`frame`] makes packets layer by layer, [`CountingAllocator`] counts allocations,
//! [`folder_in_memory`] makes a folder for tests that write often.
//!
//! It depends on no crate of Chaff, so that every crate can use it in its tests. What end-to-end tests share is in `chaff-tests`.
#![warn(missing_docs)]

mod allocations;
mod folder;
pub mod frame;

pub use allocations::{CountingAllocator, allocations};
pub use folder::folder_in_memory;
